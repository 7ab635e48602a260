//! A stored message, and reading a whole stream.

use std::time::Duration;

use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::message::StreamMessage;
use async_nats::{HeaderMap, Message, StatusCode};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use serde_json::{Value, json};

use super::Client;
use crate::request::decode;

/// Messages that one batched direct get asks for.
const BATCH: usize = 1_000;

/// How long the next message of a read may take.
const NEXT_WITHIN: Duration = Duration::from_secs(10);

/// A message as it is in a stream.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// The subject it is stored under.
    pub subject: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its payload.
    pub payload: Bytes,
}

impl Stored {
    /// The payload, read by its `Content-Type`.
    ///
    /// # Panics
    /// When it is not what its header promises.
    pub fn value(&self) -> Value {
        decode(&self.headers, &self.payload).unwrap_or_else(|error| {
            let text = String::from_utf8_lossy(&self.payload);
            panic!("{} at {} cannot be read ({error}): {text}", self.subject, self.sequence)
        })
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.as_str())
    }

    /// The stored message behind a republished one, whose headers name its stream's subject and sequence.
    pub(super) fn from_republished(message: Message) -> Self {
        let headers = message.headers.unwrap_or_default();
        let subject = header(&headers, "Nats-Subject").unwrap_or(message.subject.as_str()).to_owned();
        Self { sequence: sequence(&headers), subject, headers, payload: message.payload }
    }
}

impl From<StreamMessage> for Stored {
    fn from(message: StreamMessage) -> Self {
        let StreamMessage { subject, sequence, headers, payload, .. } = message;
        Self { sequence, subject: subject.to_string(), headers, payload }
    }
}

pub(super) async fn read_stream(client: &Client, name: &str) -> Vec<Stored> {
    let stream = client.jetstream().get_stream(name).await.expect("the stream is there");
    let (config, state) = (&stream.cached_info().config, &stream.cached_info().state);
    if state.messages == 0 {
        return Vec::new();
    }
    if config.allow_direct {
        return read_directly(client, name, state.last_sequence).await;
    }
    let all = OrderedConfig::default();
    let consumer = stream.create_consumer(all).await.expect("an ordered consumer can be created");
    let mut messages = consumer.messages().await.expect("an ordered consumer has messages");
    let mut read = Vec::new();
    loop {
        let next = tokio::time::timeout(NEXT_WITHIN, messages.try_next()).await;
        let message = next.expect("the next message comes in time").expect("the stream can be read");
        let message = message.expect("an ordered consumer goes on for ever");
        let info = message.info().expect("a delivered message says where it is from");
        let (sequence, pending) = (info.stream_sequence, info.pending);
        let headers = message.headers.clone().unwrap_or_default();
        let (subject, payload) = (message.subject.to_string(), message.payload.clone());
        read.push(Stored { sequence, subject, headers, payload });
        if pending == 0 {
            return read;
        }
    }
}

/// Batched direct gets: the only way to read a work queue that has its consumer already.
async fn read_directly(client: &Client, name: &str, last: u64) -> Vec<Stored> {
    let mut read = Vec::new();
    let mut next = 1;
    while next <= last {
        let batch = read_batch(client, name, next).await;
        let Some(end) = batch.last().map(|stored| stored.sequence) else { break };
        next = end + 1;
        read.extend(batch);
    }
    read
}

async fn read_batch(client: &Client, name: &str, first: u64) -> Vec<Stored> {
    let inbox = client.nats().new_inbox();
    let mut replies = client.nats().subscribe(inbox.clone()).await.expect("a subscription is taken");
    let request = json!({"seq": first, "batch": BATCH}).to_string();
    let subject = format!("$JS.API.DIRECT.GET.{name}");
    client.nats().publish_with_reply(subject, inbox, request.into()).await.expect("a request can be sent");
    let mut batch = Vec::new();
    loop {
        let reply = tokio::time::timeout(NEXT_WITHIN, replies.next()).await;
        let reply = reply.expect("the next message comes in time").expect("the subscription goes on");
        match reply.status {
            None => batch.push(Stored::from_republished(reply)),
            // The end of a batch, or nothing at or after `first`.
            Some(status) if status.as_u16() == 204 || status == StatusCode::NOT_FOUND => return batch,
            Some(status) => panic!("direct get from {name} failed: {status} {:?}", reply.description),
        }
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).map(|value| value.as_str())
}

fn sequence(headers: &HeaderMap) -> u64 {
    header(headers, "Nats-Sequence")
        .and_then(|text| text.parse().ok())
        .expect("the server names the sequence")
}
