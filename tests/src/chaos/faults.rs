//! The faults, and how often each was fired.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::rng::Rng;
use crate::roles::Role;

/// Points of the broker where a role can be made to die or stand still, and whose they are.
pub const POINTS: &[(&str, Role)] = &[
    ("router.taken", Role::Router),
    ("router.dispatch.stored", Role::Router),
    ("router.end.stored", Role::Router),
    ("router.hold.stored", Role::Router),
    ("router.park.stored", Role::Router),
    ("router.stop.stored", Role::Router),
    ("router.removed", Role::Router),
    ("worker.taken", Role::Worker),
    ("worker.claimed", Role::Worker),
    ("worker.called", Role::Worker),
    ("worker.ended", Role::Worker),
    ("worker.handed_over", Role::Worker),
    ("worker.answered", Role::Worker),
    ("worker.usage", Role::Worker),
    ("worker.done", Role::Worker),
    ("worker.lost", Role::Worker),
];

/// What goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// SIGKILL to one process of a role; it is started again after a while.
    Kill(Role),
    /// SIGSTOP, and SIGCONT after so long.
    Stop(Role, Duration),
    /// SIGTERM, and another one in its place.
    Restart(Role),
    /// One process of a role starts anew, to die or stand still at a point.
    Point(&'static str, Role, u64, bool),
    /// SIGKILL to the nats-server; it is started again after a while.
    KillServer,
    /// SIGSTOP to the nats-server.
    StopServer(Duration),
    /// A provider misbehaves for so long.
    Provider(Trouble, Duration),
}

/// What a provider can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Connections are refused.
    Gone,
    /// All calls fail with 503.
    Overloaded,
    /// Some calls fail with 500.
    Shaky,
    /// 429 with a `Retry-After` that is a number, no number, or hostile.
    Storm,
    /// Some calls get no answer.
    Stalls,
    /// Some answers end in the middle.
    Truncates,
    /// Some answers are no JSON.
    Malforms,
    /// Answers come in small pieces.
    Drips,
    /// Connections break before the answer.
    Cuts,
}

impl Trouble {
    pub(super) const ALL: [Self; 9] = [
        Self::Gone,
        Self::Overloaded,
        Self::Shaky,
        Self::Storm,
        Self::Stalls,
        Self::Truncates,
        Self::Malforms,
        Self::Drips,
        Self::Cuts,
    ];
}

impl Fault {
    /// The n-th of all faults of a run: each kind has its turn, the rest is drawn.
    pub(super) fn draw(n: usize, rng: &mut Rng) -> Self {
        const ROLES: [Role; 4] = [Role::Router, Role::Worker, Role::Ledger, Role::Ask];
        let stop = |rng: &mut Rng| Duration::from_millis(rng.between(200, 4_000));
        match n % 20 {
            0 | 10 => Self::Kill(Role::Worker),
            1 | 11 => Self::Kill(Role::Router),
            2 => Self::KillServer,
            3 => Self::Kill(*rng.pick(&[Role::Ledger, Role::Ask])),
            4 => Self::Stop(Role::Worker, stop(rng)),
            5 => Self::Stop(*rng.pick(&ROLES), stop(rng)),
            6 => Self::StopServer(Duration::from_millis(rng.between(200, 2_000))),
            7 => Self::Restart(*rng.pick(&ROLES)),
            8 | 12 | 14 | 16 | 18 | 19 => {
                let (name, role) = *rng.pick(POINTS);
                Self::Point(name, role, rng.between(1, 12), rng.chance(25))
            }
            _ => {
                let trouble = *rng.pick(&Trouble::ALL);
                Self::Provider(trouble, Duration::from_millis(rng.between(1_000, 6_000)))
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(role) => write!(f, "kill -9 {}", role.name()),
            Self::Stop(role, _) => write!(f, "SIGSTOP {}", role.name()),
            Self::Restart(role) => write!(f, "SIGTERM {}", role.name()),
            Self::Point(name, _, _, true) => write!(f, "SIGSTOP at {name}"),
            Self::Point(name, _, _, false) => write!(f, "kill -9 at {name}"),
            Self::KillServer => f.write_str("kill -9 nats-server"),
            Self::StopServer(_) => f.write_str("SIGSTOP nats-server"),
            Self::Provider(trouble, _) => write!(f, "provider {}", format!("{trouble:?}").to_lowercase()),
        }
    }
}

/// How often each fault happened.
#[derive(Clone, Debug, Default)]
pub struct Table(BTreeMap<String, usize>);

impl Table {
    pub(super) fn add(&mut self, fault: impl fmt::Display) {
        *self.0.entry(fault.to_string()).or_default() += 1;
    }

    /// Adds what another run had.
    pub fn merge(&mut self, other: &Self) {
        for (fault, count) in &other.0 {
            *self.0.entry(fault.clone()).or_default() += count;
        }
    }

    /// Processes that were killed with SIGKILL.
    pub fn kills(&self) -> usize {
        self.0.iter().filter(|(fault, _)| fault.starts_with("kill -9")).map(|(_, count)| count).sum()
    }

    /// Each fault and how often.
    pub fn rows(&self) -> impl Iterator<Item = (&str, usize)> {
        self.0.iter().map(|(fault, count)| (fault.as_str(), *count))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (fault, count) in self.rows() {
            writeln!(f, "{count:>6}  {fault}")?;
        }
        Ok(())
    }
}
