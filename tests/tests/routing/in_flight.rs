//! `max_in_flight` holds over all workers together, whatever happens to them.

use std::time::Duration;

use tollgate_tests::provider::{Behaviour, Provider};
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use crate::stage::{PATIENCE, PRICE, Stage, TARGET, config};

const TEAM: &str = "research";

fn requests(group: &str, count: usize, model: &str) -> Vec<Request> {
    let one =
        |n: usize| Request::chat(&Identity::new(TEAM, group, &n.to_string()), model, &format!("{group} {n}"));
    (0..count).map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn four_workers_make_no_more_calls_than_one_may() {
    let soon = Duration::from_secs(2);
    let roles = [Role::Router, Role::Worker, Role::Worker, Role::Worker, Role::Worker];
    let mut stage = Stage::with(&roles, |provider| config(provider, 16, &[TEAM]).timing(soon, soon)).await;
    stage.provider.script(|call| Behaviour::Delay(Duration::from_millis(call.number as u64 * 37 % 200)));
    let requests = requests("four", 800, "small");
    stage.client.publish_all(&requests).await;
    for victim in 1..=4 {
        eventually(PATIENCE, "calls", async || (stage.provider.in_flight() >= 8).then_some(())).await;
        stage.running[victim].kill9();
        stage.running[victim].restart().await;
    }
    for request in &requests {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{response}");
    }
    assert!(stage.provider.peak() <= 16, "{} calls at once", stage.provider.peak());
}

/// The number is changed by the new configuration of the workers, one after the other, under load.
#[tokio::test(flavor = "multi_thread")]
async fn fewer_and_more_calls_at_a_time_lose_nothing() {
    let roles = [Role::Router, Role::Worker, Role::Worker];
    let mut stage = Stage::with(&roles, |provider| config(provider, 64, &[TEAM])).await;
    stage.provider.always(Behaviour::Delay(Duration::from_millis(100)));
    let mut all = Vec::new();
    for (round, places) in [16_u32, 64].into_iter().enumerate() {
        let more = requests(&format!("round-{round}"), 600, "small");
        let publishing = stage.client.publish_all(&more);
        tokio::join!(publishing, async {
            eventually(PATIENCE, "calls", async || (stage.provider.in_flight() >= 8).then_some(())).await;
        });
        stage.broker.configure(&config(&stage.provider, places, &[TEAM]));
        for worker in [1, 2] {
            stage.running[worker].term();
            stage.running[worker].process().ended(PATIENCE).await;
            stage.running[worker].restart().await;
        }
        if places == 16 {
            // The calls of the old ones have ended with them.
            let from = stage.provider.total();
            let last = requests("after", 300, "small");
            stage.client.publish_all(&last).await;
            for request in &last {
                stage.client.await_response(&request.identity, PATIENCE).await;
            }
            let calls = stage.provider.calls();
            let most = calls[from..].iter().map(|call| {
                let is_open = |other: &&tollgate_tests::provider::Call| {
                    other.arrived <= call.arrived && other.ended.is_none_or(|end| end > call.arrived)
                };
                calls.iter().filter(is_open).count()
            });
            let most = most.max().unwrap_or_default();
            assert!(most <= 16, "{most} calls at once");
            all.extend(last);
        }
        all.extend(more);
    }
    for request in &all {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{response}");
    }
    stage.idle().await;
    assert_eq!(stage.provider.total(), all.len(), "each is called once");
}

/// Two providers without a free place, whose requests fall back to each other: nobody waits for a place while he holds one.
#[tokio::test(flavor = "multi_thread")]
async fn two_full_providers_that_fall_back_to_each_other_do_not_block() {
    let backup = Provider::start().await;
    let stage = Stage::up(|provider| {
        config(provider, 2, &[TEAM])
            .provider("backup", &backup.base_url(), 2, &[("b-1", PRICE)])
            .model("there", &[TARGET, "backup/b-1"])
            .model("back", &["backup/b-1", TARGET])
    })
    .await;
    // The first call of each request is refused by whoever gets it, for a reason that only the other can help with.
    let refuse = |call: &tollgate_tests::provider::Call, mine: &str| {
        if call.key.starts_with(mine) {
            Behaviour::error(404, "model_not_found", None)
        } else {
            Behaviour::Delay(Duration::from_millis(20))
        }
    };
    stage.provider.script(move |call| refuse(call, "there"));
    backup.script(move |call| refuse(call, "back"));
    let all: Vec<_> =
        requests("there", 150, "there").into_iter().chain(requests("back", 150, "back")).collect();
    stage.client.publish_all(&all).await;
    for request in &all {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{response}");
        assert_eq!(response["attempts"].as_array().unwrap().len(), 2, "{response}");
    }
    stage.idle().await;
    assert!(stage.provider.peak() <= 2 && backup.peak() <= 2);
}
