//! How long one request waits behind another team's flood, for all pairs of ordinary team names and for teams of one lane,
//! with one router and with four; how soon an urgent one starts behind a backlog; what ten teams of one lane get by their weights.
//!
//! `cargo bench --bench fairness -- --requests 10000` makes smaller floods.

#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark is a shell: it reads the clock and its environment and has tasks of its own"
)]
#![expect(clippy::print_stdout, reason = "the table is what it is for")]
#![expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]

#[path = "../support/setting.rs"]
#[expect(dead_code, reason = "it has requests of its own")]
mod setting;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "this benchmark has a provider and a client of its own")]
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;
use setting::{MODEL, Setting};
use support::{broker, machine, report};
use tollgate_tests::http;
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

/// Of these, as of any such names, most share a lane with another.
const ORDINARY: [&str; 16] = [
    "research", "search", "support", "billing", "growth", "legal", "finance", "sales", "product", "design",
    "data", "infra", "mobile", "web", "ads", "ml",
];
/// All in lane 11.
const ONE_LANE: [&str; 4] = ["team-39", "team-66", "team-75", "team-88"];
const TEN_OF_ONE_LANE: [&str; 10] = [
    "team-39", "team-66", "team-75", "team-88", "team-97", "team-125", "team-136", "team-150", "team-169",
    "team-183",
];
const MAX_IN_FLIGHT: u32 = 16;
/// How long a call takes: at most 800 a second.
const LATENCY: Duration = Duration::from_millis(20);
/// What a router takes of nine teams of a flooded lane together: 51 of each, as ten share 512.
const EXPRESS_MIN: f64 = 9.0 * 51.0;
/// How long a router may take to notice who waits behind a flood.
const NOTICED_MS: u64 = 300;
const PATIENCE: Duration = Duration::from_secs(120);

