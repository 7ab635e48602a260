//! What is reserved for a request and not over.

use std::collections::BTreeSet;

use tollgate_protocol::budget::Counter;
use tollgate_protocol::usage::{Kind, UsageEvent};

use super::{Account, Line, key};
use crate::budget::Budgets;

impl Account {
    /// Whether everything that a call is charged to has a reservation of its own that stands, or is charged already. If not, it
    /// may only be that its entry was not read yet. A reservation for an attempt before does not say: it may cover this one,
    /// which its worker made by itself, or there may be another one.
    pub fn is_reserved_for(&self, event: &UsageEvent, budgets: &Budgets) -> bool {
        if !matches!(event.kind, Kind::Attempt | Kind::Lost) || self.attempts.contains_key(&key(event)) {
            return true;
        }
        let mut charged = budgets.of_event(event).filter(|budget| budget.measure.unit().is_some());
        charged.all(|budget| {
            let windows = self.reserved.get(&budget.name).and_then(|starts| starts.get(&event.attempt));
            windows.is_some_and(|windows| windows.values().any(|held| !held.tries.is_empty()))
        })
    }

    /// The tries to reserve for an attempt that are not over: the counter, the try, and what it reserved.
    pub fn open(&self, attempt: u32, budgets: &Budgets) -> Vec<(Counter, String, i64)> {
        let lines = self.lines(budgets, |_| None).into_iter();
        lines
            .filter(|line| line.attempt == attempt && line.cost.is_none())
            .flat_map(|line| {
                let of_counter = move |(tried, amount)| (line.counter.clone(), tried, amount);
                line.tries.into_iter().map(of_counter)
            })
            .collect()
    }

    /// The counters in which something is reserved for an attempt or one before it, and not over. Where it is for one before,
    /// trying to reserve for this one ends it.
    pub fn held_in(&self, attempt: u32, budgets: &Budgets) -> BTreeSet<Counter> {
        let lines = self.lines(budgets, |_| None).into_iter();
        let is_held = |line: &Line| {
            (1..=attempt).contains(&line.attempt) && line.cost.is_none() && !line.tries.is_empty()
        };
        lines.filter(is_held).map(|line| line.counter).collect()
    }
}
