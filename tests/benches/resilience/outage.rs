//! All targets of 20,000 requests are down; another provider goes on; then they are up again.

use std::path::Path;
use std::time::{Duration, Instant};

use tollgate_tests::client::{Client, Live};
use tollgate_tests::config::Config;
use tollgate_tests::money::Price;
use tollgate_tests::nats::NatsServer;
use tollgate_tests::provider::{Behaviour, Call, Provider};
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::{Broker, Role, Running};
use tollgate_tests::wait::eventually;

use super::quantile;
use crate::bar::bar;

const WAITING: usize = 20_000;
const IN_FLIGHT: u32 = 64;
const LATENCY: Duration = Duration::from_millis(100);
/// The load of the healthy provider.
const HEALTHY_PER_SECOND: u32 = 100;
const HEALTHY_SECONDS: u64 = 15;
/// After so long an outage may no longer be felt by others.
const FELT_FOR: Duration = Duration::from_secs(5);

struct Bench {
    client: Client,
    waiting: Live,
    live: Live,
    _running: Vec<Running>,
    failing: Provider,
    healthy: Provider,
    _nats: NatsServer,
}

async fn start(binary: &Path) -> Bench {
    let nats = NatsServer::start().await;
    let (failing, healthy) = tokio::join!(Provider::start(), Provider::start());
    let price = Price { input: 150_000_000, cached_input: 75_000_000, output: 600_000_000 };
    let config = Config::new()
        .team("batch")
        .team("live")
        .provider("failing", &failing.base_url(), IN_FLIGHT, &[("f-1", price)])
        .provider("healthy", &healthy.base_url(), IN_FLIGHT, &[("h-1", price)])
        .model("batch", &["failing/f-1"])
        .model("live", &["healthy/h-1"]);
    let broker = Broker::with_binary(binary, &config, &nats.url());
    failing.always(Behaviour::Delay(LATENCY));
    healthy.always(Behaviour::Delay(LATENCY));
    let mut running = Vec::new();
    for role in [Role::Ledger, Role::Router, Role::Worker] {
        running.push(broker.run(role).await);
    }
    let client = Client::connect(&nats.url()).await;
    let waiting = client.watch("batch").await;
    let live = client.watch("live").await;
    Bench { client, waiting, live, _running: running, failing, healthy, _nats: nats }
}

fn batch(group: &str, count: usize) -> Vec<Request> {
    let one = |n: usize| {
        Request::chat(&Identity::new("batch", group, &n.to_string()), "batch", &format!("{group} {n}"))
    };
    (0..count).map(one).collect()
}

/// Calls of the healthy provider in these seconds: how many a second, and the p99 from acceptance to the call.
async fn live_load(bench: &Bench, group: &str) -> (f64, u64) {
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / HEALTHY_PER_SECOND);
    let mut sent = tokio::task::JoinSet::new();
    let mut n = 0;
    while begun.elapsed() < Duration::from_secs(HEALTHY_SECONDS) {
        ticks.tick().await;
        let key = format!("{group}-{n}");
        n += 1;
        let request = Request::chat(&Identity::new("live", group, &key), "live", &key).priority("high");
        sent.spawn(bench.client.clone().publish_owned(request));
    }
    sent.join_all().await;
    let all = || bench.live.all().into_iter().filter(|stored| stored.subject.contains(group));
    eventually(Duration::from_secs(300), "all answers of the other provider", async || match all().count() {
        count if count >= n => Ok(()),
        count => Err(count),
    })
    .await;
    let delay = |stored: tollgate_tests::client::Stored| stored.value()["timing"]["queued_ms"].as_u64();
    let mut delays: Vec<u64> = all().filter_map(delay).collect();
    delays.sort_unstable();
    let calls = bench.healthy.calls().iter().filter(|call| call.key.starts_with(group)).count();
    (calls as f64 / begun.elapsed().as_secs_f64(), quantile(&delays, 0.99))
}

/// Good calls that ended in each second from `since` on.
fn each_second(calls: &[Call], since: Instant) -> Vec<usize> {
    let mut seconds = Vec::new();
    for ended in calls.iter().filter_map(|call| call.ended).filter(|ended| *ended >= since) {
        let second = usize::try_from((ended - since).as_secs()).expect("few");
        if seconds.len() <= second {
            seconds.resize(second + 1, 0);
        }
        seconds[second] += 1;
    }
    seconds
}

pub(super) async fn measure(binary: &Path) -> bool {
    println!("an outage with {WAITING} requests waiting, and another provider that goes on");
    let mut bench = start(binary).await;
    let (rate_before, delay_before) = live_load(&bench, "before").await;

    let begun = Instant::now();
    let warm = batch("warm", 4_000);
    bench.client.publish_all(&warm).await;
    bench.waiting.await_answered(warm.len(), Duration::from_secs(300)).await;
    let steady = warm.len() as f64 / begun.elapsed().as_secs_f64();
    let peak_before = bench.failing.peak();
    println!(
        "  steady {steady:.0}/s at {peak_before} calls at once; the other: {rate_before:.0}/s, p99 start delay {delay_before} ms"
    );

    bench.failing.stop().await;
    let outage = Instant::now();
    let waiting = batch("waiting", WAITING);
    let publishing = bench.client.publish_all(&waiting);
    let live = async {
        tokio::time::sleep_until((outage + FELT_FOR).into()).await;
        live_load(&bench, "during").await
    };
    let ((), (rate_during, delay_during)) = tokio::join!(publishing, live);
    let held = bench.client.message_count("LLM_RETRY").await;
    println!(
        "  outage of {:.0} s: {held} held; the other: {rate_during:.0}/s, p99 start delay {delay_during} ms",
        outage.elapsed().as_secs_f64()
    );

    let back = Instant::now();
    bench.failing.restart().await;
    bench.waiting.await_answered(warm.len() + waiting.len(), Duration::from_secs(600)).await;
    let all_in = back.elapsed().as_secs_f64();
    let seconds = each_second(&bench.failing.calls(), back);
    let reached = seconds.iter().position(|count| *count as f64 >= 0.8 * steady);
    let peak = bench.failing.peak();
    println!(
        "  all answered {all_in:.0} s after recovery; calls in each second: {:?}",
        &seconds[..seconds.len().min(30)]
    );

    let mut kept = bar("all answered, each once", bench.waiting.duplicates() == 0);
    kept &= bar(
        "within 30 s of recovery at least 80 % of the steady throughput",
        reached.is_some_and(|second| second < 30),
    );
    kept &= bar("never above twice the steady concurrency", peak <= 2 * peak_before);
    kept &= bar("the other keeps 80 % of its throughput", rate_during >= 0.8 * rate_before);
    // Below some milliseconds the clock's own steps would be compared.
    kept &= bar("and starts no later than twice as late", delay_during <= 2 * delay_before.max(10));
    kept
}
