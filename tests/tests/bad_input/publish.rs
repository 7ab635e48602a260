//! What the nats-server itself refuses, and what it would let slip in.

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::context::PublishErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::wait::eventually;

use crate::stage::{PATIENCE, Stage, config};

const TEAM: &str = "research";

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_that_is_no_request_is_refused_at_publish() {
    let stage = Stage::up(|provider| config(provider, 4, &[TEAM])).await;
    let payload = Request::chat(&Identity::new(TEAM, "g", "q"), "small", "never").payload();
    for subject in [
        "llm.req.research.urgent",
        "llm.req.research.HIGH",
        "llm.req.research",
        "llm.req.research.high.now",
        "llm.req.high",
        "llm.dispatch.nobody.high",
    ] {
        let start = Instant::now();
        let refused = stage.client.try_publish_raw(subject, HeaderMap::new(), payload.clone()).await;
        let kind = refused.expect_err(subject).kind();
        assert_eq!(kind, PublishErrorKind::StreamNotFound, "{subject}");
        // At once: nobody listens there, which the server says instead of letting the client wait.
        assert!(start.elapsed() < Duration::from_secs(30), "{subject}");
    }
    assert_eq!(stage.client.message_count("LLM_REQ").await, 0);
    assert_eq!(stage.provider.total(), 0);
}

/// A client library would not even send it, so this speaks to the server itself.
#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_server_takes_is_refused_at_once() {
    let stage = Stage::up(|provider| config(provider, 4, &[TEAM])).await;
    let address = stage.nats.url().replace("nats://", "");
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket
        .write_all(b"CONNECT {\"verbose\":false}\r\nPUB llm.req.research.normal 9000000\r\n")
        .await
        .unwrap();
    let mut said = String::new();
    let mut buffer = [0; 4096];
    eventually(PATIENCE, "the server's refusal", async || {
        let count = socket.read(&mut buffer).await.unwrap_or(0);
        said += &String::from_utf8_lossy(&buffer[..count]);
        said.contains("Maximum Payload Violation").then_some(()).ok_or(said.len())
    })
    .await;
    assert_eq!(stage.client.message_count("LLM_REQ").await, 0);

    let identity = Identity::new(TEAM, "g", "after");
    stage.client.publish(&Request::chat(&identity, "small", "after")).await;
    stage.client.await_response(&identity, PATIENCE).await;
}

/// Whoever publishes with a reply subject of another team's has JetStream store its acknowledgement there.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_that_come_in_as_requests_are_drained() {
    const DRAINED: &str = "tollgate_acknowledgements_drained_total";
    let stage = Stage::up(|provider| config(provider, 4, &[TEAM, "victim"])).await;
    let victim = stage.client.watch("victim").await;
    for payload in [
        r#"{"stream":"LLM_REQ","seq":7}"#,
        r#"{"stream":"LLM_REQ","domain":"hub","seq":7,"duplicate":true}"#,
        r#"{"error":{"code":400,"err_code":10077,"description":"maximum messages per subject exceeded"},"stream":"LLM_REQ","seq":0}"#,
    ] {
        stage.client.try_publish_raw("llm.req.victim.normal", HeaderMap::new(), payload).await.unwrap();
    }
    let attack = Request::chat(&Identity::new(TEAM, "g", "attack"), "small", "attack");
    let (subject, payload) = (attack.subject(), attack.payload());
    stage.client.nats().publish_with_reply(subject, "llm.req.victim.high", payload).await.unwrap();

    stage.client.await_response(&attack.identity, PATIENCE).await;
    // And a copy of a usage event into the work of a provider.
    stage.idle().await;
    let copy = format!("$JS.API.DIRECT.GET.LLM_USAGE.llm.usage.{TEAM}.sim.m-1");
    stage.client.nats().publish_with_reply(copy, "llm.dispatch.sim.high", "".into()).await.unwrap();
    eventually(PATIENCE, "five drained messages", async || match stage.metric(DRAINED, &[]).await {
        5.0 => Ok(()),
        other => Err(other),
    })
    .await;
    stage.idle().await;
    let after = Request::chat(&Identity::new("victim", "g", "after"), "small", "after");
    stage.client.publish(&after).await;
    stage.client.await_response(&after.identity, PATIENCE).await;
    let answered: Vec<_> = victim.all().into_iter().map(|stored| stored.subject).collect();
    assert_eq!(answered, ["llm.res.victim.g.after"], "an acknowledgement was answered");
}
