//! What a file may say. Every key of `tollgate.toml` stands here and nowhere else: reading, the list of
//! known keys and the JSON Schema all come from these declarations, and `tollgate.example.toml` is tested
//! against them. Ranges are checked while reading; what absent keys mean is decided in `resolve`.

use serde_json::{Value, json};
use tollgate_policy::budget::{Per, Reserve, Tz, WhenSpent};
use tollgate_policy::catalog::{ModelPattern, TARGETS_MAX};
use tollgate_protocol::Priority;
use tollgate_protocol::request::{OnLimit, TTL_MS_MAX};
use tollgate_protocol::subject::Subjects;

use crate::read::{List, Map, Node, Optional, Read, Required, section};
use crate::report::{Findings, Place};
use crate::scalar::{
    BaseUrl, BudgetName, Fraction, Label, SecretText, TagText, TargetName, Usd, UsdPerMtok, Whole,
};
use crate::settings;

const HOUR_MS: u64 = 3_600_000;
pub(crate) const DAY_MS: u64 = 24 * HOUR_MS;

section! {
    /// The whole file.
    File {
        /// The first token of every subject, and in upper case the beginning of every stream name.
        subject_prefix: Optional<Subjects>,
        /// What an acknowledged request survives: "process-crash" or "power-loss".
        durability: Optional<settings::Durability>,
        /// Who answers requests, by name.
        providers: Optional<Map<Provider>>,
        /// Names that clients can ask for, beside "provider/model".
        models: Optional<Map<Model>>,
        /// Who may ask, by name.
        teams: Optional<Map<Team>>,
        /// How long things take and may take.
        timing: Optional<Timing>,
        /// How failed calls are tried again.
        retry: Optional<Retry>,
        /// What may wait.
        queue: Optional<Queue>,
        /// How long things are kept.
        retention: Optional<Retention>,
        /// Who goes first.
        scheduling: Optional<Scheduling>,
        /// What may be spent.
        budgets: Optional<List<Budget, 0, BUDGETS_MAX>>,
        /// How much may begin in a minute, and be under way.
        limits: Optional<List<Limit, 0, BUDGETS_MAX>>,
    }
}

/// Every request of a router is compared with each budget and each limit.
const BUDGETS_MAX: usize = 1_000;

section! {
    /// An entry of `[[budgets]]`
    Budget {
        /// Its name, in commands and events: 1 to 64 characters of A-Z a-z 0-9 _ -. Made of scope and window if absent.
        name: Optional<BudgetName>,
        /// Which requests it is for: those that have all that is given. An empty one is for all.
        scope: Required<Scope>,
        /// US dollars that may be spent in a window.
        limit_usd: Required<Usd>,
        /// The window: "minute", "hour", "day", "week" (from Monday), "month" or "total".
        per: Required<Per>,
        /// Where its windows of the calendar begin, as "Europe/Berlin"; "UTC" if absent.
        timezone: Optional<Tz>,
        /// What follows when it is spent: "hold", "reject" or "downgrade".
        when_spent: Optional<WhenSpent>,
        /// What is reserved before a call: an "estimate" of what it costs, or what it costs at most ("strict").
        reserve: Optional<Reserve>,
        /// Percent of the limit at which an event tells how much is spent, ascending; 50, 80 and 100 if absent.
        alert_percent: Optional<List<Whole<1, 1_000>, 0, 10>>,
    }
}

section! {
    /// An entry of `[[limits]]`
    Limit {
        /// Its name, in errors and metrics: 1 to 64 characters of A-Z a-z 0-9 _ -. Made of the scope if absent.
        name: Optional<BudgetName>,
        /// Which requests it is for: those that have all that is given. An empty one is for all.
        scope: Required<Scope>,
        /// Requests that may begin in a minute, at equal distances.
        requests_per_minute: Optional<Whole<1, 10_000_000>>,
        /// Tokens of input and output that may be used in a minute.
        tokens_per_minute: Optional<Whole<1, 1_000_000_000_000>>,
        /// Requests that may be under way at a time.
        in_flight: Optional<Whole<1, 1_000_000>>,
        /// Requests with the same body from the same caller that may begin in a minute of the clock; more are held, and an event
        /// tells of it.
        same_body_per_minute: Optional<Whole<1, 1_000_000>>,
        /// What becomes of a request that finds no room: "wait" or "reject".
        on_limit: Optional<OnLimit>,
    }
}

