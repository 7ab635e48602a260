//! Whose request is next, of those a router has in its hands.
//!
//! Between priorities: stride scheduling by shares, so that a lower priority is slowed and never starved.
//! Between the teams of a priority: the virtual token counter of Sheng et al., "Fairness in Serving Large
//! Language Models" (OSDI 2024): each team has a counter of the tokens it was served, divided by its weight;
//! the smallest goes first; a team that was idle is lifted to the smallest active counter, so that idleness
//! earns no credit, or to the largest there ever was if all were idle, so that work earns no debt. What is on its way
//! counts as what it is expected to use, until it is known what it used. Inside a team and gate: first come, first served.
//!
//! Places at a provider are what is scarce, so each provider has an order of its own (`line`): what a team uses at a fast one
//! does not put it behind others at a slow one.
//!
//! Whoever waits for room in a budget or a limit is passed over, and blocks nobody: each team has one queue per gate. While
//! others are served in its place it earns no credit, as if it were idle: it comes back with a few calls' worth at most, and
//! nobody who comes meanwhile begins where it stands.

mod level;
mod line;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::ops::Bound;

use tollgate_protocol::tokens::CALL_TOKENS_MAX;
use tollgate_protocol::{Priority, Team};

use crate::served::Settlement;
use line::Line;

/// Counters are tokens times this, so that division by a weight keeps precision.
const SCALE: u64 = 1 << 10;
/// Most tokens, in and out, that one call is believed to have used.
const USED_MAX: u64 = 2 * CALL_TOKENS_MAX;
/// So many tokens may a team or a priority lag behind that was passed over, or those of some of its calls: a limit that is
/// closed for a moment, again and again, costs nobody of his share.
const CREDIT: u64 = 8_192;
/// See [`CREDIT`].
const CREDIT_CALLS: u64 = 8;
/// Idle teams whose counters are remembered, per provider and priority.
const IDLE_TEAMS_MAX: usize = 10_000;
/// Providers that are remembered. More of them are of configurations that are gone.
const PROVIDERS_MAX: usize = 256;

/// What the order depends on besides the item itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its priority.
    pub priority: Priority,
    /// Its team.
    pub team: Team,
    /// The team's weight.
    pub weight: NonZeroU32,
    /// What must be open for it to go.
    pub gate: Gate,
    /// What it is expected to cost, in tokens.
    pub tokens: u64,
}

/// What must be open for a request to go: a place at its provider, and room in its budgets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gate {
    /// The provider's name.
    pub provider: String,
    /// Its budgets, by their index.
    pub budgets: Vec<usize>,
}

impl From<&str> for Gate {
    /// Of a provider, and no budget.
    fn from(provider: &str) -> Self {
        Self { provider: provider.to_owned(), budgets: Vec::new() }
    }
}

/// Requests in a router's hands, in fair order.
#[derive(Debug)]
pub struct Queue<T> {
    /// By provider.
    lines: BTreeMap<String, Line<T>>,
    shares: [u64; 3],
    length: usize,
    /// Where something was taken out last: providers take turns.
    last: String,
    /// Numbers what comes in, so that a team's oldest open item is found over its gates.
    arrivals: i64,
    /// Numbers what is put back: always before everything else.
    returns: i64,
}

impl<T> Queue<T> {
    /// An empty queue with one share per priority, the highest first. A share of 0 counts as 1.
    pub fn new(shares: [u32; 3]) -> Self {
        Self {
            lines: BTreeMap::new(),
            shares: shares.map(|share| u64::from(share.max(1))),
            length: 0,
            last: String::new(),
            arrivals: 0,
            returns: 0,
        }
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Takes an item in.
    pub fn push(&mut self, place: Place, item: T) {
        self.insert(place, item, false);
    }

    /// Takes an item back that could not go after all: it stays first of its team, and its tokens are not
    /// counted.
    pub fn put_back(&mut self, place: Place, item: T) {
        self.refund(&place);
        self.insert(place, item, true);
    }

    /// What was taken out is not served after all, and does not come back as it was: its tokens are not counted.
    pub fn refund(&mut self, place: &Place) {
        self.settle(&Settlement::of(place));
    }

    /// What was taken out has been served: what it used is counted in place of what was expected.
    pub fn settle(&mut self, settlement: &Settlement) {
        if let Some(line) = self.lines.get_mut(&settlement.provider) {
            line.settle(settlement);
        }
    }

    fn insert(&mut self, place: Place, item: T, front: bool) {
        let number = if front {
            self.returns -= 1;
            self.returns
        } else {
            self.arrivals += 1;
            self.arrivals
        };
        if self.lines.len() >= PROVIDERS_MAX && !self.lines.contains_key(&place.gate.provider) {
            self.lines.retain(|_, line| !line.is_empty());
        }
        let shares = self.shares;
        let line = self.lines.entry(place.gate.provider.clone()).or_insert_with(|| Line::new(shares));
        line.insert(number, place, item, front);
        self.length += 1;
    }

    /// Everything that waits, each team's in its order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Place, &mut T)> {
        self.lines.values_mut().flat_map(Line::iter_mut)
    }

    /// Takes out every item for which `leaves` holds, without counting it as served.
    pub fn take_out(&mut self, leaves: impl Fn(&T) -> bool) -> Vec<(Place, T)> {
        let mut out = Vec::new();
        for line in self.lines.values_mut() {
            line.take_out(&leaves, &mut out);
        }
        self.length -= out.len();
        out
    }

    /// The next item that may go, and its place: `open` says whether a provider has a place for a priority, `room` whether
    /// all of these budgets have room.
    pub fn pop(
        &mut self,
        open: impl Fn(Priority, &str) -> bool,
        room: impl Fn(&[usize]) -> bool,
    ) -> Option<(Place, T)> {
        let pop = |(provider, line): (&String, &mut Line<T>)| {
            let taken = line.pop(|priority| open(priority, provider), &room)?;
            Some((provider.clone(), taken))
        };
        let after = (Bound::Excluded(self.last.clone()), Bound::Unbounded);
        let mut found = self.lines.range_mut::<String, _>(after).find_map(pop);
        if found.is_none() {
            found = self.lines.range_mut::<String, _>(..=self.last.clone()).find_map(pop);
        }
        let (provider, taken) = found?;
        self.last = provider;
        self.length -= 1;
        Some(taken)
    }
}

/// How far one may lag behind whose next call is expected to use so many tokens.
fn credit(tokens: u64) -> u64 {
    CREDIT.max(tokens.min(USED_MAX).saturating_mul(CREDIT_CALLS)).saturating_mul(SCALE)
}

#[cfg(test)]
mod tests;
