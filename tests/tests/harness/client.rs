use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::stream::{Config, Republish};
use serde_json::json;
use tollgate_tests::client::Client;
use tollgate_tests::nats::NatsServer;
use tollgate_tests::request::{Encoding, Identity, Request, decode, encode};

/// The streams of the contract as far as a client sees them.
async fn create_streams(client: &Client) {
    let record = Config {
        name: "LLM_RECORD".into(),
        subjects: vec!["llm.res.*.*.*".into()],
        allow_direct: true,
        republish: Some(Republish {
            source: "llm.res.>".into(),
            destination: "llm.live.res.>".into(),
            headers_only: false,
        }),
        ..Config::default()
    };
    let requests = Config {
        name: "LLM_REQ".into(),
        subjects: vec!["llm.req.*.*".into()],
        allow_direct: true,
        ..Config::default()
    };
    client.jetstream().create_stream(record).await.unwrap();
    client.jetstream().create_stream(requests).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_come_in_live_and_are_read_back() {
    let server = NatsServer::start().await;
    let client = Client::connect(&server.url()).await;
    create_streams(&client).await;
    let (first, second) = (Identity::new("research", "g", "1"), Identity::new("research", "g", "2"));
    let live = client.watch("research").await;
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", "application/msgpack");
    let body = encode(&json!({"id": "1", "cost": 7}), Encoding::MessagePack);
    client.try_publish_raw(&first.response_subject(), headers, body).await.unwrap();

    live.await_answered(1, Duration::from_secs(10)).await;
    assert_eq!(live.response(&first).unwrap().value(), json!({"id": "1", "cost": 7}));
    assert_eq!(client.response(&first).await.unwrap().value()["cost"], 7);
    assert!(client.response(&second).await.is_none());
    assert_eq!(live.duplicates(), 0);

    client.try_publish_raw(&first.response_subject(), HeaderMap::new(), "{}").await.unwrap();
    client.try_publish_raw(&second.response_subject(), HeaderMap::new(), "{}").await.unwrap();
    live.await_answered(2, Duration::from_secs(10)).await;
    assert_eq!(live.duplicates(), 1);
    assert_eq!(live.all().len(), 3);
    assert!(client.await_response(&second, Duration::from_secs(10)).await.sequence == 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_published_through_a_kill_of_the_server() {
    let mut server = NatsServer::start().await;
    let client = Client::connect(&server.url()).await;
    create_streams(&client).await;
    let request = |n: usize, encoding| {
        let identity = Identity::new("research", "g", &n.to_string());
        Request::chat(&identity, "small", &format!("say {n}")).encoding(encoding).field("ttl_ms", 60_000)
    };
    let requests: Vec<Request> = (0..500)
        .map(|n| request(n, if n % 2 == 0 { Encoding::Json } else { Encoding::MessagePack }))
        .collect();

    server.kill9();
    let restart = server.restart();
    tokio::join!(restart, client.publish_all(&requests));

    let stored = client.read_stream("LLM_REQ").await;
    for request in &requests {
        let same = |stored: &&tollgate_tests::client::Stored| stored.value() == request.envelope;
        assert!(
            stored.iter().any(|stored| same(&stored)),
            "{} was acknowledged and is lost",
            request.identity
        );
    }
    assert_eq!(stored[0].subject, "llm.req.research.normal");
}

#[test]
fn both_encodings_say_the_same() {
    let value =
        json!({"id": "x", "body": {"messages": [{"content": "ü"}], "n": 18_446_744_073_709_551_615_u64}});
    let mut headers = HeaderMap::new();
    assert_eq!(decode(&headers, &encode(&value, Encoding::Json)), Ok(value.clone()));
    headers.insert("Content-Type", "application/msgpack");
    assert_eq!(decode(&headers, &encode(&value, Encoding::MessagePack)), Ok(value));
    assert!(decode(&headers, b"\xc1").is_err());
}
