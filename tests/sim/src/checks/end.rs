//! What must hold once nothing goes wrong any more and everything had its time.

use std::collections::BTreeMap;

use tollgate_policy::budget::{Budget, Measure};
use tollgate_protocol::Identity;
use tollgate_protocol::response::Status;
use tollgate_protocol::usage::{Kind, UsageEvent};

use super::{Accepted, Answered, Calling, Checks};
use crate::plan::{FAULTS_END, LATE};
use crate::world::World;

impl Checks {
    /// Looks at everything.
    pub fn at_the_end(&mut self, world: &World) {
        let mut broken = Vec::new();
        self.answers(world, &mut broken);
        self.calls(world, &mut broken);
        self.money(world, &mut broken);
        self.streams(world, &mut broken);
        self.broken.extend(broken);
    }

    fn answers(&self, world: &World, broken: &mut Vec<String>) {
        // These only have requests wait.
        let is_free = self.plan.budgets.0.iter().all(|budget| budget.measure == Measure::Rate);
        for (identity, copies) in &self.accepted {
            let Some(answered) = self.answered.get(identity) else {
                broken.push(format!("{identity}: no answer; {copies:?}, {:?}", self.stages.get(identity)));
                continue;
            };
            let of_it: Vec<&Accepted> =
                copies.iter().filter(|copy| copy.digest == answered.answer.answered.digest).collect();
            if of_it.is_empty() {
                broken.push(format!("{identity}: the answer is of a body that nobody published"));
                continue;
            }
            self.timing(&identity.to_string(), answered, &of_it, broken);
            let response = &answered.answer.response;
            match response.status {
                Status::Cancelled if !self.cancelled.contains(identity) => {
                    broken.push(format!("{identity}: cancelled by nobody"));
                }
                Status::Rejected if !of_it.iter().any(|copy| copy.is_invalid) && is_free => {
                    broken.push(format!("{identity}: rejected for nothing"));
                }
                Status::Succeeded => {
                    let body = response.body.as_ref().map_or("", |body| body.as_str());
                    let call =
                        body.strip_prefix("{\"call\":").and_then(|rest| rest.strip_suffix('}')?.parse().ok());
                    let provider = world.provider.borrow();
                    let call = call.and_then(|call: u64| provider.calls.get(&call));
                    let last = response.attempts.last().map(|attempt| attempt.number);
                    let is_own = call.is_some_and(|call| {
                        call.identity == *identity && call.is_answered && Some(call.attempt) == last
                    });
                    if !is_own {
                        broken
                            .push(format!("{identity}: the answer {body} is not of its last call: {call:?}"));
                    }
                }
                _ => {}
            }
            for attempt in &response.attempts {
                broken.extend(self.is_told(response.timing.accepted_at, identity, attempt).err());
            }
            if answered.answer.answered.dead.is_some() && !self.dead.contains(identity) {
                broken.push(format!("{identity}: a dead letter that is not stored"));
            }
        }
    }

    fn timing(&self, identity: &str, answered: &Answered, copies: &[&Accepted], broken: &mut Vec<String>) {
        let first = copies.iter().map(|copy| copy.deadline).min().unwrap_or(0);
        let last = copies.iter().map(|copy| copy.deadline).max().unwrap_or(0);
        if answered.answer.response.status == Status::Expired && answered.at + self.skew() < first {
            let (at, first) = (Self::time(answered.at), Self::time(first));
            broken.push(format!("{identity}: expired at {at}, its deadline was {first}"));
        }
        if answered.at > last.max(FAULTS_END) + LATE {
            let (at, last) = (Self::time(answered.at), Self::time(last));
            broken.push(format!("{identity}: answered at {at}, its deadline was {last}"));
        }
    }

