use std::time::Duration;

use serde_json::json;
use tollgate_tests::check::Expected;
use tollgate_tests::provider::Behaviour;
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::wait::eventually;

use super::{TEAM, ask, chat};
use crate::stage::{PATIENCE, Stage, config};

const HIGH: &str = "llm.ask.research.high";

/// The deadline of an ask is not part of what is compared: only the bytes of its payload are.
#[tokio::test(flavor = "multi_thread")]
async fn asking_again_with_the_same_id_gives_the_same_answer_without_a_second_call() {
    let stage = Stage::up(|provider| config(provider, 8, &[TEAM])).await;
    let live = stage.client.watch(TEAM).await;
    let body = chat("again").to_string();
    let first = ask(&stage, HIGH, &[("Tollgate-Id", "again")], body.clone()).await;
    for (priority, timeout) in [("high", "60"), ("high", "5m"), ("low", "120s"), ("normal", "90")] {
        let subject = format!("llm.ask.{TEAM}.{priority}");
        let pairs = [("Tollgate-Id", "again"), ("Tollgate-Timeout", timeout)];
        let again = ask(&stage, &subject, &pairs, body.clone()).await;
        assert_eq!(again.value, first.value);
        assert_eq!(again.headers, first.headers);
    }
    let other = ask(&stage, HIGH, &[("Tollgate-Id", "again")], chat("other").to_string()).await;
    assert_eq!(other.service_error(), (Some("duplicate_id"), Some("409")));
    assert_eq!(other.value["error"]["param"], "id");
    stage.idle().await;
    assert_eq!(stage.provider.total(), 1);
    let request = Request::chat(&Identity::new(TEAM, "_", "again"), "small", "again");
    stage.settled(&[Expected::answered(&request)], &[&live]).await.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_running_ask_waits_for_its_answer() {
    let stage = Stage::up(|provider| config(provider, 8, &[TEAM])).await;
    let live = stage.client.watch(TEAM).await;
    stage.provider.always(Behaviour::Delay(Duration::from_secs(3)));
    let body = chat("slow").to_string();
    let pairs = [("Tollgate-Id", "slow"), ("Tollgate-Timeout", "5m")];
    let first = ask(&stage, HIGH, &pairs, body.clone());
    let copies = async {
        eventually(PATIENCE, "the call", async || (stage.provider.total() == 1).then_some(())).await;
        let other = chat("other").to_string();
        tokio::join!(
            ask(&stage, HIGH, &pairs, body.clone()),
            ask(&stage, "llm.ask.research.low", &pairs, body.clone()),
            ask(&stage, HIGH, &pairs, other),
        )
    };
    let (first, (second, third, other)) = tokio::join!(first, copies);
    assert_eq!(first.service_error(), (None, None), "{}", first.value);
    assert_eq!(second.value, first.value);
    assert_eq!(third.value, first.value);
    assert_eq!(other.service_error(), (Some("duplicate_id"), Some("409")));
    assert_eq!(stage.provider.total(), 1, "the copies were run as well");
    let request = Request::chat(&Identity::new(TEAM, "_", "slow"), "small", "slow");
    stage.settled(&[Expected::answered(&request)], &[&live]).await.assert_clean();
}

/// What a caller gets that waits for less long than the request it copies.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_can_wait_no_longer_is_told_that_it_still_runs() {
    let stage = Stage::up(|provider| config(provider, 8, &[TEAM])).await;
    stage.provider.always(Behaviour::Hang);
    let identity = Identity::new(TEAM, "_", "running");
    let request = Request::with_body(&identity, chat("running")).payload();
    let envelope: serde_json::Value = serde_json::from_slice(&request).unwrap();
    let payload = json!({"id": "running", "body": envelope["body"]}).to_string();
    let subject = format!("llm.req.{TEAM}.high");
    stage.client.try_publish_raw(&subject, super::headers(&[]), payload.clone()).await.unwrap();
    eventually(PATIENCE, "the call", async || (stage.provider.in_flight() == 1).then_some(())).await;

    let reply = ask(&stage, HIGH, &[("Tollgate-Timeout", "500ms")], payload).await;
    assert_eq!(reply.service_error(), (Some("still_running"), Some("409")), "{}", reply.value);
    assert_eq!(reply.value["error"]["retryable"], true);
    assert!(stage.client.response(&identity).await.is_none(), "the request itself goes on");
    assert_eq!((stage.provider.total(), stage.provider.in_flight()), (1, 1));
}