section! {
    /// `scope` of a budget or a limit.
    Scope {
        /// A team.
        team: Optional<Label>,
        /// A project.
        project: Optional<Label>,
        /// A virtual key, by its public name.
        key: Optional<Label>,
        /// A user.
        user: Optional<Label>,
        /// A tag, as "name=value".
        tag: Optional<TagText>,
        /// A provider that is called.
        provider: Optional<Label>,
        /// A model that is called, at any provider or as "provider/model".
        model: Optional<Label>,
    }
}

section! {
    /// `[providers.<name>]`
    Provider {
        /// How the provider is spoken to: "openai", "compatible" or "simulator".
        kind: Required<Kind>,
        /// The address of its API. Required for "compatible"; a simulator has none.
        base_url: Optional<BaseUrl>,
        /// "env:NAME", the environment variable that holds the key. Required for "openai".
        api_key: Optional<SecretText>,
        /// Several keys instead of one: the first that is usable is used.
        api_keys: Optional<List<SecretText, 1, 16>>,
        /// Calls at a time, over all workers together.
        max_in_flight: Optional<Whole<1, 100_000>>,
        /// When a call is given up.
        timeouts: Optional<Timeouts>,
        /// Its models, by the name that the provider knows.
        models: Optional<Map<ProviderModel>>,
        /// Simulator: milliseconds to the first token.
        first_token_ms: Optional<Whole<0, 600_000>>,
        /// Simulator: milliseconds to each further token.
        per_token_ms: Optional<Whole<0, 60_000>>,
        /// Simulator: failures.
        fail: Optional<Fail>,
        /// Simulator: the same seed fails the same requests.
        seed: Optional<Whole<0, { i64::MAX as u64 }>>,
    }
}

section! {
    /// `timeouts` of a provider.
    Timeouts {
        /// Milliseconds until the connection stands; at most total_ms.
        connect_ms: Optional<Whole<1, 600_000>>,
        /// Milliseconds from the connection to the status line of the answer; at most total_ms.
        first_byte_ms: Optional<Whole<1, DAY_MS>>,
        /// Milliseconds between two pieces of the answer; at most total_ms.
        idle_ms: Optional<Whole<1, DAY_MS>>,
        /// Milliseconds until the last byte of the answer.
        total_ms: Optional<Whole<1, DAY_MS>>,
    }
}

section! {
    /// `fail` of a simulator.
    Fail {
        /// The part of requests that fail, from 0 to 1.
        rate: Optional<Fraction>,
        /// The HTTP status they get.
        status: Optional<Whole<400, 599>>,
    }
}

section! {
    /// `[providers.<name>.models.<model>]`
    ProviderModel {
        /// What the model costs.
        price: Required<Price>,
    }
}

section! {
    /// `price` of a provider's model.
    Price {
        /// US dollars per million input tokens.
        input_usd_per_mtok: Required<UsdPerMtok>,
        /// US dollars per million input tokens that the provider had cached; input_usd_per_mtok if absent.
        cached_input_usd_per_mtok: Optional<UsdPerMtok>,
        /// US dollars per million output tokens.
        output_usd_per_mtok: Required<UsdPerMtok>,
    }
}

section! {
    /// `[models.<name>]`
    Model {
        /// What the name stands for, tried in this order.
        targets: Required<List<TargetName, 1, TARGETS_MAX>>,
        /// What is tried when the input is longer than the context of a target.
        on_context_too_long: Optional<List<TargetName, 1, TARGETS_MAX>>,
        /// What is tried when the content policy of a target refuses the request.
        on_content_policy: Optional<List<TargetName, 1, TARGETS_MAX>>,
    }
}

