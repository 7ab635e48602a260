//! A million requests that wait: what they cost a router, and whether urgent ones and deadlines still have their due.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use serde_json::json;
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use crate::bar::bar;
use crate::setting::{Setting, ms, percentile, request};
use crate::support::machine;
use crate::support::report::write;

const WAITING: usize = 1_000_000;
const TEAMS: usize = 20;
/// Further ones behind them, with a deadline that they will not be served before.
const EXPIRING: usize = 2_000;
const TTL_MS: u64 = 20_000;
const MAX_IN_FLIGHT: u32 = 16;
const SERVICE: Duration = Duration::from_millis(100);
const URGENT: usize = 200;
const ROUTER_MIB_MAX: f64 = 200.0;
const EXPIRED_WITHIN_S: f64 = 30.0;
const PATIENCE: Duration = Duration::from_secs(900);
const PUBLISH_AT_ONCE: usize = 512;

pub(crate) async fn measure(binary: &Path) -> bool {
    let names: Vec<String> = (0..TEAMS).map(|n| format!("team-{n}")).collect();
    let teams: BTreeMap<&str, u32> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let mut setting = Setting::start(binary, 1, MAX_IN_FLIGHT, SERVICE, &teams).await;
    let router = setting.running[0].process().pid();
    let empty_mib = machine::rss_mib(router);

    let start = Instant::now();
    let publishes = (0..WAITING).map(|n| {
        let (client, team) = (&setting.client, &names[n % TEAMS]);
        async move {
            let (request, _) = request(team, "waiting", n);
            client.publish(&request.priority("low")).await;
        }
    });
    stream::iter(publishes).buffer_unordered(PUBLISH_AT_ONCE).collect::<()>().await;
    let published_s = start.elapsed().as_secs_f64();
    let metrics = format!("{}/metrics", setting.running[0].http());
    eventually(PATIENCE, "the router to know of all that wait", async || {
        let text = tollgate_tests::http().get(&metrics).send().await.ok()?.text().await.ok()?;
        let indexed = text.lines().find_map(|line| line.strip_prefix("tollgate_indexed "))?;
        indexed.parse::<f64>().ok().filter(|indexed| *indexed >= (WAITING - 10_000) as f64)
    })
    .await;
    let queued_mib = machine::rss_mib(router);
    println!("million: {WAITING} of {TEAMS} teams published in {published_s:.0} s");

    setting.run(Role::Worker).await;
    let mut waits = Vec::new();
    for n in 0..URGENT {
        let (request, text) = request(&names[n % TEAMS], "urgent", n);
        waits.push(ms(setting.started_after(&request.priority("high"), &text, PATIENCE).await));
    }
    waits.sort_by(f64::total_cmp);
    let (p50, p95, most) = (percentile(&waits, 50), percentile(&waits, 95), percentile(&waits, 100));
    println!(
        "  {URGENT} urgent ones start after {p50:.0} ms (median), {p95:.0} ms (p95), {most:.0} ms (most)"
    );

    let late = expired(&setting, &names).await;
    println!(
        "  {EXPIRING} with a deadline: ended {:.1} s after it (median), {:.1} s (most)",
        percentile(&late, 50),
        percentile(&late, 100)
    );
    let (peak_mib, server_mib) = (machine::peak_mib(router), machine::rss_mib(setting.nats.pid()));
    println!(
        "  router: {empty_mib:.0} MiB empty, {queued_mib:.0} with all waiting, {peak_mib:.0} at most; \
         nats-server {server_mib:.0} MiB"
    );
    let mut kept = bar("the router is below 200 MiB", peak_mib < ROUTER_MIB_MAX);
    kept &= bar("an urgent one starts within one service time (p95)", p95 <= ms(SERVICE));
    kept &= bar("none has ended before its deadline", late.first().is_some_and(|late| *late >= 0.0));
    kept &= bar("every deadline is answered within 30 s", percentile(&late, 100) <= EXPIRED_WITHIN_S);
    let result = json!({
        "published_s": published_s, "router_empty_mib": empty_mib, "router_queued_mib": queued_mib,
        "router_peak_mib": peak_mib, "nats_server_mib": server_mib, "urgent_ms": waits,
        "late_s": late,
    });
    println!("  written to {}", write("scale-million.json", &result).display());
    kept
}

/// Publishes those with a deadline, and says how many seconds after it each of them was answered.
async fn expired(setting: &Setting, names: &[String]) -> Vec<f64> {
    let requests: Vec<_> = (0..EXPIRING)
        .map(|n| request(&names[n % TEAMS], "expiring", n).0.priority("low").field("ttl_ms", TTL_MS))
        .collect();
    setting.client.publish_all(&requests).await;
    let mut late = Vec::new();
    for request in &requests {
        let response = setting.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "expired", "{response}");
        let ms = response["timing"]["total_ms"].as_f64().expect("a response says how long it took");
        late.push((ms - TTL_MS as f64) / 1_000.0);
    }
    late.sort_by(f64::total_cmp);
    late
}
