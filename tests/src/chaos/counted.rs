//! What must stand in the counters of budgets and limits, whatever happened.

use std::collections::BTreeMap;
use std::time::Duration;

use super::stage::Stage;
use super::verdict::Broken;
use crate::client::Client;
use crate::counters::{Entry, entries, most_held, paid, totals};

/// What a team may spend in all that time, in nano-dollars for each request that is published, and as the file has it. Red's
/// is spent on the way: the rest is rejected. The others' never are.
const RED_NANO_USD: u64 = 800;
const WIDE_NANO_USD: u64 = 1_000_000_000_000;
/// Requests of the team green at a time, and of blue.
const IN_FLIGHT: i64 = 8;
const MANY_IN_FLIGHT: i64 = 1_000;
/// Runs of so many requests come by their limits.
const LONG: usize = 1_000;

/// The sections of the configuration.
pub(super) fn config(requests: usize) -> String {
    let budget = |team: &str, limit: u64, reserve: &str, when_spent: &str| {
        let limit = crate::money::usd(limit);
        format!(
            "[[budgets]]\nname = \"{team}\"\nscope = {{ team = \"{team}\" }}\nlimit_usd = \"{limit}\"\nper = \"total\"\n\
             reserve = \"{reserve}\"\nwhen_spent = \"{when_spent}\"\n"
        )
    };
    let limit = |team: &str, limit: &str| {
        format!("[[limits]]\nname = \"{team}\"\nscope = {{ team = \"{team}\" }}\n{limit}\n")
    };
    [
        budget("red", red(requests), "strict", "reject"),
        budget("green", WIDE_NANO_USD, "strict", "hold"),
        budget("blue", WIDE_NANO_USD, "estimate", "hold"),
        limit("green", &format!("in_flight = {IN_FLIGHT}")),
        limit(
            "blue",
            &format!(
                "requests_per_minute = 3000\ntokens_per_minute = {}\nin_flight = {MANY_IN_FLIGHT}",
                (requests * 3).max(10_000)
            ),
        ),
    ]
    .concat()
}

fn red(requests: usize) -> u64 {
    requests as u64 * RED_NANO_USD
}

/// Waits until the counters say what was paid, and nothing is in flight; then looks at how it came to that. `requests`: how
/// many there were, and how many were rejected because their budget was spent.
pub(super) async fn check(
    stage: &Stage,
    client: &Client,
    (requests, rejected): (usize, usize),
    within: Duration,
    broken: &mut Broken,
) {
    let right = crate::wait::within(within, async || {
        let wrong = wrong(client).await;
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    });
    if let Err((_, seen)) = right.await {
        broken.add("a counter is not what it should be", seen);
    }
    let entries = entries(client).await;
    let strict = [
        ("llm.budget.red.total", i64::try_from(red(requests)).unwrap_or(i64::MAX), true),
        ("llm.budget.green-in-flight.total", IN_FLIGHT, true),
        ("llm.budget.blue-in-flight.total", MANY_IN_FLIGHT, false),
    ];
    if requests >= LONG && rejected == 0 {
        broken.add("a budget was never spent", "red");
    }
    for (counter, limit, is_reached) in strict {
        let of_it: Vec<&Entry> = entries.iter().filter(|entry| entry.subject == counter).collect();
        match most_held(of_it, limit) {
            Err(how) => broken.add("a limit was passed", format_args!("{counter}: {how}")),
            Ok(most) if requests >= LONG && is_reached && most * 10 < limit * 9 => {
                broken.add("a limit was never come by", format_args!("{counter}: {most} of {limit}"));
            }
            Ok(_) => {}
        }
    }
    if let Err(said) = stage.reconcile(within).await {
        broken.add("reconcile finds a difference", said);
    }
}

/// Counters that do not say what they should, and what that is.
async fn wrong(client: &Client) -> Vec<String> {
    let mut expected = BTreeMap::from([
        ("llm.budget.green-in-flight.total".to_owned(), 0),
        ("llm.budget.blue-in-flight.total".to_owned(), 0),
    ]);
    for team in super::load::TEAMS {
        expected.insert(format!("llm.budget.{team}.total"), paid(client, team).await);
    }
    let totals = totals(client).await;
    let each = expected.into_iter().filter_map(|(counter, expected)| {
        // Where nothing was reserved yet there is no counter.
        let found = totals.get(&counter).copied().unwrap_or_default();
        (found != expected).then(|| format!("{counter}: {found} instead of {expected}"))
    });
    each.collect()
}
