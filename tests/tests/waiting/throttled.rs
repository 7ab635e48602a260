//! A provider that asks for a pause gets it, and no longer than the configuration allows; keys take turns.

use std::time::{Duration, Instant};

use tollgate_tests::provider::{Behaviour, Call};
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use crate::stage::{PATIENCE, Stage, config, provider_with};

const TEAM: &str = "research";

fn request(id: &str, model: &str) -> Request {
    Request::chat(&Identity::new(TEAM, "throttled", id), model, id)
}

fn pause(value: &str) -> Behaviour {
    Behaviour::Status {
        status: 429,
        headers: vec![("retry-after".to_owned(), value.to_owned())],
        body: String::new(),
    }
}

/// With one call at a time nothing is on its way when the pause begins: then nobody calls before it is over, in any
/// process.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_calls_before_the_pause_is_over() {
    const PAUSE: Duration = Duration::from_secs(2);
    let roles = [Role::Router, Role::Router, Role::Worker, Role::Worker];
    let stage = Stage::with(&roles, |provider| config(provider, 1, &[TEAM])).await;
    stage.provider.script(|call| match call.number % 5 {
        0 => pause("2"),
        _ => Behaviour::Answer,
    });
    let requests: Vec<_> = (0..12).map(|n| request(&format!("pause-{n}"), "small")).collect();
    stage.client.publish_all(&requests).await;
    for request in &requests {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{response}");
    }
    let calls = stage.provider.calls();
    for pair in calls.windows(2).filter(|pair| pair[0].number % 5 == 0) {
        let between = pair[1].arrived - pair[0].arrived;
        assert!(between >= PAUSE, "called again after {between:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_pause_holds_nothing_longer_than_the_cap() {
    let stage = Stage::up(|provider| {
        config(provider, 4, &[TEAM]).raw("[retry]\nretry_after_max_ms = 1500\nbackoff_max_ms = 100\n")
    })
    .await;
    let wishes = ["1000000000", "99999999999999999999", "-1", "soon", "0", "Fri, 31 Dec 9999 23:59:59 GMT"];
    stage.provider.script(move |call: &Call| match (call.earlier, call.key.parse::<usize>()) {
        (0, Ok(n)) => pause(wishes[n]),
        _ => Behaviour::Answer,
    });
    for (n, wish) in wishes.iter().enumerate() {
        let begun = Instant::now();
        let request = request(&n.to_string(), "small");
        stage.client.publish(&request).await;
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{wish}: {response}");
        let is_capped = [0, 5].contains(&n);
        assert!(!is_capped || begun.elapsed() >= Duration::from_millis(1_500), "{wish}: too soon");
    }
}

/// A provider that comes back and only throttles, without a word of how long, is asked after longer and longer waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_comes_back_throttling_is_not_hammered() {
    let mut stage = Stage::up(|provider| config(provider, 8, &[TEAM])).await;
    stage.provider.stop().await;
    let requests: Vec<_> = (0..10).map(|n| request(&format!("back-{n}"), "small")).collect();
    stage.client.publish_all(&requests).await;
    eventually(PATIENCE, "the requests to be held", async || {
        let stored = stage.client.read_stream("LLM_RETRY").await;
        let held = stored.iter().filter(|stored| stored.subject.starts_with("llm.retry.hold.")).count();
        if held >= 9 { Ok(()) } else { Err(held) }
    })
    .await;
    stage.provider.always(Behaviour::error(429, "slow_down", None));
    stage.provider.restart().await;
    eventually(PATIENCE, "a few calls that show nothing", async || {
        (stage.provider.total() >= 3).then_some(())
    })
    .await;
    stage.provider.always(Behaviour::Answer);
    for request in &requests {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{response}");
    }
    let calls = stage.provider.calls();
    for pair in calls[..3].windows(2) {
        let between = pair[1].arrived - pair[0].arrived;
        assert!(between >= Duration::from_millis(500), "called again after {between:?}");
    }
}

/// What one key is refused or throttled for, another one does.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_key_is_used_when_one_is_refused() {
    let stage = Stage::up(|provider| {
        let url = provider.base_url();
        let keyed = provider_with("keyed", &url, "api_keys = [\"key-a\", \"key-b\", \"key-c\"]");
        config(provider, 4, &[TEAM]).raw(&keyed)
    })
    .await;
    stage.provider.script(|call| match call.headers["authorization"].as_str() {
        "Bearer key-a" => Behaviour::error(401, "invalid_api_key", None),
        "Bearer key-b" => pause("3600"),
        _ => Behaviour::Answer,
    });
    let requests: Vec<_> = (0..6).map(|n| request(&format!("keys-{n}"), "keyed/m-1")).collect();
    for request in &requests {
        stage.client.publish(request).await;
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{response}");
    }
    let used = |key: &str| {
        let is_it = |call: &&Call| call.headers["authorization"] == format!("Bearer {key}");
        stage.provider.calls().iter().filter(is_it).count()
    };
    assert_eq!((used("key-a"), used("key-b"), used("key-c")), (1, 1, 6), "the refused ones rest");
    // Every call says which usage event is its own.
    for call in stage.provider.calls() {
        let id = &call.headers["x-client-request-id"];
        assert_eq!(*id, format!("{TEAM}.throttled.{}.{}", call.key, call.earlier + 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_long_or_not_wanted_goes_where_the_model_says() {
    let stage = Stage::up(|provider| {
        let url = provider.base_url();
        config(provider, 4, &[TEAM])
            .raw(&provider_with("long", &url, ""))
            .raw(&provider_with("frank", &url, ""))
            .raw(
                "[models.typed]\ntargets = [\"sim/m-1\"]\non_context_too_long = [\"long/m-1\"]\n\
                 on_content_policy = [\"frank/m-1\"]\n",
            )
    })
    .await;
    stage.provider.script(|call| match (call.key.as_str(), call.earlier) {
        ("long" | "hopeless", 0) => Behaviour::error(400, "context_length_exceeded", None),
        ("blunt", 0) => Behaviour::error(400, "content_policy_violation", None),
        ("hopeless", _) => Behaviour::error(400, "context_length_exceeded", None),
        _ => Behaviour::Answer,
    });
    for (id, status, last) in [
        ("long", "succeeded", "long"),
        ("blunt", "succeeded", "frank"),
        ("hopeless", "failed", "long"),
        ("fine", "succeeded", "sim"),
    ] {
        let request = request(id, "typed");
        stage.client.publish(&request).await;
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], status, "{response}");
        let attempts = response["attempts"].as_array().unwrap();
        assert_eq!(attempts.last().unwrap()["provider"], last, "{response}");
    }
}
