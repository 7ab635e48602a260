//! Which requests let go of their place in a router's hands while they wait.
//!
//! A router holds a few messages of a lane at a time. What waits for a budget or a limit that is not for its whole team (a
//! user's, a key's, a model's), or for a budget that has too little left for this request alone, would fill these places,
//! and others of the same team and priority would wait behind it. So it steps aside: it stays in hand, and its place is free for the next of the lane. Only so many may, or a flood of one
//! user would move from the store into the memory of routers; the others keep their places, and their lane waits.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use tollgate_protocol::{Team, Timestamp};

use crate::budget::Budgets;
use crate::order::Gate;

/// How long a request waits before it steps aside: what is held up for less disturbs nobody.
const AFTER: TimeDelta = TimeDelta::milliseconds(200);
/// Most that do, of a team and what it waits for.
const GATE_MAX: usize = 128;
/// Most that do, of all.
const ALL_MAX: usize = 2_048;
/// Most bytes of them, of all.
const BYTES_MAX: usize = 64 << 20;

/// What a request in hand is to this.
#[derive(Clone, Copy, Debug)]
pub struct Waiting<'a> {
    /// Its team.
    pub team: &'a Team,
    /// What it waits for.
    pub gate: &'a Gate,
    /// Its size, in bytes.
    pub bytes: usize,
    /// Since when it is in hand.
    pub since: Timestamp,
    /// Whether it has stepped aside already.
    pub is_aside: bool,
    /// Whether what it waits for has too little left for it alone.
    pub is_too_large: bool,
}

/// Goes over everything that waits: first those that are aside, then the others, the oldest first.
#[derive(Debug)]
pub struct Aside<'a> {
    budgets: &'a Budgets,
    now: Timestamp,
    of_gate: BTreeMap<(&'a Gate, &'a Team), usize>,
    all: usize,
    bytes: usize,
}

impl<'a> Aside<'a> {
    /// Among these budgets and limits.
    pub fn new(budgets: &'a Budgets, now: Timestamp) -> Self {
        Self { budgets, now, of_gate: BTreeMap::new(), all: 0, bytes: 0 }
    }

    /// Counts one that is aside.
    pub fn count(&mut self, waiting: Waiting<'a>) {
        *self.of_gate.entry((waiting.gate, waiting.team)).or_default() += 1;
        self.all += 1;
        self.bytes = self.bytes.saturating_add(waiting.bytes);
    }

    /// Whether one steps aside now; `has_room` says whether a budget may be tried.
    pub fn steps(&mut self, waiting: Waiting<'a>, has_room: impl Fn(usize) -> bool) -> bool {
        let keeps = |index: &usize| {
            !has_room(*index) && (waiting.is_too_large || self.budgets.is_for_part_of_a_team(*index))
        };
        let of_gate = self.of_gate.get(&(waiting.gate, waiting.team)).copied().unwrap_or(0);
        let steps = !waiting.is_aside
            && waiting.since + AFTER <= self.now
            && of_gate < GATE_MAX
            && self.all < ALL_MAX
            && self.bytes.saturating_add(waiting.bytes) <= BYTES_MAX
            && waiting.gate.budgets.iter().any(keeps);
        if steps {
            self.count(waiting);
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::tests::{at, budget};
    use crate::budget::{Budget, Scope};

    #[test]
    fn only_who_waits_for_a_part_of_its_team_steps_aside_and_not_too_many() {
        let user = Scope { user: Some("ann".into()), ..Scope::default() };
        let budgets = Budgets([budget("team", "1"), Budget { scope: user, ..budget("user", "1") }].into());
        let team = Team::parse("team").unwrap();
        let gate = |budgets: &[usize]| Gate { provider: "sim".into(), budgets: budgets.to_vec() };
        let (whole, both) = (gate(&[0]), gate(&[0, 1]));
        let waiting = |gate, bytes, since| Waiting {
            team: &team,
            gate,
            bytes,
            since: at(since),
            is_aside: false,
            is_too_large: false,
        };
        let mut aside = Aside::new(&budgets, at(10));
        let closed = |index| index != 1;
        assert!(
            !aside.steps(waiting(&whole, 1, 0), |_| false),
            "the whole team waits, and stays in its lane"
        );
        assert!(!aside.steps(waiting(&both, 1, 0), |_| true), "it waits for something else");
        assert!(!aside.steps(waiting(&both, 1, 10), closed), "it has just come");
        assert!(!aside.steps(waiting(&both, BYTES_MAX + 1, 0), closed));
        let stepped = (0..1_000).filter(|_| aside.steps(waiting(&both, 1, 0), closed)).count();
        assert_eq!(stepped, GATE_MAX);
        let large = |gate| Waiting { is_too_large: true, ..waiting(gate, 1, 0) };
        assert!(Aside::new(&budgets, at(10)).steps(large(&whole), |_| false), "its team has room for others");
        let again = Waiting { is_aside: true, ..waiting(&both, 1, 0) };
        assert!(!Aside::new(&budgets, at(10)).steps(again, closed));
    }
}
