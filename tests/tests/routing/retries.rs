use std::time::Duration;

use serde_json::Value;
use tollgate_tests::check::Expected;
use tollgate_tests::provider::{Behaviour, answer_to};
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::wait::eventually;

use crate::stage::{PATIENCE, PRICE, Stage, config};

const TEAM: &str = "research";

fn request(id: &str) -> Request {
    Request::chat(&Identity::new(TEAM, "retries", id), "small", id)
}

/// The usage events of a request, by attempt.
async fn usage(stage: &Stage, request: &Request, count: usize) -> Vec<Value> {
    eventually(PATIENCE, "the usage events", async || {
        let all = stage.client.read_stream("LLM_USAGE").await;
        let own = all.iter().map(|stored| stored.value());
        let mut own: Vec<_> = own.filter(|event| event["id"] == request.identity.id.as_str()).collect();
        own.sort_by_key(|event| event["attempt"].as_u64());
        if own.len() == count { Ok(own) } else { Err(own) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_twice_and_then_not_is_one_answer() {
    let stage = Stage::up(|provider| config(provider, 8, &[TEAM])).await;
    let live = stage.client.watch(TEAM).await;
    stage.provider.script(|call| match call.earlier {
        0 => Behaviour::error(503, "overloaded", None),
        1 => Behaviour::CloseBeforeResponse,
        _ => Behaviour::Answer,
    });
    let request = request("twice");
    stage.client.publish(&request).await;
    let response = stage.client.await_response(&request.identity, PATIENCE).await.value();

    assert_eq!(response["status"], "succeeded");
    let outcomes: Vec<_> = response["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| (attempt["number"].as_u64().unwrap(), attempt["outcome"].as_str().unwrap()))
        .collect();
    assert_eq!(outcomes, [(1, "failed"), (2, "failed"), (3, "succeeded")]);
    assert_eq!(response["attempts"][0]["code"], "provider_overloaded");
    assert_eq!(response["attempts"][1]["code"], "provider_unavailable");

    let events = usage(&stage, &request, 3).await;
    let finals: Vec<_> = events.iter().map(|event| event["final"] == true).collect();
    assert_eq!(finals, [false, false, true]);
    // Refused: nothing. Broken off: perhaps something, by estimate. Answered: what it cost.
    let estimated: Vec<_> = events.iter().map(|event| event["estimated"] == true).collect();
    assert_eq!(estimated, [false, true, false]);
    let costs: Vec<_> = events.iter().map(|event| event["cost_nano_usd"].as_i64().unwrap()).collect();
    assert!(costs[0] == 0 && costs[1] > 0, "{costs:?}");
    assert_eq!(i128::from(costs[2]), PRICE.cost(answer_to(request.body()).tokens));
    assert_eq!(response["cost_nano_usd"], costs.iter().sum::<i64>());
    assert!(events.iter().all(|event| event["kind"] == "attempt"));
    stage.settled(&[Expected::answered(&request)], &[&live]).await.assert_clean();
    let totals = &stage.client.usage_by_team().await["total"];
    assert_eq!((&totals["attempts"], &totals["errors"]), (&3.into(), &2.into()), "{totals}");

    let retried = stage.client.read_stream("LLM_EVENT").await;
    let retried = retried.iter().filter(|event| event.subject == "llm.event.research.retried");
    let attempts: Vec<_> = retried.map(|event| event.value()["attempt"].clone()).collect();
    assert_eq!(attempts, [1, 2]);
    assert_eq!(stage.metric("tollgate_handovers_total", &[r#"next="retry""#]).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_at_a_shaky_provider_are_each_answered_once() {
    let stage = Stage::up(|provider| config(provider, 32, &[TEAM])).await;
    let live = stage.client.watch(TEAM).await;
    stage.provider.script(|call| match (call.number % 7, call.earlier) {
        (0, 0 | 1) => Behaviour::error(500, "shaky", None),
        (1, 0) => Behaviour::TruncatedBody,
        (2, 0) => Behaviour::error(429, "slow_down", None),
        _ => Behaviour::Answer,
    });
    let requests: Vec<_> = (0..300).map(|n| request(&format!("shaky-{n}"))).collect();
    stage.client.publish_all(&requests).await;
    live.await_answered(requests.len(), PATIENCE).await;
    let expected: Vec<_> = requests.iter().map(Expected::answered).collect();
    stage.settled(&expected, &[&live]).await.assert_clean();
    assert!(stage.provider.total() > 350, "{} calls: nothing failed", stage.provider.total());
}

/// A provider that names a pause is not called before it is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_the_provider_asks_for_is_kept() {
    const PAUSE: Duration = Duration::from_millis(200);
    let stage = Stage::up(|provider| config(provider, 8, &[TEAM])).await;
    stage.provider.script(|call| match call.earlier {
        0 => Behaviour::Status {
            status: 429,
            headers: vec![("retry-after-ms".to_owned(), PAUSE.as_millis().to_string())],
            body: String::new(),
        },
        _ => Behaviour::Answer,
    });
    let requests: Vec<_> = (0..20).map(|n| request(&format!("pause-{n}"))).collect();
    stage.client.publish_all(&requests).await;
    for request in &requests {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded");
        let calls = stage.provider.calls_of(&request.identity.id);
        assert_eq!(calls.len(), 2);
        let between = calls[1].arrived - calls[0].arrived;
        assert!(between >= PAUSE, "called again after {between:?}");
    }
}
