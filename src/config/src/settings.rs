//! What the program uses: complete, consistent, and only made by [`crate::load`] or [`crate::zero`].
//!
//! Every default of an absent key stands here, in a `Default`, and nowhere else.

use std::collections::BTreeMap;

use tollgate_policy::budget::Budgets;
use tollgate_policy::catalog::{Catalog, Teams};
use tollgate_policy::hot::Hot;
use tollgate_policy::retry::Rules;
use tollgate_protocol::{Price, Priority, subject::Subjects};

use crate::Secret;

/// The whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Subjects and stream names under the configured prefix.
    pub subjects: Subjects,
    /// What survives which failure.
    pub durability: Durability,
    /// Who answers requests, by name. A name is 1 to 32 characters of `A-Z a-z 0-9 _ -`.
    pub providers: BTreeMap<String, Provider>,
    /// What clients can ask for. Every target in it is a model of one of `providers`.
    pub catalog: Catalog,
    /// Who may ask; at least one.
    pub teams: Teams,
    /// What may be spent. No two have the same name.
    pub budgets: Budgets,
    /// How long things take and may take.
    pub timing: Timing,
    /// How failed calls are tried again.
    pub retry: Rules,
    /// What may wait.
    pub queue: Queue,
    /// How long things are kept.
    pub retention: Retention,
    /// How much of the service each priority gets while all wait, in the order of [`Priority::ALL`]; none
    /// is 0, so none starves.
    pub shares: [u32; 3],
    /// What is allowed but probably not meant; each names its place in the file.
    pub warnings: Vec<String>,
}

impl Settings {
    /// What of it may change while everything runs.
    pub fn hot(&self, version: u64) -> Hot {
        Hot {
            version,
            catalog: self.catalog.clone(),
            teams: self.teams.clone(),
            budgets: self.budgets.clone(),
        }
    }
}

/// The shares of the priorities in a file that has none: high, normal, low.
pub const SHARES: [u32; 3] = [16, 4, 1];

/// A provider of models.
#[derive(Clone, Debug, PartialEq)]
pub struct Provider {
    /// How it is spoken to.
    pub kind: ProviderKind,
    /// Where it is, without a slash at the end. `None` only for a simulator, which gets its address when it
    /// is started.
    pub base_url: Option<String>,
    /// What it is shown as the bearer token: the first that is usable.
    pub api_keys: Vec<Secret>,
    /// Calls at a time, over all workers together.
    pub max_in_flight: u32,
    /// When a call is given up.
    pub timeouts: Timeouts,
    /// Its models, and what they cost.
    pub models: BTreeMap<String, Price>,
}

/// How a provider is spoken to.
#[derive(Clone, Debug, PartialEq)]
pub enum ProviderKind {
    /// OpenAI.
    OpenAi,
    /// Anything else that speaks OpenAI's HTTP API.
    Compatible,
    /// The simulator inside the binary.
    Simulator(SimulatorSettings),
}

/// How a simulator behaves.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatorSettings {
    /// Time to the first token, in milliseconds.
    pub first_token_ms: u64,
    /// Time to each further token, in milliseconds.
    pub per_token_ms: u64,
    /// The part of requests that fail: 0 to 1.
    pub fail_rate: f64,
    /// The HTTP status of those: 400 to 599.
    pub fail_status: u16,
    /// The same seed fails the same requests.
    pub seed: u64,
}

impl Default for SimulatorSettings {
    fn default() -> Self {
        Self { first_token_ms: 0, per_token_ms: 0, fail_rate: 0.0, fail_status: 503, seed: 0 }
    }
}

/// When a call is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the connection stands, in milliseconds; at most `total_ms`.
    pub connect_ms: u64,
    /// From the connection to the status line, in milliseconds; at most `total_ms`.
    pub first_byte_ms: u64,
    /// Between two pieces of the answer, in milliseconds; at most `total_ms`.
    pub idle_ms: u64,
    /// Until the last byte of the answer, in milliseconds.
    pub total_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect_ms: 5_000, first_byte_ms: 600_000, idle_ms: 60_000, total_ms: 600_000 }
    }
}

/// How long things take and may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a message may be in silent hands before the server hands it out again, in milliseconds.
    pub ack_wait_ms: u64,
    /// How long the owner of an attempt may be silent before the attempt counts as lost, in milliseconds.
    pub lease_ms: u64,
    /// From acceptance to the deadline of a request that asks for none, in milliseconds, in the order of
    /// [`Priority::ALL`].
    pub ttl_ms: [u64; 3],
    /// The same for a request/reply without `Tollgate-Timeout`, in milliseconds.
    pub ask_timeout_ms: u64,
    /// How long a process that was told to stop finishes what it has in hand, in milliseconds.
    pub drain_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            ack_wait_ms: 30_000,
            lease_ms: 30_000,
            ttl_ms: [600_000, 3_600_000, 86_400_000],
            ask_timeout_ms: 60_000,
            drain_ms: 30_000,
        }
    }
}

impl Timing {
    /// The time to live of a request of this priority that asks for none, in milliseconds.
    pub fn ttl_ms(&self, priority: Priority) -> u64 {
        self.ttl_ms[priority.index()]
    }
}

/// What may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Requests of one team and priority; further ones are refused at publish. It is only ever raised on a
    /// running installation, since a server that is told to keep fewer deletes accepted requests.
    pub team_requests_max: u64,
    /// Bytes of all requests together, for a store that has to have room for answers too. Where there was no limit, none is
    /// made: for the same reason.
    pub total_bytes_max: Option<u64>,
}

impl Default for Queue {
    fn default() -> Self {
        Self { team_requests_max: 1_000_000, total_bytes_max: None }
    }
}

/// How long things are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// A response, from the answer on, in milliseconds.
    pub response_ms: u64,
    /// A response and the run record of a request, from its deadline on, in milliseconds.
    pub record_after_deadline_ms: u64,
    /// A usage event, in days.
    pub usage_days: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self { response_ms: 86_400_000, record_after_deadline_ms: 3_600_000, usage_days: 400 }
    }
}

/// What an acknowledged publish survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// A crash of any process, the nats-server included.
    #[default]
    ProcessCrash,
    /// A loss of power as well: the server syncs every write to the disk.
    PowerLoss,
}
