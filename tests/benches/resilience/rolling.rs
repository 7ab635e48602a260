//! Every role is replaced while 200 requests a second go through.

use std::path::Path;
use std::time::{Duration, Instant};

use tollgate_tests::client::Client;
use tollgate_tests::config::Config;
use tollgate_tests::money::Price;
use tollgate_tests::nats::NatsServer;
use tollgate_tests::provider::{Behaviour, Provider};
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::{Broker, Role};

use super::quantile;
use crate::bar::bar;

const PER_SECOND: u64 = 200;
const SECONDS: u64 = 60;
const TEAM: &str = "rolling";
/// What is left to the server's own wait shows as a request that took at least so long: the default.
const ACK_WAIT_MS: u64 = 30_000;

pub(super) async fn measure(binary: &Path) -> bool {
    let (nats, provider) = tokio::join!(NatsServer::start(), Provider::start());
    let price = Price { input: 150_000_000, cached_input: 75_000_000, output: 600_000_000 };
    let config = Config::new().team(TEAM).provider("sim", &provider.base_url(), 64, &[("m-1", price)]);
    let broker = Broker::with_binary(binary, &config.model("small", &["sim/m-1"]), &nats.url());
    provider.always(Behaviour::Delay(Duration::from_millis(50)));
    let mut running = Vec::new();
    for role in [Role::Router, Role::Router, Role::Worker, Role::Worker, Role::Ledger, Role::Ask] {
        running.push(broker.run(role).await);
    }
    let client = Client::connect(&nats.url()).await;
    let live = client.watch(TEAM).await;
    let total = PER_SECOND * SECONDS;
    println!("rolling restart of every role under {PER_SECOND} requests/s for {SECONDS} s");

    let publishing = tokio::spawn({
        let client = client.clone();
        async move {
            let mut ticks =
                tokio::time::interval(Duration::from_secs(1) / u32::try_from(PER_SECOND).expect("small"));
            let mut sent = tokio::task::JoinSet::new();
            for n in 0..total {
                ticks.tick().await;
                let identity = Identity::new(TEAM, "load", &format!("r{n}"));
                let request = Request::chat(&identity, "small", &format!("rolling {n}"));
                sent.spawn(client.clone().publish_owned(request));
            }
            sent.join_all().await;
        }
    });
    let begun = Instant::now();
    let mut restarts = 0;
    // A ledger's folder has one owner, so it is the only one whose successor starts after it.
    for (index, role) in [Role::Router, Role::Router, Role::Worker, Role::Worker, Role::Ledger, Role::Ask]
        .into_iter()
        .enumerate()
        .cycle()
        .take(18)
    {
        tokio::time::sleep(Duration::from_secs(2)).await;
        if role == Role::Ledger {
            running[index].term();
            running[index].process().ended(Duration::from_secs(60)).await;
            running[index] = broker.run(role).await;
        } else {
            let next = broker.run(role).await;
            running[index].term();
            running[index].process().ended(Duration::from_secs(60)).await;
            running[index] = next;
        }
        restarts += 1;
        if begun.elapsed() > Duration::from_secs(SECONDS - 4) {
            break;
        }
    }
    publishing.await.expect("publishing does not panic");
    live.await_answered(usize::try_from(total).expect("few"), Duration::from_secs(60)).await;
    let mut took: Vec<u64> = live
        .all()
        .iter()
        .map(|stored| stored.value()["timing"]["total_ms"].as_u64().unwrap_or(u64::MAX))
        .collect();
    took.sort_unstable();
    let lost = took.iter().filter(|ms| **ms == u64::MAX).count();
    let (p50, p99, most) = (quantile(&took, 0.5), quantile(&took, 0.99), quantile(&took, 1.0));
    println!(
        "  {restarts} restarts; {} answered, {} calls; p50 {p50} ms, p99 {p99} ms, longest {most} ms",
        took.len(),
        provider.total()
    );
    let mut kept = bar("0 lost", took.len() as u64 == total && lost == 0);
    kept &=
        bar("0 answered twice, 0 called twice", live.duplicates() == 0 && provider.total() as u64 == total);
    kept &= bar("p99 under 2 s", p99 < 2_000);
    kept &= bar("no redelivery by timeout", most < ACK_WAIT_MS);
    kept
}
