//! The loop guard: what the same caller asks for again and again is held for another minute, and told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use tollgate_tests::config::Config;
use tollgate_tests::provider::Provider;
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use super::hard::{PRICE, TEAM};
use crate::stage::{PATIENCE, Stage};

const ROLES: [Role; 3] = [Role::Worker, Role::Router, Role::Router];
const LIMIT: usize = 5;
const MINUTE: Duration = Duration::from_secs(60);

fn config(provider: &Provider, more: &str) -> Config {
    Config::new()
        .provider("sim", &provider.base_url(), 32, &[("m-1", PRICE)])
        .model("small", &["sim/m-1"])
        .team(TEAM)
        .raw(&format!("[[limits]]\nname = \"loop\"\nscope = {{}}\nsame_body_per_minute = {LIMIT}\n{more}\n"))
}

fn asked(id: &str, user: &str, text: &str) -> Request {
    Request::chat(&Identity::new(TEAM, "loops", id), "small", text).field("user", user)
}

/// Waits until so much of this minute is left, so that what follows is all in one.
async fn with_time_left(left: Duration) {
    eventually(Duration::from_secs(90), "a minute with time left", async || {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        (since.as_secs() % 60 + left.as_secs() < 60).then_some(())
    })
    .await;
}

/// How many calls of a text began in each minute.
fn by_minute(provider: &Provider, text: &str) -> BTreeMap<u64, usize> {
    let mut minutes = BTreeMap::new();
    for call in provider.calls_of(text) {
        let since = call.arrived_at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        *minutes.entry(since.as_secs() / 60).or_default() += 1;
    }
    minutes
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_body_from_the_same_caller_is_held_for_another_minute_and_told() {
    let mut stage = Stage::with(&ROLES, |provider| config(provider, "")).await;
    let live = stage.client.watch(TEAM).await;
    with_time_left(Duration::from_secs(20)).await;
    let start = SystemTime::now();
    let looping: Vec<_> = (0..2 * LIMIT).map(|n| asked(&format!("loop-{n}"), "agent", "again")).collect();
    let innocent: Vec<_> =
        (0..2 * LIMIT).map(|n| asked(&format!("other-{n}"), "agent", &format!("t{n}"))).collect();
    let elsewhere: Vec<_> = (0..LIMIT).map(|n| asked(&format!("person-{n}"), "person", "again")).collect();
    stage.client.publish_all(&looping).await;
    stage.client.publish_all(&innocent).await;
    stage.client.publish_all(&elsewhere).await;
    // Two routers: one of them may have seen one that the other did not count.
    live.await_answered(innocent.len() + elsewhere.len() + LIMIT, PATIENCE).await;
    for request in innocent.iter().chain(&elsewhere) {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{response}");
    }
    let told = eventually(PATIENCE, "the event", async || {
        let events = stage.client.read_stream("LLM_EVENT").await;
        let repeated: Vec<_> =
            events.into_iter().filter(|event| event.subject.ends_with(".repeated")).collect();
        (!repeated.is_empty()).then_some(repeated)
    })
    .await;
    assert_eq!(told.len(), 1, "once for a body and a minute");
    let told = told[0].value();
    assert_eq!((told["kind"].as_str(), told["team"].as_str()), (Some("repeated"), Some(TEAM)), "{told}");
    let message = told["message"].as_str().unwrap();
    assert!(message.contains("from agent") && message.contains("loop-same-body"), "{message}");
    assert!(!told.to_string().contains("again"), "no word of the prompt");

    // All are answered in the end, and no minute had more than the limit, and one for the other router.
    live.await_answered(looping.len() + innocent.len() + elsewhere.len(), 3 * MINUTE).await;
    for request in &looping {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{response}");
    }
    let calls = stage.provider.calls_of("again");
    let keys: BTreeSet<_> = calls.iter().map(|call| call.number).collect();
    assert_eq!(keys.len(), looping.len() + elsewhere.len());
    let first = start.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() / 60;
    let minutes = by_minute(&stage.provider, "again");
    let in_first = minutes[&first] - elsewhere.len();
    assert!((LIMIT..=LIMIT + 1).contains(&in_first), "{minutes:?}, the first is {first}");
    assert!(minutes.iter().all(|(minute, count)| *minute == first || *count <= LIMIT + 1), "{minutes:?}");
    stage.idle().await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_want_to_wait_is_rejected() {
    let mut stage = Stage::with(&ROLES, |provider| config(provider, "on_limit = \"reject\"")).await;
    with_time_left(Duration::from_secs(20)).await;
    // Larger than what is carried along, too.
    let text = "x".repeat(600 * 1024);
    let requests: Vec<_> = (0..LIMIT + 3).map(|n| asked(&format!("r{n}"), "agent", &text)).collect();
    stage.client.publish_all(&requests).await;
    let mut rejected = Vec::new();
    for request in &requests {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        if response["status"] != "succeeded" {
            rejected.push(response);
        }
    }
    assert!((2..=3).contains(&rejected.len()), "{} rejected", rejected.len());
    for response in rejected {
        assert_eq!(response["error"]["code"], "rate_limited", "{response}");
        let message = response["error"]["message"].as_str().unwrap();
        assert!(message.contains("5 requests with the same body per minute"), "{message}");
    }
    stage.idle().await;
    stage.stop().await;
}
