//! Reads the counters of budgets and limits as anybody can.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;
use serde_json::Value;

use crate::client::{Client, Stored};

/// An entry of a counter.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its counter: `llm.budget.<budget>.<window>`.
    pub subject: String,
    /// `reserve`, `take`, `undo`, `settle`, `open` or `correct`.
    pub kind: String,
    /// The request that it is for.
    pub account: String,
    /// The try to reserve that it is, or ends.
    pub tried: String,
    /// The try of another router that it goes on with.
    pub takes: String,
    /// What it adds, in what the counter counts.
    pub amount: i64,
    /// What the counter said with it.
    pub total: i64,
}

impl Entry {
    fn read(stored: &Stored) -> Self {
        // What somebody else wrote may have none.
        let entry: Value =
            serde_json::from_str(stored.header("Tollgate-Entry").unwrap_or("{}")).expect("an entry is JSON");
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        Self {
            subject: stored.subject.clone(),
            kind: text("kind"),
            account: text("account"),
            tried: text("try"),
            takes: text("takes"),
            amount: number(stored.header("Nats-Incr").expect("an entry has an amount")),
            total: number(stored.value()["val"].as_str().expect("a counter has a total")),
        }
    }
}

fn number(text: &str) -> i64 {
    text.parse().expect("a counter has whole numbers of 64 bits")
}

/// All entries, in the order of the stream.
///
/// # Panics
/// When the stream cannot be read, or has something else in it.
pub async fn entries(client: &Client) -> Vec<Entry> {
    client.read_stream("LLM_BUDGET").await.iter().map(Entry::read).collect()
}

/// What stands in each counter.
///
/// # Panics
/// As [`entries`] does.
pub async fn totals(client: &Client) -> BTreeMap<String, i64> {
    totals_of(client, "LLM_BUDGET", "llm.budget.>").await
}

/// How many numbers of each cell were taken under limits of requests per minute.
///
/// # Panics
/// As [`entries`] does.
pub async fn numbers(client: &Client) -> BTreeMap<String, i64> {
    totals_of(client, "LLM_PACE", "llm.pace.>").await
}

/// The totals of a counter stream, by subject; none if there is no such stream.
async fn totals_of(client: &Client, stream: &str, subjects: &str) -> BTreeMap<String, i64> {
    let Ok(stream) = client.jetstream().get_stream(stream).await else { return BTreeMap::new() };
    let Ok(mut subjects) = stream.info_with_subjects(subjects).await else { return BTreeMap::new() };
    let mut totals = BTreeMap::new();
    while let Some(Ok((subject, _))) = subjects.next().await {
        let Ok(last) = stream.direct_get_last_for_subject(&subject).await else { continue };
        let value: Value = serde_json::from_slice(&last.payload).expect("a counter is JSON");
        totals.insert(subject, number(value["val"].as_str().expect("a counter has a total")));
    }
    totals
}

/// Checks that in each counter reservations that hold and what was spent never passed the limit together. A try that the
/// limit refused does not hold: it is taken back by whoever made it, or by the ledger. Returns the most there ever was.
///
/// # Errors
/// Says at which entry it was passed, or what else does not add up.
pub fn most_held<'a>(entries: impl IntoIterator<Item = &'a Entry>, limit: i64) -> Result<i64, String> {
    let entries: Vec<&Entry> = entries.into_iter().collect();
    let of_account = |entry: &Entry| -> String {
        let same = entries.iter().filter(|other| other.account == entry.account);
        same.map(|entry| format!("\n  {entry:?}")).collect()
    };
    let (mut held, mut sums) = (BTreeMap::<&str, i64>::new(), BTreeMap::<&str, i64>::new());
    let mut refused = BTreeMap::<&str, i64>::new();
    let mut ends = BTreeSet::<&str>::new();
    let mut most = 0;
    for entry in entries.iter().copied() {
        let sum = sums.entry(&entry.subject).or_default();
        *sum += entry.amount;
        if *sum != entry.total {
            return Err(format!("the total is not {sum}, the sum of the entries: {entry:?}"));
        }
        if entry.kind == "reserve" && entry.total > limit {
            refused.insert(&entry.tried, entry.amount);
            continue;
        }
        // A try is ended or taken over once: nobody relies on what somebody else takes back.
        let ended = if entry.kind == "take" { &entry.takes } else { &entry.tried };
        if entry.kind != "reserve" && !ended.is_empty() && !ends.insert(ended) {
            return Err(format!("ended twice: {entry:?}; its account:{}", of_account(entry)));
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
        if *held > limit {
            return Err(format!(
                "{held} of {limit} are held after {entry:?}; its account:{}",
                of_account(entry)
            ));
        }
        most = most.max(*held);
    }
    match refused.values().sum::<i64>() {
        0 => Ok(most),
        left => Err(format!("{left} of refused tries that nobody took back")),
    }
}

/// What the usage events say that a team was charged, by the rule for sums, in nano-dollars.
///
/// # Panics
/// When the stream cannot be read, or has something else in it.
pub async fn paid(client: &Client, team: &str) -> i64 {
    let mut costs = BTreeMap::<String, (bool, i64)>::new();
    for stored in client.read_stream("LLM_USAGE").await {
        let event = stored.value();
        if event["team"] != team {
            continue;
        }
        let (id, is_lost) =
            (stored.header("ce-id").expect("an event has an id").to_owned(), event["kind"] == "lost");
        if costs.get(&id).is_none_or(|(was_lost, _)| *was_lost && !is_lost) {
            costs.insert(id, (is_lost, event["cost_nano_usd"].as_i64().expect("an event has a cost")));
        }
    }
    costs.values().map(|(_, cost)| cost).sum()
}
