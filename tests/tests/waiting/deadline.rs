//! Deadlines are kept wherever a request lies, and never a moment early.

use std::time::Duration;

use serde_json::{Value, json};
use tollgate_tests::client::Client;
use tollgate_tests::provider::Behaviour;
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use crate::stage::{PATIENCE, Stage, config};

const TEAM: &str = "research";

fn request(id: &str) -> Request {
    Request::chat(&Identity::new(TEAM, "deadline", id), "small", id)
}

async fn expired(client: &Client, request: &Request, ttl_ms: u64) -> Value {
    let response = client.await_response(&request.identity, PATIENCE).await.value();
    assert_eq!(response["status"], "expired", "{response}");
    assert_eq!(response["error"]["code"], "deadline_exceeded");
    let total = response["timing"]["total_ms"].as_u64().unwrap();
    assert!(total >= ttl_ms, "{total} ms: before its deadline: {response}");
    response
}

/// Nobody pulls: no worker for what is dispatched, and more in the lane than a router takes.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_pulls_ends_at_its_deadline() {
    let stage = Stage::with(&[Role::Router], |provider| config(provider, 1, &[TEAM])).await;
    let requests: Vec<_> = (0..100).map(|n| request(&format!("lying-{n}")).field("ttl_ms", 3_000)).collect();
    stage.client.publish_all(&requests).await;
    for request in &requests {
        expired(&stage.client, request, 3_000).await;
    }
    stage.idle().await;
    assert_eq!(stage.provider.total(), 0);
}

/// Its worker is dead, and the message comes again only much later.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_worker_died_ends_at_the_deadline_of_its_request() {
    let minute = Duration::from_secs(60);
    let mut stage = Stage::with(&[Role::Ledger, Role::Router, Role::Worker], |provider| {
        config(provider, 4, &[TEAM]).timing(minute, minute)
    })
    .await;
    stage.provider.always(Behaviour::Hang);
    let request = request("orphan").field("ttl_ms", 4_000);
    stage.client.publish(&request).await;
    eventually(PATIENCE, "a call", async || (stage.provider.total() == 1).then_some(())).await;
    stage.running[2].kill9();
    let response = expired(&stage.client, &request, 4_000).await;
    let attempts = response["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 1);
    assert_eq!((&attempts[0]["outcome"], &attempts[0]["estimated"]), (&"lost".into(), &true.into()));
    assert!(response["timing"]["total_ms"].as_u64().unwrap() < 60_000, "not when the message came again");
    // What it may have cost is counted.
    let usage = eventually(PATIENCE, "the lost call on the ledger", async || {
        let usage = stage.client.usage_by_team().await;
        if usage["total"]["lost"] == 1 { Ok(usage) } else { Err(usage.to_string()) }
    })
    .await;
    assert_eq!(usage["total"]["cost_nano_usd"], response["cost_nano_usd"]);
    stage.running.truncate(2);
}

/// Its worker died between the response and the usage event, and its deadline comes before its message does.
#[tokio::test(flavor = "multi_thread")]
async fn an_answered_call_whose_worker_died_is_counted_when_its_deadline_passes() {
    let minute = Duration::from_secs(60);
    let mut stage = Stage::with(&[Role::Ledger, Role::Router, Role::Worker], |provider| {
        config(provider, 4, &[TEAM]).timing(minute, minute)
    })
    .await;
    stage.running[2].restart_at(Some("worker.answered:1:kill"));
    stage.running[2].await_ready().await;
    let request = request("uncounted").field("ttl_ms", 6_000);
    stage.client.publish(&request).await;
    let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
    assert_eq!(response["status"], "succeeded", "{response}");
    let usage = eventually(PATIENCE, "the call on the ledger", async || {
        let usage = stage.client.usage_by_team().await;
        if usage["total"]["requests"] == 1 { Ok(usage) } else { Err(usage.to_string()) }
    })
    .await;
    assert_eq!(usage["total"]["cost_nano_usd"], response["cost_nano_usd"]);
    assert_eq!(usage["total"]["lost"], 0, "{usage}");
    stage.running.truncate(2);
}

/// The same for a call that its worker cut at the deadline: it ended nothing, and may have been charged.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_cut_at_the_deadline_is_counted_although_its_worker_died() {
    let minute = Duration::from_secs(60);
    let mut stage = Stage::with(&[Role::Ledger, Role::Router, Role::Worker], |provider| {
        config(provider, 4, &[TEAM]).timing(minute, minute)
    })
    .await;
    stage.provider.always(Behaviour::Hang);
    stage.running[2].restart_at(Some("worker.answered:1:kill"));
    stage.running[2].await_ready().await;
    let request = request("cut").field("ttl_ms", 8_000);
    stage.client.publish(&request).await;
    let response = expired(&stage.client, &request, 8_000).await;
    assert!(response["cost_nano_usd"].as_i64().unwrap() > 0, "{response}");
    // The call is one event, and the end of the request another.
    let usage = eventually(PATIENCE, "the call and its request on the ledger", async || {
        let usage = stage.client.usage_by_team().await;
        let is_whole = usage["total"]["attempts"] == 1 && usage["total"]["requests"] == 1;
        if is_whole { Ok(usage) } else { Err(usage.to_string()) }
    })
    .await;
    assert_eq!(usage["total"]["cost_nano_usd"], response["cost_nano_usd"]);
    assert_eq!((&usage["total"]["requests"], &usage["total"]["lost"]), (&1.into(), &0.into()), "{usage}");
    stage.running.truncate(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_called_before_its_time() {
    let stage = Stage::up(|provider| config(provider, 4, &[TEAM])).await;
    let at = chrono::Utc::now() + chrono::TimeDelta::seconds(3);
    let later = request("later").field("not_before", json!(at.to_rfc3339()));
    let past = request("past").field("not_before", json!("2020-01-01T00:00:00Z"));
    let never = request("never").field("not_before", json!(at.to_rfc3339())).field("ttl_ms", 1_500);
    stage.client.publish_all(&[later.clone(), past.clone(), never.clone()]).await;
    for request in [&past, &later] {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{response}");
    }
    let call = &stage.provider.calls_of("later")[0];
    assert!(chrono::DateTime::<chrono::Utc>::from(call.arrived_at) >= at, "called early");
    // One that could never be called is wrong.
    let response = stage.client.await_response(&never.identity, PATIENCE).await.value();
    assert_eq!(
        (&response["status"], &response["error"]["field"]),
        (&"rejected".into(), &"not_before".into())
    );
    // The same again is the same request.
    stage.client.publish(&later).await;
    stage.idle().await;
    assert_eq!(stage.provider.calls_of("later").len(), 1);
}