    /// Every call is on the ledger, every call on the ledger was made or is lost, and nothing is there twice.
    fn calls(&self, world: &World, broken: &mut Vec<String>) {
        for (identity, accepted_at, attempt) in self.called.keys() {
            let id = format!("{identity}.{attempt}@{}", accepted_at.timestamp_micros());
            if !self.usage.contains_key(&id) {
                broken.push(format!("{id}: a call that is not on the ledger"));
            }
        }
        let mut finals: BTreeMap<String, usize> = BTreeMap::new();
        for (id, event) in &self.usage {
            let identity = event.identity();
            if event.is_final {
                *finals.entry(identity.to_string()).or_default() += 1;
            }
            let accepted_at = event.accepted_at.unwrap_or_default();
            let was_called = self.called.contains_key(&(identity, accepted_at, event.attempt));
            if event.kind == Kind::Attempt && !was_called {
                broken.push(format!("{id}: a call on the ledger that nobody made"));
            }
        }
        for identity in self.answered.keys() {
            let count = finals.get(&identity.to_string()).copied().unwrap_or(0);
            if count != 1 {
                broken.push(format!("{identity}: {count} usage events say how it ended"));
            }
        }
        let provider = world.provider.borrow();
        let without_result = self
            .called
            .keys()
            .filter(|(identity, accepted_at, attempt)| {
                let id = format!("{identity}.{attempt}@{}", accepted_at.timestamp_micros());
                self.usage.get(&id).is_none_or(|event| event.kind != Kind::Attempt)
            })
            .count();
        if without_result > self.lost.len() {
            broken.push(format!("{without_result} calls without a result, {} lost", self.lost.len()));
        }
        if provider.calls.len() != self.called.len() {
            broken.push(format!(
                "{} calls at the providers, {} known",
                provider.calls.len(),
                self.called.len()
            ));
        }
    }

    /// What stands in the counters of a budget or limit is what the calls that it is for cost or used; in flight is none.
    fn money(&self, world: &World, broken: &mut Vec<String>) {
        for budget in self.plan.budgets.0.iter() {
            let cost: i64 = self
                .usage
                .values()
                .filter(|event| event.kind != Kind::Unpaid && is_for(budget, event))
                .map(|event| match budget.measure {
                    Measure::Money => event.cost_nano_usd.0,
                    Measure::Tokens => tokens(event),
                    Measure::InFlight | Measure::Rate | Measure::Repeats => 0,
                })
                .sum();
            let of_it = self.counters.iter().filter(|(counter, _)| counter.budget == budget.name);
            let total: i64 = of_it.map(|(_, total)| *total).sum();
            if cost != total {
                broken.push(format!("{}: {total} in its counters, {cost} on the ledger", budget.name));
            }
        }
        broken.extend(
            world.book.borrow().uneven().into_iter().map(|line| format!("an account is not even: {line}")),
        );
    }

    fn streams(&self, world: &World, broken: &mut Vec<String>) {
        let server = world.server.borrow();
        for (config, messages, _) in server.sizes().filter(|(config, ..)| config.work_queue) {
            if messages > 0 {
                let left: Vec<String> = server
                    .scan(&config.name, ">", 0, 5)
                    .iter()
                    .map(|stored| format!("{} {:?}", stored.subject, Self::time(stored.stored_at)))
                    .collect();
                broken.push(format!("{}: {messages} messages are left: {left:?}", config.name));
            }
        }
    }
}

fn tokens(event: &UsageEvent) -> i64 {
    i64::try_from(event.usage.input_tokens + event.usage.output_tokens).unwrap_or(i64::MAX)
}

/// Written anew, so that a mistake in the scopes of the policy is not made here too.
pub(super) fn is_for(budget: &Budget, event: &UsageEvent) -> bool {
    let is = |wanted: &Option<String>, found: Option<&str>| wanted.is_none() || wanted.as_deref() == found;
    let scope = &budget.scope;
    is(&scope.team, Some(event.team.as_str()))
        && is(&scope.user, event.meta.user.as_deref())
        && is(&scope.provider, event.provider.as_deref())
        && is(&scope.model, event.model.as_deref())
}

/// The same for a call that is under way.
pub(super) fn is_for_call(budget: &Budget, identity: &Identity, call: &Calling) -> bool {
    let is = |wanted: &Option<String>, found: Option<&str>| wanted.is_none() || wanted.as_deref() == found;
    let scope = &budget.scope;
    is(&scope.team, Some(identity.team.as_str()))
        && is(&scope.user, call.user.as_deref())
        && is(&scope.provider, Some(&call.target.provider))
        && is(&scope.model, Some(&call.target.model))
}
