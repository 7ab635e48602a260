//! Reads the counters of budgets as anybody can, and holds them against what was paid.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;
use serde_json::Value;
use tollgate_tests::client::{Client, Stored};
use tollgate_tests::wait::eventually;

use crate::stage::PATIENCE;

/// An entry of a counter.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) subject: String,
    pub(crate) kind: String,
    /// The try to reserve that it is, or ends.
    pub(crate) tried: String,
    /// The try of another router that it goes on with.
    pub(crate) takes: String,
    pub(crate) amount: i64,
    pub(crate) total: i64,
}

impl Entry {
    fn read(stored: &Stored) -> Self {
        // What somebody else wrote may have none.
        let entry: Value = serde_json::from_str(stored.header("Tollgate-Entry").unwrap_or("{}")).unwrap();
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        Self {
            subject: stored.subject.clone(),
            kind: text("kind"),
            tried: text("try"),
            takes: text("takes"),
            amount: stored.header("Nats-Incr").unwrap().parse().unwrap(),
            total: stored.value()["val"].as_str().unwrap().parse().unwrap(),
        }
    }
}

/// All entries, in the order of the stream.
pub(crate) async fn entries(client: &Client) -> Vec<Entry> {
    client.read_stream("LLM_BUDGET").await.iter().map(Entry::read).collect()
}

/// What stands in each counter.
pub(crate) async fn totals(client: &Client) -> BTreeMap<String, i64> {
    totals_of(client, "LLM_BUDGET", "llm.budget.>").await
}

/// How many numbers of each cell were taken under limits of requests per minute.
pub(crate) async fn numbers(client: &Client) -> BTreeMap<String, i64> {
    totals_of(client, "LLM_PACE", "llm.pace.>").await
}

/// The totals of a counter stream, by subject; none if there is no such stream.
async fn totals_of(client: &Client, stream: &str, subjects: &str) -> BTreeMap<String, i64> {
    let Ok(stream) = client.jetstream().get_stream(stream).await else { return BTreeMap::new() };
    let Ok(mut subjects) = stream.info_with_subjects(subjects).await else { return BTreeMap::new() };
    let mut totals = BTreeMap::new();
    while let Some(Ok((subject, _))) = subjects.next().await {
        let Ok(last) = stream.direct_get_last_for_subject(&subject).await else { continue };
        let value: Value = serde_json::from_slice(&last.payload).unwrap();
        totals.insert(subject, value["val"].as_str().unwrap().parse().unwrap());
    }
    totals
}

/// Checks that reservations that hold and what was spent never passed the limit together. A try that the limit refused
/// does not hold: it is taken back by whoever made it, or by the ledger. Returns the most there ever was.
pub(crate) fn most_held(entries: &[Entry], limit: i64) -> i64 {
    let (mut held, mut sums) = (BTreeMap::<&str, i64>::new(), BTreeMap::<&str, i64>::new());
    let mut refused = BTreeMap::<&str, i64>::new();
    let mut ends = BTreeSet::<&str>::new();
    let mut most = 0;
    for entry in entries {
        let sum = sums.entry(&entry.subject).or_default();
        *sum += entry.amount;
        assert_eq!(*sum, entry.total, "the total is the sum of the entries: {entry:?}");
        if entry.kind == "reserve" && entry.total > limit {
            refused.insert(&entry.tried, entry.amount);
            continue;
        }
        // A try is ended or taken over once: nobody relies on what somebody else takes back.
        let ended = if entry.kind == "take" { &entry.takes } else { &entry.tried };
        if entry.kind != "reserve" && !ended.is_empty() {
            assert!(ends.insert(ended), "ended twice: {entry:?}");
        }
        if entry.kind == "take" && entry.total > limit {
            if let Some(amount) = refused.remove(entry.takes.as_str()) {
                refused.insert(&entry.tried, amount);
            }
            continue;
        }
        if entry.kind == "take" {
            // All that is in the counter holds now.
            *held.entry(&entry.subject).or_default() += refused.remove(entry.takes.as_str()).unwrap_or(0);
            continue;
        }
        // What ends a refused try may be more than taking it back: its request can have cost something by another one.
        let taken_back = refused.remove(entry.tried.as_str()).unwrap_or(0);
        let held = held.entry(&entry.subject).or_default();
        *held += entry.amount + taken_back;
        assert!(*held <= limit, "{held} of {limit} are held after {entry:?}");
        most = most.max(*held);
    }
    assert_eq!(refused.values().sum::<i64>(), 0, "refused tries that nobody took back");
    most
}

/// Waits until the counters say what was paid, by this team, and returns it.
pub(crate) async fn settled(client: &Client, team: &str) -> i64 {
    eventually(PATIENCE, "a counter that says what was paid", async || {
        let counted: i64 = totals(client).await.values().sum();
        let on_ledger = client.usage_by_team().await;
        let rows = on_ledger["rows"].as_array().cloned().unwrap_or_default();
        let paid = rows.iter().find(|row| row["team"] == team).and_then(|row| row["cost_nano_usd"].as_i64());
        if Some(counted) != paid {
            return Err((counted, paid, None));
        }
        let events = usage(client, team).await;
        if counted == events { Ok(counted) } else { Err((counted, paid, Some(events))) }
    })
    .await
}

/// What the usage events say, by the rule for sums.
async fn usage(client: &Client, team: &str) -> i64 {
    let mut costs = BTreeMap::<String, (bool, i64)>::new();
    for stored in client.read_stream("LLM_USAGE").await {
        let event = stored.value();
        if event["team"] != team {
            continue;
        }
        let (id, is_lost) = (stored.header("ce-id").unwrap().to_owned(), event["kind"] == "lost");
        if costs.get(&id).is_none_or(|(was_lost, _)| *was_lost && !is_lost) {
            costs.insert(id, (is_lost, event["cost_nano_usd"].as_i64().unwrap()));
        }
    }
    costs.values().map(|(_, cost)| cost).sum()
}
