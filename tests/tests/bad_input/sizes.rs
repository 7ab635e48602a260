use async_nats::HeaderMap;
use serde_json::json;
use tollgate_tests::check::Expected;
use tollgate_tests::request::{Encoding, Identity, Request};

use crate::stage::{PATIENCE, Stage, config};

const TEAM: &str = "research";

/// The documented limit of a body.
const BODY_MAX: usize = 4 * 1024 * 1024;

/// A request whose body has this many bytes as JSON.
fn of_size(id: &str, bytes: usize) -> Request {
    let body = |filler: usize| {
        json!({"model": "small", "messages": [
            {"role": "user", "content": id}, {"role": "user", "content": "x".repeat(filler)},
        ]})
    };
    let frame = body(0).to_string().len();
    Request::with_body(&Identity::new(TEAM, "sizes", id), body(bytes - frame))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_have_4_mib_and_not_a_byte_more() {
    let stage = Stage::up(|provider| config(provider, 4, &[TEAM])).await;
    let live = stage.client.watch(TEAM).await;
    let good = [
        of_size("half-a-mebibyte", 512 * 1024),
        of_size("the-limit", BODY_MAX),
        of_size("the-limit-packed", BODY_MAX).encoding(Encoding::MessagePack),
    ];
    let too_large = [
        of_size("one-more", BODY_MAX + 1),
        of_size("one-more-packed", BODY_MAX + 1).encoding(Encoding::MessagePack),
        of_size("much-more", 7 * 1024 * 1024),
    ];
    let all: Vec<_> = good.iter().chain(&too_large).cloned().collect();
    stage.client.publish_all(&all).await;
    for request in &all {
        stage.client.await_response(&request.identity, PATIENCE).await;
    }

    for request in &too_large {
        let response = stage.client.response(&request.identity).await.unwrap().value();
        let error = &response["error"];
        assert_eq!((&error["code"], &error["field"]), (&"request_too_large".into(), &"body".into()));
        assert_eq!(error["http_status"], 413);
    }
    let mut expected: Vec<_> = good.iter().map(Expected::answered).collect();
    expected.extend(too_large.iter().map(|request| Expected::ended(request, "rejected")));
    stage.settled(&expected, &[&live]).await.assert_clean();
    assert_eq!(stage.provider.total(), good.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_envelope_around_a_small_body_is_read() {
    let stage = Stage::up(|provider| config(provider, 4, &[TEAM])).await;
    let identity = Identity::new(TEAM, "sizes", "wide");
    let request = Request::chat(&identity, "small", "wide").field("unknown", "y".repeat(6 * 1024 * 1024));
    stage.client.publish(&request).await;
    let response = stage.client.await_response(&identity, PATIENCE).await.value();
    assert_eq!(response["status"], "succeeded", "{}", response["error"]);

    // What the broker does not know it does not carry along.
    let mut headers = HeaderMap::new();
    headers.insert("X-Large", "h".repeat(60_000).as_str());
    let identity = Identity::new(TEAM, "sizes", "headers");
    let request = Request::chat(&identity, "small", "headers");
    stage.client.try_publish_raw(&request.subject(), headers, request.payload()).await.unwrap();
    let stored = stage.client.await_response(&identity, PATIENCE).await;
    assert_eq!(stored.value()["status"], "succeeded");
    assert!(stored.header("X-Large").is_none());
}

/// Labels travel in headers of the stored response, whose size the server limits.
#[tokio::test(flavor = "multi_thread")]
async fn labels_as_long_as_they_may_be_do_not_keep_an_answer_from_being_stored() {
    let stage = Stage::up(|provider| config(provider, 4, &[TEAM])).await;
    let live = stage.client.watch(TEAM).await;
    // Two bytes each, and six in a header.
    let name = |n: usize| format!("{}{n:02}", "ü".repeat(31));
    let tags: serde_json::Map<_, _> = (0..16).map(|n| (name(n), json!("ü".repeat(128)))).collect();
    let labelled = |id: &str, model: &str| {
        let request = Request::chat(&Identity::new(TEAM, "labels", id), model, id);
        let request = request.field("tags", tags.clone()).field("project", "ü".repeat(128));
        request.field("user", "ü".repeat(128)).field("task", "ü".repeat(128))
    };
    let good = labelled("good", "small");
    let bad = labelled("bad", &"m".repeat(256));
    stage.client.publish_all(&[good.clone(), bad.clone()]).await;
    let expected = [Expected::answered(&good), Expected::ended(&bad, "rejected")];
    for expected in &expected {
        stage.client.await_response(&expected.identity, PATIENCE).await;
    }
    stage.settled(&expected, &[&live]).await.assert_clean();
}