section! {
    /// `[retry]`
    Retry {
        /// Milliseconds that a provider may ask not to be called for; a longer wish is cut to this.
        retry_after_max_ms: Optional<Whole<1, HOUR_MS>>,
        /// Most milliseconds between two tries of a request.
        backoff_max_ms: Optional<Whole<100, HOUR_MS>>,
    }
}

section! {
    /// `[teams.<name>]`
    Team {
        /// Its part of what is served while others wait too.
        weight: Optional<Whole<1, 1_000>>,
        /// The highest priority it is served at: what it asks for above that is served at this.
        priority_max: Optional<Priority>,
        /// The model names it may ask for: "*", names, or beginnings such as "openai/*".
        models: Optional<List<ModelPattern, 0, 1_000>>,
    }
}

section! {
    /// `[timing]`
    Timing {
        /// Milliseconds that a message may be in silent hands before it is handed out again.
        ack_wait_ms: Optional<Whole<1_000, 600_000>>,
        /// Milliseconds that the owner of an attempt may be silent before the attempt counts as lost.
        lease_ms: Optional<Whole<1_000, 600_000>>,
        /// Time to live of a request that states no deadline, by priority.
        ttl_ms: Optional<TtlMs>,
        /// Milliseconds that a request/reply without Tollgate-Timeout waits.
        ask_timeout_ms: Optional<Whole<1, TTL_MS_MAX>>,
        /// Milliseconds that a process that was told to stop takes to finish what it has in hand.
        drain_ms: Optional<Whole<0, HOUR_MS>>,
    }
}

section! {
    /// `ttl_ms` of `[timing]`
    TtlMs {
        /// Milliseconds.
        high: Optional<Whole<1, TTL_MS_MAX>>,
        /// Milliseconds.
        normal: Optional<Whole<1, TTL_MS_MAX>>,
        /// Milliseconds.
        low: Optional<Whole<1, TTL_MS_MAX>>,
    }
}

section! {
    /// `[queue]`
    Queue {
        /// Requests of one team and priority that may wait; further ones are refused at publish.
        team_requests_max: Optional<Whole<1, 100_000_000>>,
        /// Bytes of all requests that wait; further ones are refused at publish. 0: no limit.
        total_bytes_max: Optional<Whole<0, 1_000_000_000_000_000>>,
    }
}

section! {
    /// `[retention]`
    Retention {
        /// Milliseconds that a response is kept after it was stored.
        response_ms: Optional<Whole<1_000, { 400 * DAY_MS }>>,
        /// Milliseconds that a response and its run record are kept after the deadline.
        record_after_deadline_ms: Optional<Whole<1_000, { 30 * DAY_MS }>>,
        /// Days that usage events are kept.
        usage_days: Optional<Whole<1, 3_650>>,
    }
}

section! {
    /// `[scheduling]`
    Scheduling {
        /// How much of the service each priority gets while all wait.
        shares: Optional<Shares>,
    }
}

section! {
    /// `shares` of `[scheduling]`
    Shares {
        /// A part.
        high: Optional<Whole<1, 1_000>>,
        /// A part.
        normal: Optional<Whole<1, 1_000>>,
        /// A part.
        low: Optional<Whole<1, 1_000>>,
    }
}

/// `kind` of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    OpenAi,
    Compatible,
    Simulator,
}

impl Kind {
    const NAMES: [(&str, Self); 3] =
        [("openai", Self::OpenAi), ("compatible", Self::Compatible), ("simulator", Self::Simulator)];

    /// Kinds of the contract that no worker speaks yet.
    const UNSERVED: [&str; 4] = ["anthropic", "gemini", "azure", "bedrock"];
}

impl Read for Kind {
    fn expected() -> String {
        one_of(&Self::NAMES)
    }

    fn read(node: &Node<'_>, place: &Place, findings: &mut Findings<'_>) -> Option<Self> {
        match node.get_ref().as_str() {
            Some(text) if Self::UNSERVED.contains(&text) => {
                let message =
                    format!("the kind {text:?} is not served by this version; expected {}", Self::expected());
                findings.problem(place, message);
                None
            }
            _ => choice(&Self::NAMES, node, place, findings),
        }
    }

