use std::time::Duration;

use tollgate_tests::check::Expected;
use tollgate_tests::client::Client;
use tollgate_tests::provider::Behaviour;
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use crate::stage::{PATIENCE, Stage, config};

const TEAM: &str = "research";

/// The places per subject, and in all, of a stream.
async fn bounds(client: &Client, stream: &str) -> (i64, i64) {
    let stream = client.jetstream().get_stream(stream).await.unwrap();
    let config = &stream.cached_info().config;
    (config.max_messages_per_subject, config.max_messages)
}

async fn places(client: &Client) -> i64 {
    client.consumers("LLM_DISPATCH_sim").await[0].config.max_ack_pending
}

/// Lowering a stream's bound below what it holds deletes the oldest messages: here, requests that were accepted.
#[tokio::test(flavor = "multi_thread")]
async fn fewer_calls_at_a_time_lose_nothing_that_waits() {
    use Role::{Ledger, Router, Worker};
    let mut stage = Stage::with(&[Ledger, Router], |provider| config(provider, 64, &[TEAM])).await;
    let live = stage.client.watch(TEAM).await;
    let request = |n: usize| {
        let identity = Identity::new(TEAM, "bounds", &n.to_string());
        Request::chat(&identity, "small", &format!("bounds {n}"))
    };
    let requests: Vec<_> = (0..200).map(request).collect();
    stage.client.publish_all(&requests).await;
    eventually(PATIENCE, "a full dispatch stream", async || {
        match stage.client.message_count("LLM_DISPATCH_sim").await {
            72 => Ok(()),
            other => Err(other),
        }
    })
    .await;

    // Everything starts again with a quarter of the calls.
    stage.stop().await;
    stage.broker.configure(&config(&stage.provider, 16, &[TEAM]));
    stage.start(Router).await;
    assert_eq!(bounds(&stage.client, "LLM_DISPATCH_sim").await, (72, 88), "its 72 messages would not fit");
    assert_eq!(stage.client.message_count("LLM_DISPATCH_sim").await, 72);

    stage.provider.always(Behaviour::Delay(Duration::from_millis(20)));
    for role in [Worker, Worker, Ledger] {
        stage.start(role).await;
    }
    live.await_answered(requests.len(), PATIENCE).await;
    assert_eq!(places(&stage.client).await, 16);
    assert!(stage.provider.peak() <= 16, "{} calls at once over two workers", stage.provider.peak());
    let expected: Vec<_> = requests.iter().map(Expected::answered).collect();
    stage.settled(&expected, &[&live]).await.assert_clean();

    // More of them: the bounds and the places follow.
    stage.stop().await;
    stage.broker.configure(&config(&stage.provider, 128, &[TEAM]));
    for role in [Ledger, Router, Worker] {
        stage.start(role).await;
    }
    assert_eq!(bounds(&stage.client, "LLM_DISPATCH_sim").await, (144, 176));
    eventually(PATIENCE, "128 places", async || match places(&stage.client).await {
        128 => Ok(()),
        other => Err(other),
    })
    .await;
    let more = request(200);
    stage.client.publish(&more).await;
    stage.client.await_response(&more.identity, PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_of_a_team_is_only_ever_raised() {
    let queue = |max: u32| format!("[queue]\nteam_requests_max = {max}");
    let mut stage =
        Stage::with(&[Role::Worker], |provider| config(provider, 8, &[TEAM]).raw(&queue(20))).await;
    assert_eq!(bounds(&stage.client, "LLM_REQ").await.0, 20);
    // No router runs, so they stay.
    let request = |n: usize| {
        Request::chat(&Identity::new(TEAM, "queue", &n.to_string()), "small", &format!("queue {n}"))
    };
    for n in 0..20 {
        stage.client.publish(&request(n)).await;
    }
    let refused = stage.client.try_publish(&request(20)).await.expect_err("a full queue");
    assert!(format!("{refused:?}").contains("10077"), "{refused:?}");
    // Another priority is another queue.
    stage.client.publish(&request(21).priority("high")).await;

    stage.broker.configure(&config(&stage.provider, 8, &[TEAM]).raw(&queue(5)));
    stage.running[0].restart().await;
    assert_eq!(bounds(&stage.client, "LLM_REQ").await.0, 20, "lowered under what waits");
    assert_eq!(stage.client.message_count("LLM_REQ").await, 21);
    assert!(stage.running[0].process().stderr().contains("a bound stays higher than configured"));

    stage.broker.configure(&config(&stage.provider, 8, &[TEAM]).raw(&queue(50)));
    stage.running[0].restart().await;
    assert_eq!(bounds(&stage.client, "LLM_REQ").await.0, 50);
    stage.client.try_publish(&request(20)).await.unwrap();

    stage.start(Role::Router).await;
    for n in 0..22 {
        let response = stage.client.await_response(&request(n).identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded");
    }
    assert_eq!(stage.provider.total(), 22);
}
