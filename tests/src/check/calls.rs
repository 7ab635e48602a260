//! A paid call is made once, and no call is made that is not on the ledger.

use std::collections::BTreeMap;

use super::usage::Usage;
use super::{Evidence, Report, Rule};
use crate::provider::{Call, End};

pub(super) fn check(evidence: &Evidence, usage: &Usage, report: &mut Report) {
    let mut calls: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    for call in &evidence.calls {
        calls.entry(call.key.as_str()).or_default().push(call);
    }
    for expected in &evidence.expected {
        let identity = &expected.identity;
        let made = calls.remove(expected.key.as_str()).unwrap_or_default();
        let on_ledger = usage.of(identity).filter(|(number, _)| *number > 0).count();
        if made.len() > on_ledger {
            let ends: Vec<_> = made.iter().map(|call| call.end).collect();
            report.add(
                Rule::CallNotOnLedger,
                format_args!("{identity}: {} calls, {on_ledger} on the ledger; {ends:?}", made.len()),
            );
        }
        // A call that came back spoiled was the provider's fault, told of by its own event; it may be tried again.
        let paid = made.iter().filter(|call| call.end == End::Answered).count();
        let lost = usage.lost.range((identity.clone(), 0)..=(identity.clone(), u64::MAX)).count();
        // Nor can it know of a connection that broke under its answer: the ledger has an estimate for that.
        let broke = |event: &serde_json::Value| event["outcome"] == "failed" && event["estimated"] == true;
        let broken = usage.of(identity).filter(|(_, event)| broke(event)).count();
        if paid > 1 + lost + broken {
            report.add(
                Rule::PaidTwice,
                format_args!("{identity}: {paid} good answers, {lost} lost, {broken} broken"),
            );
        }
    }
    for (key, made) in calls {
        report.add(Rule::CallNotOnLedger, format_args!("{} calls for {key:?}, never published", made.len()));
    }
}
