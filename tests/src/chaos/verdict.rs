//! What must hold, whatever happened.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::Options;
use super::counted;
use super::faults::Table;
use super::load::{Accepted, Planned};
use super::stage::{BACKUP, PRICE, Stage};
use crate::check::{Evidence, Expected, settled};
use crate::client::{Client, Live};
use crate::money::Price;
use crate::provider::{Call, End, answer_to};
use crate::request::{Identity, decode};

/// Examples shown of each broken promise.
const EXAMPLES: usize = 5;
/// How long usage and the ledger may lag behind the answers.
const SETTLED_WITHIN: Duration = Duration::from_secs(90);
/// How late a request may be over that was called before, and one that only ever was in a queue.
const LATE_MS: (u64, u64) = (2_000, 30_000);

/// A run and its end.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Requests that were accepted.
    pub requests: usize,
    /// How they ended.
    pub statuses: BTreeMap<String, usize>,
    /// Calls that the providers saw.
    pub calls: usize,
    /// Attempts that are, or once were, on the ledger as lost.
    pub lost: usize,
    /// What went wrong on purpose.
    pub table: Table,
    /// Broken promises.
    pub violations: Vec<String>,
    /// What the processes said, if a promise was broken.
    pub logs: String,
    /// Where the server's store was kept, if a promise was broken.
    pub store: Option<PathBuf>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {} requests {:?}, {} calls, {} lost, {} kills",
            self.seed,
            self.requests,
            self.statuses,
            self.calls,
            self.lost,
            self.table.kills()
        )?;
        for violation in &self.violations {
            writeln!(f, "  BROKEN {violation}")?;
        }
        if self.violations.is_empty() {
            write!(f, "  every promise kept")
        } else {
            write!(f, "  run again with the same seed")
        }
    }
}

