//! Each clock of a call ends it by itself, however patient the others are.

use std::time::Duration;

use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};
use tollgate_tests::client::Client;
use tollgate_tests::provider::Behaviour;
use tollgate_tests::request::{Identity, Request};

use crate::stage::{PATIENCE, Stage, config, provider_with};

const TEAM: &str = "research";
/// Far longer than a test waits.
const LONG: Duration = Duration::from_secs(3_600);

async fn answer(client: &Client, id: &str, model: &str) -> Value {
    let request = Request::chat(&Identity::new(TEAM, "clocks", id), model, id);
    client.publish(&request).await;
    let response = client.await_response(&request.identity, PATIENCE).await.value();
    assert_eq!(response["status"], "succeeded", "{id}: {response}");
    response
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_when_one_of_its_clocks_is_over() {
    let stage = Stage::up(|provider| {
        let url = provider.base_url();
        let clocks = |name: &str, clocks: &str| {
            provider_with(name, &url, &format!("timeouts = {{ connect_ms = 1000, {clocks} }}"))
        };
        config(provider, 4, &[TEAM])
            .raw(&clocks("first", "first_byte_ms = 300, idle_ms = 600000, total_ms = 600000"))
            .raw(&clocks("idle", "first_byte_ms = 600000, idle_ms = 300, total_ms = 600000"))
            .raw(&clocks("total", "first_byte_ms = 1000, idle_ms = 1000, total_ms = 1000"))
    })
    .await;
    stage.provider.script(|call| match (call.key.as_str(), call.earlier) {
        ("first", 0) => Behaviour::Hang,
        ("idle", 0) => Behaviour::Drip(LONG),
        // Every piece in time, and all of them together too late.
        ("total", 0) => Behaviour::Drip(Duration::from_secs(4)),
        _ => Behaviour::Answer,
    });
    for (name, at_least_ms) in [("first", 300), ("idle", 300), ("total", 1_000)] {
        let response = answer(&stage.client, name, &format!("{name}/m-1")).await;
        let attempts = response["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), 2, "{name}: {response}");
        assert_eq!(attempts[0]["code"], "provider_timeout", "{name}: {response}");
        // Perhaps it was paid: the provider had the request.
        assert_eq!(attempts[0]["estimated"], true, "{name}: {response}");
        assert!(attempts[0]["duration_ms"].as_u64() >= Some(at_least_ms), "{name}: {response}");
    }
}

/// A listener with a full queue lets nobody in and refuses nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_never_made_is_given_up() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
    {
        waiting.push(stream);
    }
    let stage = Stage::up(|provider| {
        let silent =
            provider_with("silent", &format!("http://{address}/v1"), "timeouts = { connect_ms = 300 }");
        config(provider, 4, &[TEAM]).raw(&silent).model("pair", &["silent/m-1", "sim/m-1"])
    })
    .await;
    let response = answer(&stage.client, "connect", "pair").await;
    let attempts = response["attempts"].as_array().unwrap();
    let (last, failed) = attempts.split_last().unwrap();
    assert_eq!((&last["provider"], failed.len()), (&"sim".into(), 3), "{response}");
    for attempt in failed {
        assert_eq!(attempt["code"], "provider_unavailable", "{response}");
        // Nothing was sent, so nothing was paid.
        assert_eq!((&attempt["estimated"], &attempt["cost_nano_usd"]), (&false.into(), &0.into()));
    }
}
