//! The bounds of fair order (`docs/scheduling.md`), while everybody waits all the time: what two teams of a priority were
//! served, divided by their weights, and what two priorities were served, divided by their shares.

use std::collections::BTreeMap;

use tollgate_protocol::Identity;

use crate::plan::Plan;
use crate::world::Body;

/// A team at a priority, or a priority.
#[derive(Clone, Debug, Default)]
struct Side {
    weight: u64,
    /// Requests that nobody has dispatched.
    waiting: u64,
    /// Those that were, and are not answered.
    under_way: u64,
    /// Tokens used.
    served: u64,
}

/// What was seen of the order.
#[derive(Debug)]
pub(super) struct Fairness {
    /// By request: priority and team.
    of: BTreeMap<Identity, (usize, String)>,
    teams: BTreeMap<(usize, String), Side>,
    priorities: BTreeMap<usize, Side>,
    /// The most tokens of a request.
    most: u64,
    /// Some no longer wait: nothing holds between all any more.
    is_over: bool,
}

impl Fairness {
    pub(super) fn new(plan: &Plan) -> Self {
        let mut fairness = Self {
            of: BTreeMap::new(),
            teams: BTreeMap::new(),
            priorities: BTreeMap::new(),
            most: 0,
            is_over: false,
        };
        for planned in &plan.requests {
            let request = &planned.request;
            let priority = request.priority.index();
            let key = (priority, request.team.clone());
            let weight = plan.teams.get(&request.team).copied().unwrap_or(1).into();
            fairness.of.insert(crate::router::identity(request), key.clone());
            let side = fairness.teams.entry(key).or_insert_with(|| Side { weight, ..Side::default() });
            side.waiting += 1;
            let share = [16, 4, 1][priority];
            let side = fairness
                .priorities
                .entry(priority)
                .or_insert_with(|| Side { weight: share, ..Side::default() });
            side.waiting += 1;
            let output = request.output_tokens_max.unwrap_or(0);
            fairness.most = fairness.most.max(request.body_bytes as u64 + output);
        }
        fairness
    }

    /// A message was stored. Returns what is not fair.
    pub(super) fn stored(&mut self, subject: &str, body: &Body) -> Vec<String> {
        match body {
            Body::Job(job) if subject.starts_with("llm.dispatch.") => {
                let Some(key) = self.of.get(&job.identity) else { return Vec::new() };
                for side in [self.teams.get_mut(key), self.priorities.get_mut(&key.0)].into_iter().flatten() {
                    side.waiting = side.waiting.saturating_sub(1);
                    side.under_way += 1;
                    self.is_over |= side.waiting == 0;
                }
                Vec::new()
            }
            Body::Usage(event) if event.is_final => {
                let Some(key) = self.of.get(&event.identity()) else { return Vec::new() };
                let tokens = event.usage.input_tokens + event.usage.output_tokens;
                for side in [self.teams.get_mut(key), self.priorities.get_mut(&key.0)].into_iter().flatten() {
                    side.under_way = side.under_way.saturating_sub(1);
                    side.served += tokens;
                }
                if self.is_over { Vec::new() } else { self.unfair() }
            }
            _ => Vec::new(),
        }
    }

    fn unfair(&self) -> Vec<String> {
        let mut unfair = Vec::new();
        let under_way: u64 = self.priorities.values().map(|side| side.under_way).sum();
        let mut compare = |what: String, one: &Side, other: &Side| {
            // What is under way counts as expected, which may be wrong by as much as a request can use.
            let ahead = one.served * other.weight;
            let behind = (other.served + (other.under_way + 1) * self.most) * one.weight;
            let slack = (under_way + 2) * self.most * other.weight;
            if ahead > behind + slack {
                unfair.push(format!("{what}: {one:?}, {other:?}"));
            }
        };
        for (key, one) in &self.teams {
            let same = self.teams.iter().filter(|(other, _)| other.0 == key.0 && *other != key);
            same.for_each(|(other, side)| compare(format!("order of {} and {}", key.1, other.1), one, side));
        }
        for (key, one) in &self.priorities {
            let others = self.priorities.iter().filter(|(other, _)| *other != key);
            others.for_each(|(other, side)| compare(format!("shares of {key} and {other}"), one, side));
        }
        unfair
    }
}
