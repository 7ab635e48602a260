//! The same money wherever it is added up: usage events, responses, ledger.

use super::answers::Answers;
use super::usage::{Usage, is_superseded};
use super::{Evidence, Report, Rule, number};

/// The sums of the ledger's reply that usage events have a field for.
const TOKEN_SUMS: [&str; 4] = ["input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens"];

pub(super) fn check(evidence: &Evidence, answers: &Answers, usage: &Usage, report: &mut Report) {
    let in_usage: i128 = usage.events().map(|event| number(&event["cost_nano_usd"])).sum();
    let corrected: i128 = usage.corrections.values().map(|event| number(&event["cost_nano_usd"])).sum();
    report.equal(
        Rule::SumsDiffer,
        "nano-dollars in usage events without corrections, and in the attempts of all responses",
        in_usage - corrected,
        in_responses(answers, usage),
    );
    if let Some(ledger) = &evidence.ledger {
        against_the_ledger(evidence, ledger, usage, in_usage, report);
    }
}

/// The sum over the attempts of all responses. What turned up later than its response counts as what it came to.
fn in_responses(answers: &Answers, usage: &Usage) -> i128 {
    let attempts = answers.iter().flat_map(|(identity, response)| {
        let attempts = response["attempts"].as_array().map(Vec::as_slice).unwrap_or_default();
        attempts.iter().map(move |attempt| (identity, attempt))
    });
    let cost = |(identity, attempt): (&crate::request::Identity, &serde_json::Value)| {
        let attempt_number = u64::try_from(number(&attempt["number"])).unwrap_or_default();
        let event = usage.attempts.get(&(identity.clone(), attempt_number));
        let source = event.filter(|event| is_superseded(attempt, event)).unwrap_or(attempt);
        number(&source["cost_nano_usd"])
    };
    attempts.map(cost).sum()
}

fn against_the_ledger(
    evidence: &Evidence,
    ledger: &serde_json::Value,
    usage: &Usage,
    in_usage: i128,
    report: &mut Report,
) {
    let total = &ledger["total"];
    let published = i128::try_from(evidence.expected.len()).unwrap_or_default();
    let mut same = |what: &str, expected: i128| {
        report.equal(Rule::SumsDiffer, format_args!("the ledger's {what}"), number(&total[what]), expected);
    };
    same("cost_nano_usd", in_usage);
    same("requests", published);
    for what in TOKEN_SUMS {
        let sum: i128 = usage.events().map(|event| number(&event["usage"][what])).sum();
        // A ledger need not count every kind; the two that are priced it must.
        if total.get(what).is_some() || matches!(what, "input_tokens" | "output_tokens") {
            same(what, sum);
        }
    }
    let rows = ledger["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
    let in_rows: i128 = rows.iter().map(|row| number(&row["cost_nano_usd"])).sum();
    same("cost_nano_usd", in_rows);
}