    fn schema() -> Value {
        json!({"enum": Self::NAMES.map(|(name, _)| name)})
    }
}

const DURABILITIES: [(&str, settings::Durability); 2] =
    [("process-crash", settings::Durability::ProcessCrash), ("power-loss", settings::Durability::PowerLoss)];

impl Read for settings::Durability {
    fn expected() -> String {
        one_of(&DURABILITIES)
    }

    fn read(node: &Node<'_>, place: &Place, findings: &mut Findings<'_>) -> Option<Self> {
        choice(&DURABILITIES, node, place, findings)
    }

    fn schema() -> Value {
        json!({"enum": DURABILITIES.map(|(name, _)| name)})
    }
}

const PERS: [(&str, Per); 6] = [
    ("minute", Per::Minute),
    ("hour", Per::Hour),
    ("day", Per::Day),
    ("week", Per::Week),
    ("month", Per::Month),
    ("total", Per::Total),
];

impl Read for Per {
    fn expected() -> String {
        one_of(&PERS)
    }

    fn read(node: &Node<'_>, place: &Place, findings: &mut Findings<'_>) -> Option<Self> {
        choice(&PERS, node, place, findings)
    }

    fn schema() -> Value {
        json!({"enum": PERS.map(|(name, _)| name)})
    }
}

const WHEN_SPENT: [(&str, WhenSpent); 3] =
    [("hold", WhenSpent::Hold), ("reject", WhenSpent::Reject), ("downgrade", WhenSpent::Downgrade)];

impl Read for WhenSpent {
    fn expected() -> String {
        one_of(&WHEN_SPENT)
    }

    fn read(node: &Node<'_>, place: &Place, findings: &mut Findings<'_>) -> Option<Self> {
        choice(&WHEN_SPENT, node, place, findings)
    }

    fn schema() -> Value {
        json!({"enum": WHEN_SPENT.map(|(name, _)| name)})
    }
}

const ON_LIMIT: [(&str, OnLimit); 2] = [("wait", OnLimit::Wait), ("reject", OnLimit::Reject)];

impl Read for OnLimit {
    fn expected() -> String {
        one_of(&ON_LIMIT)
    }

    fn read(node: &Node<'_>, place: &Place, findings: &mut Findings<'_>) -> Option<Self> {
        choice(&ON_LIMIT, node, place, findings)
    }

    fn schema() -> Value {
        json!({"enum": ON_LIMIT.map(|(name, _)| name)})
    }
}

const RESERVES: [(&str, Reserve); 2] = [("estimate", Reserve::Estimate), ("strict", Reserve::Strict)];

impl Read for Reserve {
    fn expected() -> String {
        one_of(&RESERVES)
    }

    fn read(node: &Node<'_>, place: &Place, findings: &mut Findings<'_>) -> Option<Self> {
        choice(&RESERVES, node, place, findings)
    }

    fn schema() -> Value {
        json!({"enum": RESERVES.map(|(name, _)| name)})
    }
}

const PRIORITIES: [(&str, Priority); 3] =
    [("high", Priority::High), ("normal", Priority::Normal), ("low", Priority::Low)];

impl Read for Priority {
    fn expected() -> String {
        one_of(&PRIORITIES)
    }

    fn read(node: &Node<'_>, place: &Place, findings: &mut Findings<'_>) -> Option<Self> {
        choice(&PRIORITIES, node, place, findings)
    }

    fn schema() -> Value {
        json!({"enum": PRIORITIES.map(|(name, _)| name)})
    }
}

fn one_of<T>(names: &[(&str, T)]) -> String {
    let names: Vec<_> = names.iter().map(|(name, _)| format!("{name:?}")).collect();
    format!("one of {}", names.join(", "))
}

fn choice<T: Copy>(
    names: &[(&str, T)],
    node: &Node<'_>,
    place: &Place,
    findings: &mut Findings<'_>,
) -> Option<T> {
    let text = node.get_ref().as_str();
    match names.iter().find(|(name, _)| text == Some(name)) {
        Some((_, value)) => Some(*value),
        None => findings.mismatch(node, place, &one_of(names)),
    }
}
