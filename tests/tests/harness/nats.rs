use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::{Config, RetentionPolicy};
use futures_util::{StreamExt, TryStreamExt};
use tollgate_tests::client::Client;
use tollgate_tests::nats::NatsServer;

async fn fill(client: &Client, config: Config, count: usize) {
    let subject = config.subjects[0].clone();
    client.jetstream().create_stream(config).await.unwrap();
    let publishes = (0..count).map(|n| client.try_publish_raw(&subject, HeaderMap::new(), n.to_string()));
    futures_util::stream::iter(publishes).buffered(256).try_collect::<Vec<_>>().await.unwrap();
}

fn stream(name: &str, subject: &str, allow_direct: bool) -> Config {
    Config { name: name.into(), subjects: vec![subject.into()], allow_direct, ..Config::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_message_outlives_a_kill_of_the_server() {
    let mut server = NatsServer::start().await;
    let (url, pid) = (server.url(), server.pid());
    let client = Client::connect(&url).await;
    fill(&client, stream("KEPT", "kept", true), 1).await;

    server.kill9();
    assert!(!server.is_alive());
    server.restart().await;

    assert!(server.is_alive());
    assert_eq!(server.url(), url);
    assert_ne!(server.pid(), pid);
    let kept = Client::connect(&url).await.read_stream("KEPT").await;
    assert_eq!(kept.len(), 1);
    assert_eq!((kept[0].sequence, kept[0].subject.as_str(), &kept[0].payload[..]), (1, "kept", &b"0"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_acknowledges_nothing_until_it_goes_on() {
    let server = NatsServer::start().await;
    let client = Client::connect(&server.url()).await;
    fill(&client, stream("FROZEN", "frozen", true), 0).await;

    server.stop();
    let publish = client.try_publish_raw("frozen", HeaderMap::new(), "late");
    tokio::pin!(publish);
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut publish).await.is_err());
    assert!(server.is_alive());
    server.cont();

    assert_eq!(publish.await.unwrap().sequence, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_do_not_share_anything() {
    let (one, other) = tokio::join!(NatsServer::start(), NatsServer::start());
    assert_ne!(one.url(), other.url());
    let store = one.store();
    assert!(store.is_dir());
    drop(one);
    assert!(!store.exists());
    assert!(other.is_alive());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_stream_is_read_with_and_without_direct_gets() {
    let server = NatsServer::start().await;
    let client = Client::connect(&server.url()).await;
    for direct in [true, false] {
        let name = if direct { "DIRECT" } else { "ORDERED" };
        fill(&client, stream(name, &name.to_lowercase(), direct), 2_500).await;
        let read = client.read_stream(name).await;
        assert!(
            read.iter().map(|message| message.sequence).eq(1..=2_500),
            "{name} has gaps or is out of order"
        );
        let payloads: BTreeSet<&[u8]> = read.iter().map(|message| &message.payload[..]).collect();
        assert_eq!(payloads.len(), 2_500, "{name}");
        assert_eq!(client.message_count(name).await, 2_500);
    }
    fill(&client, stream("EMPTY", "empty", true), 0).await;
    assert!(client.read_stream("EMPTY").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_work_queue_is_read_without_consuming_it() {
    let server = NatsServer::start().await;
    let client = Client::connect(&server.url()).await;
    let queue = Config { retention: RetentionPolicy::WorkQueue, ..stream("QUEUE", "queue", true) };
    fill(&client, queue, 3).await;
    let stream = client.jetstream().get_stream("QUEUE").await.unwrap();
    let durable = pull::Config { durable_name: Some("worker".into()), ..pull::Config::default() };
    let consumer = stream.create_consumer(durable).await.unwrap();
    let pulled = consumer.fetch().max_messages(2).messages().await.unwrap();
    let pulled: Vec<_> = pulled.try_collect().await.unwrap();
    assert_eq!(pulled.len(), 2);

    assert_eq!(client.ack_pending("QUEUE").await, 2);
    assert_eq!(client.read_stream("QUEUE").await.len(), 3);
    assert_eq!(client.message_count("QUEUE").await, 3);
}
