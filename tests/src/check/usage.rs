//! Every attempt has one usage event that says the same, and every request is counted once.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::answers::{Answers, called, tokens};
use super::{Evidence, Report, Rule, number};
use crate::request::{Identity, decode};

/// The usage events that count, by what they are about.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// One for each attempt, and number 0 for a request that ended without a final one.
    pub(super) attempts: BTreeMap<(Identity, u64), Value>,
    /// Attempts that were on the ledger as `lost` at some time, also if their result turned up later.
    pub(super) lost: BTreeSet<(Identity, u64)>,
    /// Signed changes with ids of their own.
    pub(super) corrections: BTreeMap<String, Value>,
}

impl Usage {
    /// Everything that is summed.
    pub(super) fn events(&self) -> impl Iterator<Item = &Value> {
        self.attempts.values().chain(self.corrections.values())
    }

    /// The attempts of one request.
    pub(super) fn of<'u>(&'u self, identity: &Identity) -> impl Iterator<Item = (u64, &'u Value)> + use<'u> {
        let (first, last) = ((identity.clone(), 0), (identity.clone(), u64::MAX));
        self.attempts.range(first..=last).map(|((_, number), event)| (*number, event))
    }
}

/// Reads the events and keeps one of each id: an `attempt` beats a `lost`.
pub(super) fn read(evidence: &Evidence, report: &mut Report) -> Usage {
    let mut usage = Usage::default();
    for stored in &evidence.usage {
        let event = match decode(&stored.headers, &stored.payload) {
            Ok(event) => event,
            Err(error) => {
                report.add(Rule::Evidence, format_args!("usage at {}: {error}", stored.sequence));
                continue;
            }
        };
        let Some(id) = stored.header("ce-id") else {
            report.add(Rule::Evidence, format_args!("usage at {} has no ce-id", stored.sequence));
            continue;
        };
        if event["kind"] == "correction" {
            usage.corrections.insert(id.to_owned(), event);
            continue;
        }
        let Some(attempt) = attempt_of(id) else {
            report.add(Rule::Evidence, format_args!("usage at {} has the ce-id {id}", stored.sequence));
            continue;
        };
        let is_lost = event["kind"] == "lost";
        if is_lost {
            usage.lost.insert(attempt.clone());
        }
        match usage.attempts.get(&attempt) {
            Some(known) if known["kind"] == event["kind"] => {
                let costs = (number(&known["cost_nano_usd"]), number(&event["cost_nano_usd"]));
                report.equal(Rule::UsageContradicts, format_args!("{id}, stored twice"), costs.1, costs.0);
            }
            Some(_) if is_lost => {}
            _ => drop(usage.attempts.insert(attempt, event)),
        }
    }
    usage
}

/// `<team>.<group>.<id>.<attempt>`, none of which has a dot in it.
fn attempt_of(ce_id: &str) -> Option<(Identity, u64)> {
    let parts: Vec<&str> = ce_id.split('.').collect();
    match parts[..] {
        [team, group, id, attempt] => Some((Identity::new(team, group, id), attempt.parse().ok()?)),
        _ => None,
    }
}

pub(super) fn check(evidence: &Evidence, answers: &Answers, usage: &Usage, report: &mut Report) {
    for (identity, response) in answers {
        let attempts = response["attempts"].as_array().map(Vec::as_slice).unwrap_or_default();
        for attempt in attempts {
            has_its_event(identity, attempt, usage, report);
        }
        let named: BTreeSet<i128> = attempts.iter().map(|attempt| number(&attempt["number"])).collect();
        for (number, event) in usage.of(identity) {
            if number > 0 && !named.contains(&i128::from(number)) {
                report.add(Rule::UsageUnknown, format_args!("attempt {number} of {identity}: {event}"));
            }
        }
        let counting = usage.of(identity).filter(|(number, event)| *number == 0 || event["final"] == true);
        report.equal(Rule::CountedOnce, format_args!("events that count {identity}"), counting.count(), 1);
    }
    let known = evidence.identities();
    for ((identity, number), event) in &usage.attempts {
        if !known.contains(identity) {
            report.add(Rule::UsageUnknown, format_args!("attempt {number} of {identity}: {event}"));
        }
        costs_its_tokens(evidence, identity, event, report);
    }
}

fn has_its_event(identity: &Identity, attempt: &Value, usage: &Usage, report: &mut Report) {
    let attempt_number = u64::try_from(number(&attempt["number"])).unwrap_or_default();
    let Some(event) = usage.attempts.get(&(identity.clone(), attempt_number)) else {
        report.add(Rule::UsageMissing, format_args!("attempt {attempt_number} of {identity}: {attempt}"));
        return;
    };
    if !is_superseded(attempt, event) {
        report.equal(
            Rule::UsageContradicts,
            format_args!("the cost of attempt {attempt_number} of {identity}, in the event and the response"),
            number(&event["cost_nano_usd"]),
            number(&attempt["cost_nano_usd"]),
        );
    }
}

/// Whether the response gave an attempt up whose result turned up later: the event knows better then.
pub(super) fn is_superseded(attempt: &Value, event: &Value) -> bool {
    attempt["outcome"] == "lost" && event["kind"] == "attempt"
}

fn costs_its_tokens(evidence: &Evidence, identity: &Identity, event: &Value, report: &mut Report) {
    let cost = number(&event["cost_nano_usd"]);
    match event["kind"].as_str() {
        Some("unpaid") => report.equal(Rule::WrongCost, format_args!("unpaid {identity}"), cost, 0),
        Some("lost") if cost < 0 => report.add(Rule::WrongCost, format_args!("lost {identity}: {cost}")),
        Some("attempt") => match evidence.prices.get(&called(event)) {
            None => report.add(Rule::Evidence, format_args!("{} of {identity} has no price", called(event))),
            Some(price) => report.equal(
                Rule::WrongCost,
                format_args!("the usage event of {identity}"),
                cost,
                price.cost(tokens(&event["usage"])),
            ),
        },
        _ => {}
    }
}
