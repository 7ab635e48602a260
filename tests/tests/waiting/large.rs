//! Large bodies are put aside once, and reach the provider to the byte.

use tollgate_tests::provider::Behaviour;
use tollgate_tests::request::{Identity, Request};

use crate::stage::{PATIENCE, Stage, config};

const TEAM: &str = "research";

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_is_put_aside_and_reaches_the_provider() {
    let stage = Stage::up(|provider| config(provider, 4, &[TEAM])).await;
    // Through a fallback to the schedules and back: each would have to carry it.
    stage.provider.script(|call| match call.earlier {
        0..4 => Behaviour::error(503, "overloaded", None),
        _ => Behaviour::Answer,
    });
    let text = format!("large {}", "x".repeat(2_000_000));
    let request = Request::chat(&Identity::new(TEAM, "large", "one"), "small", &text);
    stage.client.publish(&request).await;
    let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
    assert_eq!(response["status"], "succeeded", "{}", response["error"]);
    for call in stage.provider.calls() {
        assert_eq!(call.body["messages"][0]["content"].as_str(), Some(text.as_str()), "to the byte");
    }
    let aside = stage.client.read_stream("OBJ_llm_blobs").await;
    let chunks: usize =
        aside.iter().filter(|stored| stored.subject.contains(".C.")).map(|stored| stored.payload.len()).sum();
    assert!((2_000_000..2_100_000).contains(&chunks), "once: {chunks} bytes");
    stage.idle().await;
}
