//! Limits of requests per minute: in no time do more requests begin than it has slots for, and one more.
//!
//! A request begins when its router hands it to the provider's queue: at its last look at the clock before it sends the
//! message, if that is stored in the end. What a stopped process, the network and the server take from there is not in it.
//! A message that is refused has not begun, and one that is stored again has begun once.

use std::collections::{BTreeMap, BTreeSet};

use tollgate_model::Micros;
use tollgate_policy::budget::Measure;
use tollgate_protocol::Identity;

use super::Checks;
use crate::plan::SECOND;
use crate::world::Body;

const MINUTE: Micros = 60 * SECOND;

/// When requests began.
#[derive(Debug, Default)]
pub(super) struct Starts {
    /// By the id of a message: when a router last handed it over, and whether that is stored.
    handed_over: BTreeMap<String, (Micros, bool)>,
    /// By limit, in order.
    begun: BTreeMap<String, Vec<Micros>>,
    /// Which have.
    requests: BTreeSet<Identity>,
}

impl Checks {
    /// Counts what happens beside what is stored.
    pub fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// A router hands a request to a provider's queue now, under this id.
    pub fn hands_over(&mut self, id: &str, now: Micros) {
        if self.plan.budgets.0.iter().any(|limit| limit.measure == Measure::Rate) {
            self.starts.handed_over.insert(id.to_owned(), (now, false));
        }
    }

    /// A message was stored under this id.
    pub fn handed_over(&mut self, subject: &str, body: &Body, id: Option<&str>) {
        let Body::Job(job) = body else { return };
        let team = job.identity.team.as_str();
        let is_of_it = |team_of: &Option<String>| team_of.as_deref().is_none_or(|of| of == team);
        let rates = self.plan.budgets.0.iter().filter(|limit| limit.measure == Measure::Rate);
        let limits: Vec<(String, i64)> = rates
            .filter(|limit| is_of_it(&limit.scope.team))
            .map(|limit| (limit.name.clone(), limit.limit))
            .collect();
        if limits.is_empty() || !subject.starts_with("llm.dispatch.") {
            return;
        }
        let at = match id.and_then(|id| self.starts.handed_over.get_mut(id)) {
            Some((_, true)) => return,
            Some((at, is_stored)) => {
                *is_stored = true;
                *at
            }
            // A worker hands what it was given to another provider by itself.
            None if self.starts.requests.contains(&job.identity) => return,
            None => return self.broken(format!("{}: no router handed it over", job.identity)),
        };
        self.starts.requests.insert(job.identity.clone());
        // Clocks that jump let begin what comes in so far ahead.
        let ahead = self.skew();
        self.saw("start under a rate");
        for (name, per_minute) in limits {
            let begun = self.starts.begun.entry(name.clone()).or_default();
            let place = begun.partition_point(|other| *other <= at);
            begun.insert(place, at);
            if let Some((count, from, until)) = crowd(begun, per_minute, ahead) {
                let (from, until) = (Self::time(from), Self::time(until));
                self.broken
                    .push(format!("{name}: {count} begin from {from} to {until}, of {per_minute} a minute"));
            }
        }
    }
}

/// Requests that begin in too short a time: how many, from when, until when.
///
/// Of `n` that have slots of their own the first and the last slot are `n - 1` apart, and each begins within its own: so
/// they take longer than `n - 2` slots.
fn crowd(begun: &[Micros], per_minute: i64, ahead: Micros) -> Option<(usize, Micros, Micros)> {
    let per_minute = u64::try_from(per_minute).unwrap_or(1);
    for (first, from) in begun.iter().enumerate() {
        for (count, until) in (1_usize..).zip(&begun[first..]) {
            let slots = (count as u64).saturating_sub(2);
            if slots * MINUTE > (until - from + ahead) * per_minute {
                return Some((count, *from, *until));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::MS;

    #[test]
    fn one_more_than_there_are_slots_may_begin_and_not_two() {
        let at = |ms: &[u64]| -> Vec<Micros> { ms.iter().map(|ms| ms * MS).collect() };
        // Slots of 100 ms.
        for (begun, count) in [
            (at(&[0, 100, 200, 300]), None),
            (at(&[99, 100, 200, 300]), None),
            (at(&[50, 50]), None),
            (at(&[50, 50, 50]), Some(3)),
            (at(&[0, 20, 99]), Some(3)),
            (at(&[0, 500, 501, 600, 650]), Some(4)),
        ] {
            assert_eq!(crowd(&begun, 600, 0).map(|(count, ..)| count), count, "{begun:?}");
        }
        assert_eq!(crowd(&at(&[0, 0, 0, 0]), 600, 200 * MS), None);
        assert!(crowd(&at(&[0, 0, 0, 0, 0]), 600, 200 * MS).is_some());
    }
}