/// Broken promises, and examples of each.
#[derive(Default)]
pub(super) struct Broken(BTreeMap<&'static str, (usize, Vec<String>)>);

impl Broken {
    pub(super) fn add(&mut self, promise: &'static str, example: impl fmt::Display) {
        let (count, examples) = self.0.entry(promise).or_default();
        *count += 1;
        if examples.len() < EXAMPLES {
            examples.push(example.to_string());
        }
    }

    fn texts(self) -> Vec<String> {
        let text = |(promise, (count, examples)): (&str, (usize, Vec<String>))| {
            format!("{promise} ({count}): {}", examples.join("; "))
        };
        self.0.into_iter().map(text).collect()
    }
}

#[expect(clippy::too_many_arguments, reason = "everything that can be seen from outside")]
pub(super) async fn of(
    options: &Options,
    stage: &Stage,
    client: &Client,
    planned: &[Planned],
    accepted: &Accepted,
    lives: &[Live],
    table: Table,
    missing: Vec<String>,
) -> Outcome {
    let accepted = accepted.all();
    let planned: Vec<&Planned> =
        planned.iter().filter(|planned| accepted.contains(&planned.request.identity)).collect();
    let mut broken = Broken::default();
    for missing in &missing {
        broken.add("accepted and never answered", missing);
    }
    if planned.len() != options.requests {
        broken.add("not published", format_args!("{} of {}", planned.len(), options.requests));
    }
    let (mut statuses, mut expected) = (BTreeMap::<String, usize>::new(), Vec::new());
    let (mut responses, mut rejected) = (BTreeMap::<Identity, Value>::new(), 0);
    for stored in client.read_stream("LLM_RECORD").await {
        if let Some(identity) = Identity::of_response(&stored.subject)
            && let Ok(value) = decode(&stored.headers, &stored.payload)
        {
            responses.insert(identity, value);
        }
    }
    for planned in &planned {
        let Some(response) = responses.get(&planned.request.identity) else { continue };
        let status = response["status"].as_str().unwrap_or("unreadable").to_owned();
        expected.push(match status.as_str() {
            "succeeded" => Expected::answered(&planned.request),
            status => Expected::ended(&planned.request, status),
        });
        rejected += usize::from(response["error"]["code"] == "budget_exceeded");
        *statuses.entry(status).or_default() += 1;
        in_time(options, stage, planned, response, &mut broken);
    }
    for live in lives {
        if live.duplicates() > 0 {
            broken.add("answered twice", format_args!("{} doubles live", live.duplicates()));
        }
    }
    let live: Vec<&Live> = lives.iter().collect();
    let prices = [("sim/m-1", PRICE), ("backup/b-1", BACKUP)];
    let providers = [&stage.main, &stage.backup];
    let report = settled(SETTLED_WITHIN, async || {
        Evidence::gather(client, &expected, &prices, &live, &providers).await
    })
    .await;
    if !report.is_clean() {
        broken.add("an equality does not hold", report);
    }
    let calls: Vec<Call> = providers.iter().flat_map(|provider| provider.calls()).collect();
    let lost = calls_and_events(client, &calls, stage.lost_at_most, &mut broken).await;
    left_over(client, &responses, &table, &mut broken).await;
    counted::check(stage, client, (options.requests, rejected), SETTLED_WITHIN, &mut broken).await;
    Outcome {
        seed: options.seed,
        requests: planned.len(),
        statuses,
        calls: calls.len(),
        lost,
        table,
        violations: broken.texts(),
        logs: String::new(),
        store: None,
    }
}

/// No request expires before its deadline, nor long after it.
fn in_time(options: &Options, stage: &Stage, planned: &Planned, response: &Value, broken: &mut Broken) {
    let identity = &planned.request.identity;
    let total = response["timing"]["total_ms"].as_u64().unwrap_or_default();
    let is_expired = response["status"] == "expired";
    if is_expired && total < planned.ttl_ms {
        broken
            .add("expired before its deadline", format_args!("{identity}: {total} of {} ms", planned.ttl_ms));
    }
    if !options.timely || total <= planned.ttl_ms {
        return;
    }
    let accepted_at = response["timing"]["accepted_at"].as_str().unwrap_or_default();
    let Ok(accepted_at) = chrono::DateTime::parse_from_rfc3339(accepted_at) else { return };
    let deadline = SystemTime::from(accepted_at) + Duration::from_millis(planned.ttl_ms);
    let end = SystemTime::from(accepted_at) + Duration::from_millis(total);
    // While the server or a router was not there, nobody could end anything.
    let excused: u64 = stage
        .down
        .iter()
        .map(|(from, to)| {
            let overlap = (*to).min(end).duration_since((*from).max(deadline));
            overlap.map_or(0, |overlap| overlap.as_millis() as u64)
        })
        .sum();
    let was_called = response["attempts"].as_array().is_some_and(|attempts| !attempts.is_empty());
    let most = if was_called { LATE_MS.0 } else { LATE_MS.1 };
    let late = total - planned.ttl_ms;
    if late > most + excused {
        broken.add(
            "over long after its deadline",
            format_args!(
                "{identity}: {late} ms late, {excused} excused, called {was_called}; {}",
                response["status"]
            ),
        );
    }
}

/// Every call has one event that counts, and every event that is not `lost` is of one call, to the nano-dollar.
async fn calls_and_events(
    client: &Client,
    calls: &[Call],
    lost_at_most: usize,
    broken: &mut Broken,
) -> usize {
    let mut by_id: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    for call in calls {
        match call.headers.get("x-client-request-id") {
            Some(id) => by_id.entry(id).or_default().push(call),
            None => broken.add("a call does not say which it is", &call.key),
        }
    }
    let (mut events, mut ever_lost): (BTreeMap<String, Value>, BTreeSet<String>) = Default::default();
    let mut accepted: BTreeMap<String, String> = BTreeMap::new();
    for stored in client.read_stream("LLM_USAGE").await {
        let (Some(id), Ok(event)) = (stored.header("ce-id"), decode(&stored.headers, &stored.payload)) else {
            broken.add("a usage event cannot be read", stored.sequence);
            continue;
        };
        let id = id.to_owned();
        if event["kind"] == "lost" {
            ever_lost.insert(id.clone());
        }
        let of_request = id.rsplit_once('.').map_or(id.as_str(), |(request, _)| request).to_owned();
        let accepted_at = event["accepted_at"].as_str().unwrap_or_default().to_owned();
        let known = accepted.entry(of_request).or_insert_with(|| accepted_at.clone());
        if *known != accepted_at {
            broken.add("one request, accepted at two times", format_args!("{id}: {known}, {accepted_at}"));
        }
        // An `attempt` beats a `lost`.
        if event["kind"] != "lost" || !events.contains_key(&id) {
            events.insert(id, event);
        }
    }
    for (id, made) in &by_id {
        if made.len() > 1 {
            broken.add("one attempt, several calls", format_args!("{id}: {}", made.len()));
        }
        if !events.contains_key(*id) {
            broken.add("a call without a usage event", id);
        }
    }
    let mut without_result = 0;
    for (id, event) in &events {
        match event["kind"].as_str() {
            Some("attempt") if event["outcome"] == "succeeded" => {
                let Some([call]) = by_id.get(id.as_str()).map(Vec::as_slice) else {
                    broken.add("an answer that no provider gave", id);
                    continue;
                };
                let price: Price = if event["provider"] == "sim" { PRICE } else { BACKUP };
                let cost = price.cost(answer_to(&call.body).tokens);
                if event["cost_nano_usd"].as_i64().map(i128::from) != Some(cost) {
                    broken.add(
                        "a wrong cost",
                        format_args!("{id}: {} instead of {cost}", event["cost_nano_usd"]),
                    );
                }
            }
            Some("attempt") if event["estimated"] != true && event["cost_nano_usd"] != 0 => {
                broken.add("a failed call with a cost that is no estimate", id);
            }
            Some("lost") if by_id.contains_key(id.as_str()) => without_result += 1,
            _ => {}
        }
    }
    for (id, made) in &by_id {
        let is_good = made.iter().any(|call| call.end == End::Answered);
        if is_good && events.get(*id).is_some_and(|event| event["kind"] == "unpaid") {
            broken.add("a good answer that was not paid", id);
        }
    }
    if ever_lost.len() > lost_at_most {
        broken.add(
            "more is lost than was killed",
            format_args!(
                "{without_result} calls without a result, {} lost, at most {lost_at_most}",
                ever_lost.len()
            ),
        );
    }
    ever_lost.len()
}

/// Nothing that anybody would work on is left anywhere. A killed server may keep an answered message that it had begun to
/// remove; no consumer gets it again.
async fn left_over(
    client: &Client,
    responses: &BTreeMap<Identity, Value>,
    table: &Table,
    broken: &mut Broken,
) {
    let was_killed = table.rows().any(|(fault, _)| fault == "kill -9 nats-server");
    let is_left = async || {
        let mut left = Vec::new();
        for stream in ["LLM_REQ", "LLM_RETRY", "LLM_DISPATCH_sim", "LLM_DISPATCH_backup", "LLM_CANCEL"] {
            let count = client.message_count(stream).await;
            let work: u64 = client
                .consumers(stream)
                .await
                .iter()
                .map(|consumer| consumer.num_pending + consumer.num_ack_pending as u64)
                .sum();
            let held = client
                .read_stream(stream)
                .await
                .iter()
                .filter(|stored| {
                    stored.subject.starts_with("llm.retry.hold.")
                        || stored.subject.starts_with("llm.retry.at.")
                })
                .count();
            if count > 0 && (!was_killed || work > 0 || held > 0) {
                left.push(format!("{stream}: {count} stored, {work} to do, {held} held"));
            }
        }
        left
    };
    let begun = std::time::Instant::now();
    loop {
        let left = is_left().await;
        if left.is_empty() {
            return;
        }
        // A cancellation of a request that nobody knows is kept for a minute.
        if begun.elapsed() > SETTLED_WITHIN {
            broken.add(
                "something is left over",
                format_args!("{} with {} answered", left.join(", "), responses.len()),
            );
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
