use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::stream::{Config, Republish};
use futures_util::StreamExt;
use tollgate_tests::check::{Evidence, Rule, settled};
use tollgate_tests::client::Client;
use tollgate_tests::http;
use tollgate_tests::nats::NatsServer;
use tollgate_tests::provider::Provider;

use super::check::{PRICE, evidence, request};

/// A broker and a ledger by hand: what they would store and reply, on a real server.
#[tokio::test(flavor = "multi_thread")]
async fn evidence_is_gathered_from_the_outside() {
    let (server, provider) = tokio::join!(NatsServer::start(), Provider::start());
    let client = Client::connect(&server.url()).await;
    create_streams(&client).await;
    let live = client.watch("research").await;
    let sound = evidence();
    for stored in sound.record.iter().chain(&sound.usage) {
        client
            .try_publish_raw(&stored.subject, stored.headers.clone(), stored.payload.clone())
            .await
            .unwrap();
    }
    for n in 1..=3 {
        let call = http().post(format!("{}/chat/completions", provider.base_url()));
        call.body(request(n).body().to_string()).send().await.unwrap();
    }
    let mut queries = client.nats().subscribe("llm.ctl.usage.query").await.unwrap();
    let (replier, reply) = (client.nats().clone(), sound.ledger.clone().unwrap().to_string());
    let ledger = tokio::spawn(async move {
        while let Some(query) = queries.next().await {
            assert_eq!(&query.payload[..], br#"{"by":["team"]}"#);
            replier.publish(query.reply.unwrap(), reply.clone().into()).await.unwrap();
        }
    });
    live.await_answered(3, Duration::from_secs(10)).await;

    let gather = async || {
        Evidence::gather(&client, &sound.expected, &[("sim/m", PRICE)], &[&live], &[&provider]).await
    };
    settled(Duration::from_secs(10), gather).await.assert_clean();

    let again = &sound.record[1];
    client.try_publish_raw(&again.subject, HeaderMap::new(), again.payload.clone()).await.unwrap();
    let report = settled(Duration::ZERO, gather).await;
    assert_eq!(report.rules(), [Rule::AnsweredTwice], "{report}");
    ledger.abort();
}

async fn create_streams(client: &Client) {
    let republish = |from: &str, to: &str| {
        Some(Republish { source: from.into(), destination: to.into(), headers_only: false })
    };
    let record = Config {
        name: "LLM_RECORD".into(),
        subjects: vec!["llm.run.*.*.*".into(), "llm.res.*.*.*".into()],
        max_messages_per_subject: 1,
        allow_direct: true,
        republish: republish("llm.res.>", "llm.live.res.>"),
        ..Config::default()
    };
    let usage = Config {
        name: "LLM_USAGE".into(),
        subjects: vec!["llm.usage.>".into()],
        republish: republish("llm.usage.>", "llm.live.usage.>"),
        ..Config::default()
    };
    client.jetstream().create_stream(record).await.unwrap();
    client.jetstream().create_stream(usage).await.unwrap();
}