/// One request behind floods.
struct Wait {
    flood: String,
    quiet: String,
    /// Calls that began between its publish and its own.
    calls: usize,
    /// From its publish to its response, without the call itself.
    ms: u64,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut values = arguments.iter().skip_while(|argument| *argument != "--requests").skip(1);
    let requests = values.next().map_or(100_000, |text| text.parse().expect("--requests takes a number"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be built");
    let binary = broker::binary();
    println!("{} cores, load average {:.1}", machine::cores(), machine::load_average());
    let mut kept = true;
    for routers in [1, 4] {
        let mut pairs = Vec::new();
        for flood in ORDINARY {
            let others: Vec<&str> = ORDINARY.iter().copied().filter(|name| *name != flood).collect();
            pairs.extend(runtime.block_on(behind(&binary, routers, &[flood], &others, requests)));
        }
        kept &= table(&format!("pairs-{routers}"), routers, 2, &pairs);
        let (quiet, floods) = ONE_LANE.split_last().expect("four names");
        let quiet = vec![*quiet; 15];
        let lane = runtime.block_on(behind(&binary, routers, floods, &quiet, requests));
        kept &= table(&format!("lane-{routers}"), routers, 4, &lane);
    }
    kept &= runtime.block_on(urgent(&binary, requests));
    kept &= runtime.block_on(weights(&binary, requests / 10));
    println!("load average {:.1} after", machine::load_average());
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn request(team: &str, id: usize) -> Request {
    Request::chat(&Identity::new(team, "fairness", &id.to_string()), MODEL, &format!("{team} {id}"))
}

/// Floods first, then one request of each quiet team, one after the other.
async fn behind(
    binary: &Path,
    routers: usize,
    floods: &[&str],
    quiet: &[&str],
    requests: usize,
) -> Vec<Wait> {
    let teams = floods.iter().chain(quiet).map(|team| (*team, 1)).collect();
    let mut installation = Setting::start(binary, routers, MAX_IN_FLIGHT, LATENCY, &teams).await;
    installation.run(Role::Worker).await;
    let Setting { client, provider, .. } = &installation;
    for flood in floods {
        let all: Vec<_> = (0..requests).map(|id| request(flood, id)).collect();
        client.publish_all(&all).await;
    }
    let mut waits = Vec::new();
    for (id, quiet) in quiet.iter().enumerate() {
        let request = request(quiet, id);
        let (before, start) = (provider.total(), Instant::now());
        client.publish(&request).await;
        client.await_response(&request.identity, PATIENCE).await;
        let ms = u64::try_from(start.elapsed().saturating_sub(LATENCY).as_millis()).unwrap_or(u64::MAX);
        let number =
            provider.calls_of(&format!("{quiet} {id}")).first().map_or(usize::MAX, |call| call.number);
        let calls = number.saturating_sub(before);
        waits.push(Wait { flood: floods.join(", "), quiet: (*quiet).to_owned(), calls, ms });
    }
    for floods in floods {
        let left = client.response(&request(floods, requests - 1).identity).await;
        assert!(left.is_none(), "the flood was over before the others were measured: take a larger one");
    }
    waits
}

/// A `high` request behind a backlog of `low` ones of the same team starts within one call's time and 50 ms.
async fn urgent(binary: &Path, requests: usize) -> bool {
    const TRIALS: usize = 200;
    let mut installation =
        Setting::start(binary, 1, MAX_IN_FLIGHT, LATENCY, &BTreeMap::from([("research", 1)])).await;
    installation.run(Role::Worker).await;
    let Setting { client, provider, .. } = &installation;
    let low: Vec<_> = (0..requests).map(|id| request("research", id).priority("low")).collect();
    client.publish_all(&low).await;
    let mut ms = Vec::new();
    for trial in 0..TRIALS {
        let request = request("research", requests + trial).priority("high");
        let start = Instant::now();
        client.publish(&request).await;
        client.await_response(&request.identity, PATIENCE).await;
        ms.push(u64::try_from(start.elapsed().saturating_sub(LATENCY).as_millis()).unwrap_or(u64::MAX));
    }
    assert!(provider.total() < requests, "the backlog was over before: take a larger one");
    ms.sort_unstable();
    let (p50, p95) = (ms[TRIALS / 2], ms[TRIALS * 95 / 100]);
    let bound = u64::try_from(LATENCY.as_millis()).unwrap_or(u64::MAX) + 50;
    println!(
        "urgent: {TRIALS} high requests behind {requests} low ones start after {p50} ms (median), {p95} ms (p95)"
    );
    println!("  {} p95 at most {bound} ms", if p95 <= bound { "kept  " } else { "MISSED" });
    report::write("fairness-urgent.json", &json!({"ms": ms, "bound_p95_ms": bound}));
    p95 <= bound
}

/// Ten teams of one lane, filled one after the other, the lightest first.
async fn weights(binary: &Path, each: usize) -> bool {
    let teams: BTreeMap<&str, u32> = TEN_OF_ONE_LANE.into_iter().zip(1..).collect();
    let mut installation = Setting::start(binary, 1, MAX_IN_FLIGHT, LATENCY, &teams).await;
    for team in TEN_OF_ONE_LANE {
        let all: Vec<_> = (0..each).map(|id| request(team, id)).collect();
        installation.client.publish_all(&all).await;
    }
    // Before the first call, every team but the lane's first is to have something in hand.
    let metrics = format!("{}/metrics", installation.running[0].http());
    eventually(PATIENCE, "requests of all teams in hand", async || {
        let text = http().get(&metrics).send().await.ok()?.text().await.ok()?;
        let taken = text.lines().find_map(|line| line.strip_prefix("tollgate_express_total "))?;
        taken.parse::<f64>().ok().filter(|taken| *taken >= EXPRESS_MIN)
    })
    .await;
    installation.run(Role::Worker).await;
    // As long as all wait: the heaviest has a tenth of 55 parts less than all of its own.
    let counted = each / 10 * 55 * 9 / 10;
    eventually(Duration::from_secs(600), "the calls that are counted", async || {
        (installation.provider.total() >= counted).then_some(())
    })
    .await;
    let calls = installation.provider.calls();
    let mut worst = 0.0_f64;
    for (team, weight) in &teams {
        let is_theirs = |key: &str| key.split_once(' ').is_some_and(|(of, _)| of == *team);
        let count = calls[..counted].iter().filter(|call| is_theirs(&call.key)).count();
        let share = counted as f64 * f64::from(*weight) / 55.0;
        let off = (count as f64 / share - 1.0).abs() * 100.0;
        println!("  {team}, weight {weight}: {count} calls, {share:.0} by weight");
        worst = worst.max(off);
    }
    println!("weights: of {counted} calls no team has {worst:.1} % more or less than by its weight");
    println!("  {} within 5 %", if worst <= 5.0 { "kept  " } else { "MISSED" });
    report::write("fairness-weights.json", &json!({"calls": counted, "worst_percent": worst}));
    worst <= 5.0
}

fn table(name: &str, routers: usize, teams: usize, waits: &[Wait]) -> bool {
    let mut calls: Vec<_> = waits.iter().map(|wait| wait.calls as u64).collect();
    let mut ms: Vec<_> = waits.iter().map(|wait| wait.ms).collect();
    calls.sort_unstable();
    ms.sort_unstable();
    let per_second = f64::from(MAX_IN_FLIGHT) / LATENCY.as_secs_f64();
    // docs/scheduling.md, "Bounds".
    let order = MAX_IN_FLIGHT as usize + 2 + routers * teams;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
    let bound = order as u64 + (per_second * NOTICED_MS as f64 / 1_000.0) as u64;
    let middle = |sorted: &[u64]| sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    let most = |sorted: &[u64]| sorted.last().copied().unwrap_or_default();
    println!(
        "{name}: {} requests behind floods; calls before it {} (median), {} (most); {} ms (median), {} ms (most)",
        waits.len(),
        middle(&calls),
        most(&calls),
        middle(&ms),
        most(&ms)
    );
    if let Some(worst) = waits.iter().max_by_key(|wait| wait.calls) {
        println!(
            "  the worst: {} behind {}: {} calls, {} ms",
            worst.quiet, worst.flood, worst.calls, worst.ms
        );
    }
    let is_kept = most(&calls) <= bound;
    println!(
        "  {} at most {bound} calls: {order}, and {NOTICED_MS} ms at {per_second:.0}/s",
        if is_kept { "kept  " } else { "MISSED" }
    );
    let path = report::write(
        &format!("fairness-{name}.json"),
        &json!({"routers": routers, "calls": calls, "ms": ms, "bound_calls": bound}),
    );
    println!("  written to {}", path.display());
    is_kept
}
