//! Every published request has one response, and it is its own.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Evidence, Expected, Report, Rule, number};
use crate::client::Stored;
use crate::money::Tokens;
use crate::request::{Identity, decode};

/// The stored responses of the published requests, read.
pub(super) type Answers = BTreeMap<Identity, Value>;

pub(super) fn check(evidence: &Evidence, report: &mut Report) -> Answers {
    each_is_told_apart(evidence, report);
    let answers = one_for_each(evidence, report);
    for expected in &evidence.expected {
        match answers.get(&expected.identity) {
            None => report.add(Rule::Unanswered, &expected.identity),
            Some(response) => is_its_own(evidence, expected, response, report),
        }
    }
    answers
}

fn each_is_told_apart(evidence: &Evidence, report: &mut Report) {
    let mut identities = BTreeSet::new();
    let mut keys = BTreeSet::new();
    for expected in &evidence.expected {
        if !identities.insert(&expected.identity) {
            report.add(Rule::Evidence, format_args!("{} is expected twice", expected.identity));
        }
        // Requests that never reach a provider may well have no messages.
        if expected.answer.is_some() && !keys.insert(&expected.key) {
            report
                .add(Rule::Evidence, format_args!("two requests have the first message {:?}", expected.key));
        }
    }
}

/// Reads every response; doubles show as two stored sequences of one subject, over the record and what came in live.
fn one_for_each(evidence: &Evidence, report: &mut Report) -> Answers {
    let known = evidence.identities();
    let mut sequences: BTreeMap<Identity, BTreeSet<u64>> = BTreeMap::new();
    let mut answers = Answers::new();
    let mut enter = |stored: &Stored, report: &mut Report| {
        let identity = Identity::of_response(&stored.subject)?;
        if sequences.entry(identity.clone()).or_default().insert(stored.sequence)
            && !known.contains(&identity)
        {
            report.add(Rule::UnknownResponse, format_args!("{identity} at {}", stored.sequence));
        }
        Some(identity)
    };
    for stored in &evidence.record {
        let Some(identity) = enter(stored, report) else { continue };
        match decode(&stored.headers, &stored.payload) {
            Ok(response) => drop(answers.insert(identity, response)),
            Err(error) => report.add(Rule::Evidence, format_args!("the response of {identity}: {error}")),
        }
    }
    for stored in &evidence.live {
        enter(stored, report);
    }
    for (identity, sequences) in sequences.iter().filter(|(_, sequences)| sequences.len() > 1) {
        report.add(Rule::AnsweredTwice, format_args!("{identity} at {sequences:?}"));
    }
    answers.retain(|identity, _| known.contains(identity));
    answers
}

fn is_its_own(evidence: &Evidence, expected: &Expected, response: &Value, report: &mut Report) {
    let Expected { identity, status, answer, .. } = expected;
    let said = |field: &str| response[field].as_str().unwrap_or_default().to_owned();
    if said("status") != *status {
        let (found, error) = (said("status"), &response["error"]);
        report.add(Rule::WrongStatus, format_args!("{identity}: found {found}, expected {status}; {error}"));
    }
    let whose = Identity::new(&said("team"), &said("group"), &said("id"));
    report.equal(Rule::WrongAnswer, format_args!("whose response {identity} has"), &whose, identity);

    let attempts = response["attempts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let sum: i128 = attempts.iter().map(|attempt| number(&attempt["cost_nano_usd"])).sum();
    let cost = number(&response["cost_nano_usd"]);
    report.equal(Rule::ResponseSum, format_args!("the cost of {identity} and its attempts"), cost, sum);

    let Some(answer) = answer.as_ref().filter(|_| said("status") == "succeeded") else { return };
    let text = response["body"]["choices"][0]["message"]["content"].as_str().unwrap_or_default();
    report.equal(Rule::WrongAnswer, format_args!("the text of {identity}"), text, answer.text.as_str());
    // Served from the cache: nothing was called, so nothing is paid.
    let Some((last, earlier)) = attempts.split_last() else { return };
    // Like the cost, of all attempts: what an earlier one used, or was taken to have used, is beside the answer's.
    let used = earlier.iter().fold(answer.tokens, |sum, attempt| sum.plus(tokens(&attempt["usage"])));
    report.equal(
        Rule::WrongTokens,
        format_args!("the tokens of {identity}"),
        tokens(&response["usage"]),
        used,
    );
    let model = called(last);
    match evidence.prices.get(&model) {
        None => {
            report.add(Rule::Evidence, format_args!("{identity} was answered by {model}, which has no price"))
        }
        Some(price) => report.equal(
            Rule::WrongCost,
            format_args!("the cost of the last attempt of {identity}"),
            number(&last["cost_nano_usd"]),
            price.cost(answer.tokens),
        ),
    }
}

/// The `provider/model` of an attempt or a usage event: what its price belongs to.
pub(super) fn called(attempt: &Value) -> String {
    let part = |name: &str| attempt[name].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", part("provider"), part("model"))
}

/// The token counts of a response or a usage event.
pub(super) fn tokens(usage: &Value) -> Tokens {
    let count = |name: &str| u64::try_from(number(&usage[name])).unwrap_or_default();
    Tokens {
        input: count("input_tokens"),
        cached_input: count("cached_input_tokens"),
        output: count("output_tokens"),
    }
}
