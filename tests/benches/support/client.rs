//! A client's three steps, with a NATS library and nothing else: connect, subscribe to the answers, publish.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::Subscriber;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{Context, context::ContextBuilder};

use super::broker::MODEL;

/// The team that every request is of.
pub(crate) const TEAM: &str = "bench";
/// The group of its requests.
const GROUP: &str = "load";
/// The header that the floor takes a request's id from: it reads no envelopes.
pub(crate) const ID_HEADER: &str = "Bench-Id";
/// Responses that may wait between connection and reader; more would be dropped.
const SUBSCRIPTION_CAPACITY: usize = 1 << 19;

/// A connection with JetStream on it, sized for a benchmark.
pub(crate) async fn connect(url: &str) -> Context {
    let client = async_nats::ConnectOptions::new()
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .client_capacity(1 << 14)
        .connect(url)
        .await
        .expect("the nats-server of this run answers");
    ContextBuilder::new().timeout(Duration::from_secs(30)).max_ack_inflight(1 << 14).build(client)
}

/// The republished responses from now on.
pub(crate) async fn responses(jetstream: &Context, prefix: &str) -> Subscriber {
    let subject = format!("{prefix}.live.res.{TEAM}.{GROUP}.>");
    let responses = jetstream.client().subscribe(subject).await.expect("a subscription is taken");
    // An answered request on the same connection proves that the server knows of the subscription before it.
    jetstream.query_account().await.expect("JetStream answers");
    responses
}

/// The number of the request that a response is for, from the response's subject.
pub(crate) fn number_of(subject: &str) -> Option<u64> {
    subject.rsplit_once(".r").and_then(|(_, number)| number.parse().ok())
}

/// Publishes the request of this number and waits for its acknowledgement.
pub(crate) async fn publish(jetstream: &Context, prefix: &str, number: u64) {
    let mut headers = HeaderMap::new();
    headers.insert(ID_HEADER, format!("r{number}"));
    let payload = format!(
        "{{\"id\":\"r{number}\",\"group\":\"{GROUP}\",\"body\":{{\"model\":\"{MODEL}\",\"max_tokens\":16,\
         \"messages\":[{{\"role\":\"system\",\"content\":\"Answer in one short sentence.\"}},\
         {{\"role\":\"user\",\"content\":\"Say something about the number {number}, please.\"}}]}}}}"
    );
    let message = PublishMessage::build().headers(headers).payload(payload.into());
    let subject = format!("{prefix}.req.{TEAM}.normal");
    let sent = jetstream.send_publish(subject, message).await.expect("a publish can be sent");
    sent.await.expect("a request is accepted");
}
