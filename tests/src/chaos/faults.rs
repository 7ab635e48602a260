//! The faults, and how often each was fired.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::rng::Rng;
use crate::roles::Role;

/// Points of the broker where a role can be made to die or stand still, whose they are, and at the latest at which
/// pass: few are enough where only some requests come by.
pub const POINTS: &[(&str, Role, u64)] = &[
    ("router.taken", Role::Router, 12),
    ("router.reserve.stored", Role::Router, 12),
    ("router.reserved", Role::Router, 12),
    ("router.numbered", Role::Router, 6),
    ("router.dispatch.stored", Role::Router, 12),
    ("router.end.stored", Role::Router, 3),
    ("router.hold.stored", Role::Router, 3),
    ("router.park.stored", Role::Router, 3),
    ("router.stop.stored", Role::Router, 2),
    ("router.removed", Role::Router, 3),
    ("worker.taken", Role::Worker, 12),
    ("worker.claimed", Role::Worker, 12),
    ("worker.called", Role::Worker, 12),
    ("worker.ended", Role::Worker, 3),
    ("worker.handed_over", Role::Worker, 2),
    ("worker.answered", Role::Worker, 12),
    ("worker.usage", Role::Worker, 12),
    ("worker.done", Role::Worker, 12),
    ("worker.lost", Role::Worker, 1),
    ("ledger.settle", Role::Ledger, 12),
];

/// Those that only few requests come by.
const RARE: [&str; 3] = ["worker.ended", "worker.handed_over", "worker.lost"];

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
    /// Whether calls that are under way can get no result by it.
    pub(super) fn loses_calls(&self) -> bool {
        match self {
            Self::Kill(role) | Self::Stop(role, _) | Self::Restart(role) | Self::Point(_, role, ..) => {
                *role == Role::Worker
            }
            Self::KillServer | Self::StopServer(_) => true,
            Self::Provider(..) => false,
        }
    }

    /// So many faults: every kind once, in drawn order, then all of them again.
    pub(super) fn draw(count: usize, rng: &mut Rng) -> Vec<Self> {
        let mut drawn = Vec::new();
        while drawn.len() < count {
            let mut deck = Self::deck(rng);
            for place in (1..deck.len()).rev() {
                deck.swap(place, usize::try_from(rng.between(0, place as u64)).unwrap_or_default());
            }
            drawn.append(&mut deck);
        }
        drawn.truncate(count);
        drawn
    }

    /// Each kind of fault, those that take most with them more than once.
    fn deck(rng: &mut Rng) -> Vec<Self> {
        const ROLES: [Role; 4] = [Role::Router, Role::Worker, Role::Ledger, Role::Ask];
        let stop = |rng: &mut Rng| Duration::from_millis(rng.between(200, 4_000));
        let mut deck = vec![
            Self::Kill(Role::Worker),
            Self::Kill(Role::Router),
            Self::KillServer,
            Self::StopServer(Duration::from_millis(rng.between(200, 2_000))),
        ];
        for role in ROLES {
            deck.extend([Self::Kill(role), Self::Stop(role, stop(rng)), Self::Restart(role)]);
        }
        for (name, role, often) in POINTS {
            // Where few requests come by, a process is often waited for in vain.
            let times = if RARE.contains(name) { 2 } else { 1 };
            for is_stop in [false, true].repeat(times) {
                deck.push(Self::Point(name, *role, rng.between(1, *often), is_stop));
            }
        }
        for trouble in Trouble::ALL {
            deck.push(Self::Provider(trouble, Duration::from_millis(rng.between(1_000, 6_000))));
        }
        deck
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
