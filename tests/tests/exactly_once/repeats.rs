use std::time::Duration;

use async_nats::Subscriber;
use futures_util::StreamExt;
use serde_json::Value;
use tollgate_tests::check::Expected;
use tollgate_tests::client::Stored;
use tollgate_tests::provider::Behaviour;
use tollgate_tests::request::{Encoding, Identity, Request, decode};
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use crate::stage::{PATIENCE, Stage, config};

const TEAM: &str = "research";

fn identity(id: &str) -> Identity {
    Identity::new(TEAM, "repeats", id)
}

/// An inbox that somebody listens on.
async fn inbox(stage: &Stage) -> (String, Subscriber) {
    let inbox = stage.client.nats().new_inbox();
    let replies = stage.client.nats().subscribe(inbox.clone()).await.unwrap();
    stage.client.nats().flush().await.unwrap();
    (inbox, replies)
}

async fn next(replies: &mut Subscriber) -> async_nats::Message {
    tokio::time::timeout(PATIENCE, replies.next()).await.expect("a reply").unwrap()
}

/// The events of a kind about one request.
async fn events(stage: &Stage, kind: &str, identity: &Identity) -> Vec<Value> {
    let subject = format!("llm.event.{TEAM}.{kind}");
    let all = stage.client.read_stream("LLM_EVENT").await;
    let of_kind = all.iter().filter(|stored| stored.subject == subject).map(Stored::value);
    of_kind.filter(|event| event["group"] == identity.group && event["id"] == identity.id).collect()
}

async fn await_event(stage: &Stage, kind: &str, identity: &Identity) -> Value {
    eventually(PATIENCE, &format!("{kind} of {identity}"), async || events(stage, kind, identity).await.pop())
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_of_an_answered_request_runs_nothing_and_is_replied_to() {
    let stage = Stage::up(|provider| config(provider, 8, &[TEAM])).await;
    let live = stage.client.watch(TEAM).await;
    for encoding in [Encoding::Json, Encoding::MessagePack] {
        let request = Request::chat(&identity(&format!("{encoding:?}")), "small", &format!("{encoding:?}"));
        let request = request.encoding(encoding);
        stage.client.publish(&request).await;
        let first = stage.client.await_response(&request.identity, PATIENCE).await;

        for priority in ["normal", "high", "low"] {
            stage.client.publish(&request.clone().priority(priority)).await;
        }
        // The inbox stands in a header, so that the bytes are the same.
        let (inbox, mut replies) = inbox(&stage).await;
        stage.client.publish(&request.clone().header("Tollgate-Reply-To", &inbox)).await;
        let reply = next(&mut replies).await;
        let replied = decode(reply.headers.as_ref().unwrap(), &reply.payload).unwrap();
        assert_eq!(replied, first.value(), "the reply is the stored answer");
        stage.idle().await;

        let again = stage.client.response(&request.identity).await.unwrap();
        assert_eq!((again.sequence, &again.payload), (first.sequence, &first.payload));
        assert_eq!(stage.provider.calls_of(&format!("{encoding:?}")).len(), 1);
        assert!(events(&stage, "duplicate_id", &request.identity).await.is_empty());
    }
    assert_eq!((live.answered(), live.duplicates()), (2, 0));
    let expected = [Encoding::Json, Encoding::MessagePack].map(|encoding| {
        let text = format!("{encoding:?}");
        Expected::answered(&Request::chat(&identity(&text), "small", &text))
    });
    stage.settled(&expected, &[&live]).await.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_body_under_a_known_identity_is_reported_and_not_run() {
    let stage = Stage::up(|provider| config(provider, 8, &[TEAM])).await;
    let live = stage.client.watch(TEAM).await;
    let first = Request::chat(&identity("taken"), "small", "the first body");
    stage.client.publish(&first).await;
    let answer = stage.client.await_response(&first.identity, PATIENCE).await;

    let (inbox, mut replies) = inbox(&stage).await;
    let other = Request::chat(&first.identity, "small", "another body");
    stage.client.publish(&other.header("Tollgate-Reply-To", &inbox)).await;
    let reply = next(&mut replies).await;
    let reply = decode(reply.headers.as_ref().unwrap(), &reply.payload).unwrap();
    assert_eq!((&reply["status"], &reply["error"]["code"]), (&"rejected".into(), &"duplicate_id".into()));
    let event = await_event(&stage, "duplicate_id", &first.identity).await;
    assert_eq!(event["team"], TEAM);
    stage.idle().await;

    let again = stage.client.response(&first.identity).await.unwrap();
    assert_eq!((again.sequence, again.payload), (answer.sequence, answer.payload));
    assert!(stage.provider.calls_of("another body").is_empty(), "the other body was run");
    // Neither the rejection nor the report counts as a request.
    stage.settled(&[Expected::answered(&first)], &[&live]).await.assert_clean();

    // A body that cannot be run at all does not replace an answer either.
    let unknown = Request::chat(&first.identity, "no-such-model", "a third body");
    stage.client.publish(&unknown).await;
    stage.idle().await;
    assert_eq!(stage.client.response(&first.identity).await.unwrap().sequence, answer.sequence);
    stage.settled(&[Expected::answered(&first)], &[&live]).await.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_a_running_request_wait_for_its_answer() {
    use Role::{Ledger, Router, Worker};
    let roles = [Ledger, Worker, Worker, Router, Router];
    let stage = Stage::with(&roles, |provider| config(provider, 8, &[TEAM])).await;
    stage.provider.always(Behaviour::Delay(Duration::from_secs(2)));
    let live = stage.client.watch(TEAM).await;
    let request = Request::chat(&identity("slow"), "small", "slow");
    stage.client.publish(&request).await;
    eventually(PATIENCE, "the first call", async || (stage.provider.total() == 1).then_some(())).await;

    let (inbox, mut replies) = inbox(&stage).await;
    for priority in ["high", "normal", "low"] {
        let copy = request.clone().priority(priority);
        stage.client.publish(&copy.header("Tollgate-Reply-To", &inbox)).await;
    }
    let other = Request::chat(&request.identity, "small", "another body");
    stage.client.publish(&other).await;

    for _ in 0..3 {
        let reply = next(&mut replies).await;
        let reply = decode(reply.headers.as_ref().unwrap(), &reply.payload).unwrap();
        assert_eq!(reply["status"], "succeeded", "{reply}");
    }
    await_event(&stage, "duplicate_id", &request.identity).await;
    stage.idle().await;
    assert_eq!(stage.provider.total(), 1, "only the first of them was run");
    stage.settled(&[Expected::answered(&request)], &[&live]).await.assert_clean();
}
