//! A long queue without anybody to work on it: what it costs a router, and that all of it is answered in the end.
//!
//! `cargo bench --bench backlog -- --requests 20000` takes a shorter queue.

#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark is a shell: it reads the clock and its environment and has tasks of its own"
)]
#![expect(clippy::print_stdout, reason = "the table is what it is for")]
#![expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]

#[path = "../support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::Subscriber;
use async_nats::jetstream::Context;
use futures_util::{StreamExt, TryStreamExt};
use serde_json::json;
use tollgate_tests::nats::NatsServer;
use tollgate_tests::roles::{Broker, Role};
use tollgate_tests::wait::eventually;

use support::broker::{self, Provider};
use support::client::{TEAM, connect, number_of, publish, responses};
use support::{machine, report};

/// The most memory that a router may take, whatever waits.
const ROUTER_MIB_MAX: f64 = 150.0;
const PREFIX: &str = "llm";
const MAX_IN_FLIGHT: usize = 512;
/// Publishes under way at once.
const PUBLISH_AT_ONCE: usize = 512;
/// No answer for this long, and the rest will not come.
const STALLED: Duration = Duration::from_secs(30);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut values = arguments.iter().skip_while(|argument| *argument != "--requests").skip(1);
    let requests = values.next().map_or(200_000, |text| text.parse().expect("--requests takes a number"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be built");
    runtime.block_on(measure(requests));
}

async fn measure(requests: u64) {
    let binary = broker::binary();
    let dir = tempfile::Builder::new().prefix("bench-").tempdir().expect("a temporary folder can be made");
    let (nats, provider) = (NatsServer::start().await, Provider::start(&binary, dir.path()).await);
    let config = broker::config(PREFIX, provider.base_url(), MAX_IN_FLIGHT);
    let broker = Broker::with_binary(&binary, &config, &nats.url());
    let load_average = machine::load_average();

    let router = broker.run(Role::Router).await;
    let pid = router.process().pid();
    let empty_mib = machine::rss_mib(pid);
    let jetstream = connect(&nats.url()).await;
    let republished = count(responses(&jetstream, PREFIX).await);
    let start = Instant::now();
    let publishes = futures_util::stream::iter(0..requests).map(|number| publish(&jetstream, PREFIX, number));
    publishes.buffer_unordered(PUBLISH_AT_ONCE).collect::<()>().await;
    let published_in = start.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (queued_mib, server_mib) = (machine::rss_mib(pid), machine::rss_mib(nats.pid()));
    println!("{requests} requests published in {published_in:.1} s; router {queued_mib:.0} MiB");

    let start = Instant::now();
    let worker = broker.run(Role::Worker).await;
    let mut last = (0, Instant::now());
    eventually(Duration::from_secs(3_600), "an answer for every request", async || {
        let answered = republished.load(Ordering::Relaxed);
        if answered > last.0 {
            last = (answered, Instant::now());
        }
        assert!(last.1.elapsed() < STALLED, "{answered} of {requests} were answered, and then no more");
        if answered >= requests { Ok(()) } else { Err(answered) }
    })
    .await;
    let answered_in = start.elapsed().as_secs_f64();
    let answers = answers(&jetstream).await;
    let wrong: Vec<u64> = (0..requests).filter(|id| answers.get(id) != Some(&1)).collect();
    assert!(wrong.is_empty(), "{} ids have not exactly one answer, such as {:?}", wrong.len(), wrong.first());
    assert_eq!(answers.len() as u64, requests, "there are answers that nobody asked for");
    assert_eq!(republished.load(Ordering::Relaxed), requests, "a response was republished twice");

    let peak_mib = machine::peak_mib(pid);
    let router_cpu_s = machine::cpu_seconds(pid);
    println!(
        "{} cores, load average {load_average:.1} before, {:.1} after",
        machine::cores(),
        machine::load_average()
    );
    println!(
        "router: {empty_mib:.0} MiB empty, {queued_mib:.0} MiB with {requests} queued, {peak_mib:.0} MiB at most, \
         {router_cpu_s:.1} s of CPU; nats-server {server_mib:.0} MiB"
    );
    println!("bar < {ROUTER_MIB_MAX:.0} MiB: {}", report::verdict(peak_mib < ROUTER_MIB_MAX));
    println!(
        "one worker answered all {requests}, each once, in {answered_in:.1} s: {:.0}/s",
        requests as f64 / answered_in
    );
    let path = report::write(
        "backlog.json",
        &json!({
            "requests": requests,
            "load_average": load_average,
            "published_s": published_in,
            "router_empty_mib": empty_mib,
            "router_queued_mib": queued_mib,
            "router_peak_mib": peak_mib,
            "router_cpu_s": router_cpu_s,
            "worker_mib": machine::rss_mib(worker.process().pid()),
            "simulator_mib": machine::rss_mib(provider.pid()),
            "nats_server_mib": server_mib,
            "answered_s": answered_in,
            "answered_per_second": requests as f64 / answered_in,
        }),
    );
    println!("written to {}", path.display());
}

/// Counts responses as they are republished.
fn count(mut responses: Subscriber) -> Arc<AtomicU64> {
    let counted = Arc::<AtomicU64>::default();
    let counting = counted.clone();
    tokio::spawn(async move {
        while responses.next().await.is_some() {
            counting.fetch_add(1, Ordering::Relaxed);
        }
    });
    counted
}

/// How many stored responses each request has, from the stream itself.
async fn answers(jetstream: &Context) -> HashMap<u64, u64> {
    let name = format!("{}_RECORD", PREFIX.to_ascii_uppercase());
    let stream = jetstream.get_stream(name).await.expect("the record stream is there");
    let responses = format!("{PREFIX}.res.{TEAM}.>");
    let mut subjects = stream.info_with_subjects(&responses).await.expect("subjects can be listed");
    let mut answers = HashMap::new();
    while let Some((subject, count)) = subjects.try_next().await.expect("subjects can be listed") {
        let id = number_of(&subject).unwrap_or_else(|| panic!("a response under {subject}"));
        *answers.entry(id).or_default() += u64::try_from(count).expect("a small number");
    }
    answers
}
