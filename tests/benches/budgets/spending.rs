//! Budgets that are spent to their end by four routers, and what an estimate costs in throughput.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use tollgate_tests::provider::Behaviour;
use tollgate_tests::wait::eventually;

use super::{COST, PATIENCE, Setting, TEAM, requests};
use crate::bar::bar;

const STRICT_REQUESTS: usize = 20_000;
const ESTIMATE_REQUESTS: usize = 3_000;

/// A budget of $1.00 and requests for two of them.
pub(super) async fn strict(binary: &Path) -> bool {
    let budget = format!(
        "[[budgets]]\nscope = {{ team = \"{TEAM}\" }}\nlimit_usd = \"1.00\"\nper = \"total\"\nwhen_spent = \"reject\"\nreserve = \"strict\"\n"
    );
    let limit = 1_000_000_000;
    println!("a strict budget of $1.00, {STRICT_REQUESTS} requests of $0.0001, four routers");
    let setting = Setting::start(binary, 256, &budget).await;
    let begun = Instant::now();
    setting.client.publish_all(&requests(STRICT_REQUESTS, 2)).await;
    setting.live.await_answered(STRICT_REQUESTS, PATIENCE).await;
    let took = begun.elapsed();
    let responses: Vec<Value> = setting.live.all().iter().map(|stored| stored.value()).collect();
    let succeeded = responses.iter().filter(|response| response["status"] == "succeeded").count();
    let exceeded = responses.iter().filter(|response| response["error"]["code"] == "budget_exceeded").count();
    let on_ledger = eventually(PATIENCE, "the ledger", async || {
        let total = setting.client.usage_by_team().await["total"]["cost_nano_usd"].as_i64();
        let last =
            setting.client.read_stream("LLM_BUDGET").await.last().map(|stored| total_of(&stored.value()));
        if total == last { Ok(total) } else { Err((total, last)) }
    })
    .await;
    let (most, entries) = most_held(&setting, limit).await;
    println!(
        "  {succeeded} succeeded, {exceeded} budget_exceeded, in {:.1} s; {entries} entries",
        took.as_secs_f64()
    );
    let mut kept = bar("never more than $1.00 reserved and spent", most <= limit);
    kept &= bar(
        "spent to less than one bound",
        on_ledger.is_some_and(|spent| spent <= limit && spent > limit - COST),
    );
    kept &= bar("everything else is rejected", succeeded + exceeded == STRICT_REQUESTS);
    kept & bar(
        "calls = spent",
        i64::try_from(setting.provider.total()).ok().map(|calls| calls * COST) == on_ledger,
    )
}

fn total_of(value: &Value) -> i64 {
    value["val"].as_str().and_then(|text| text.parse().ok()).expect("a counter's total")
}

/// The most that reservations that hold and what was spent ever were together, from the stream.
async fn most_held(setting: &Setting, limit: i64) -> (i64, usize) {
    let (mut held, mut most, mut refused) = (0, 0, HashMap::<String, i64>::new());
    let entries = setting.client.read_stream("LLM_BUDGET").await;
    for stored in &entries {
        let entry: Value =
            serde_json::from_str(stored.header("Tollgate-Entry").expect("a header")).expect("JSON");
        let amount: i64 = stored.header("Nats-Incr").and_then(|text| text.parse().ok()).expect("an amount");
        let tried = entry["try"].as_str().unwrap_or_default().to_owned();
        if entry["kind"] == "reserve" && total_of(&stored.value()) > limit {
            refused.insert(tried, amount);
            continue;
        }
        held += amount + refused.remove(&tried).unwrap_or(0);
        most = most.max(held);
    }
    (most, entries.len())
}

/// Requests that may cost far more than they do, against a budget that is little more than what all cost.
pub(super) async fn estimate(binary: &Path) -> bool {
    println!(
        "{ESTIMATE_REQUESTS} requests of max_tokens 16384 and two real ones, four routers, 64 calls of 50 ms"
    );
    let limit = COST * i64::try_from(ESTIMATE_REQUESTS).expect("few") * 11 / 10;
    let limit = tollgate_tests::money::usd(u64::try_from(limit).expect("positive"));
    let budget = format!(
        "[[budgets]]\nscope = {{ team = \"{TEAM}\" }}\nlimit_usd = \"{limit}\"\nper = \"total\"\nwhen_spent = \"reject\"\n"
    );
    let (without, _) = throughput(binary, "").await;
    let (with, rejected) = throughput(binary, &budget).await;
    println!("  {without:.0}/s without a budget, {with:.0}/s with one of {limit}: {:.2}", with / without);
    let mut kept = bar("none is rejected", rejected == 0);
    kept &= bar("more than half of the throughput", with > without / 2.0);
    kept
}

/// Requests per second, and how many did not succeed.
async fn throughput(binary: &Path, more: &str) -> (f64, usize) {
    let setting = Setting::start(binary, 64, more).await;
    setting.provider.always(Behaviour::Delay(Duration::from_millis(50)));
    let begun = Instant::now();
    setting.client.publish_all(&requests(ESTIMATE_REQUESTS, 16_384)).await;
    setting.live.await_answered(ESTIMATE_REQUESTS, PATIENCE).await;
    let per_second = ESTIMATE_REQUESTS as f64 / begun.elapsed().as_secs_f64();
    let failed = setting.live.all().iter().filter(|stored| stored.value()["status"] != "succeeded").count();
    (per_second, failed)
}
