//! Three nats-servers with three copies of everything, and the leader of the record killed under load.

use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use tollgate_tests::check::{Evidence, Expected, settled};
use tollgate_tests::client::Client;
use tollgate_tests::cluster::Cluster;
use tollgate_tests::provider::{Behaviour, Provider};
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::{Broker, Role};
use tollgate_tests::wait::eventually;

use crate::stage::{PATIENCE, PRICE, TARGET, config};

const TEAM: &str = "research";
const KILLS: usize = 5;

async fn leader(client: &Client) -> String {
    eventually(PATIENCE, "a leader of the record", async || {
        let mut stream =
            client.jetstream().get_stream("LLM_RECORD").await.map_err(|error| error.to_string())?;
        let info = stream.info().await.map_err(|error| error.to_string())?;
        info.cluster.as_ref().and_then(|cluster| cluster.leader.clone()).ok_or_else(|| "none".to_owned())
    })
    .await
}

/// Waits until every stream has all of its copies again: of three servers one at a time may be missing, and one that is
/// back and has not caught up is as good as missing.
async fn whole(client: &Client) {
    eventually(PATIENCE, "three copies of every stream", async || {
        let streams: Vec<_> =
            client.jetstream().streams().try_collect().await.map_err(|error| error.to_string())?;
        for stream in streams {
            let cluster = stream.cluster.ok_or("no cluster")?;
            let copies = cluster
                .replicas
                .iter()
                .filter(|copy| copy.current && !copy.offline && copy.lag.unwrap_or(0) == 0);
            match (cluster.leader, copies.count()) {
                (Some(_), 2) => {}
                other => return Err(format!("{}: {other:?}", stream.config.name)),
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_killed_five_times_loses_nothing_and_answers_nothing_twice() {
    let (mut cluster, provider) = tokio::join!(Cluster::start(), Provider::start());
    let soon = Duration::from_secs(5);
    let broker = Broker::new(&config(&provider, 16, &[TEAM]).timing(soon, soon), &cluster.urls());
    let mut running = Vec::new();
    for role in [Role::Ledger, Role::Worker, Role::Worker, Role::Router, Role::Router] {
        running.push(broker.run(role).await);
    }
    let client = Client::connect(&cluster.url(0)).await;
    let live = client.watch(TEAM).await;
    provider.always(Behaviour::Delay(Duration::from_millis(50)));

    let (mut published, mut gap) = (Vec::new(), Duration::ZERO);
    for kill in 0..KILLS {
        whole(&client).await;
        let leader = leader(&client).await;
        let mut last = Instant::now();
        for n in 0..60 {
            if n == 20 {
                cluster.kill9(&leader);
            }
            let identity = Identity::new(TEAM, "cluster", &format!("{kill}-{n}"));
            let request = Request::chat(&identity, "small", &format!("cluster {kill} {n}"));
            // One after the other, each again until it is acknowledged: what lies between two of them is the gap.
            client.publish(&request).await;
            published.push(request);
            gap = gap.max(last.elapsed());
            last = Instant::now();
        }
        cluster.restart(&leader).await;
    }
    for request in &published {
        let response = client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{response}");
    }
    let expected: Vec<_> = published.iter().map(Expected::answered).collect();
    settled(PATIENCE, async || {
        Evidence::gather(&client, &expected, &[(TARGET, PRICE)], &[&live], &[&provider]).await
    })
    .await
    .assert_clean();
    assert_eq!(live.stored_twice(), []);
    eprintln!(
        "{} requests, {KILLS} leaders killed, write gap {gap:?}, passed on again {}",
        published.len(),
        live.duplicates()
    );
}
