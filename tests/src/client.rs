//! A bare client: what anybody could write with a NATS library and the public contract.

mod live;
mod stored;

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{ContextBuilder, PublishError};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::DirectGetErrorKind;
use async_nats::jetstream::{Context, consumer};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use serde_json::Value;

use crate::request::{Identity, Request};
use crate::wait::eventually;

pub use live::Live;
pub use stored::Stored;

/// How long a single publish waits for its acknowledgement before it is tried again.
const ACK_WITHIN: Duration = Duration::from_secs(2);

/// How long publishing is tried again for, which is longer than any outage a test makes.
const PUBLISH_WITHIN: Duration = Duration::from_secs(60);

/// Publishes of [`Client::publish_all`] that are on the way at once.
const PUBLISH_AT_ONCE: usize = 256;

/// Messages that may wait between the connection and a subscription. More would be dropped without a word.
const SUBSCRIPTION_CAPACITY: usize = 1 << 20;

/// A connection of its own with JetStream on it. It reconnects for as long as it is kept.
#[derive(Clone, Debug)]
pub struct Client {
    nats: async_nats::Client,
    jetstream: Context,
}

impl Client {
    /// Connects, waiting for the server if need be.
    ///
    /// # Panics
    /// When there is no server at this URL.
    pub async fn connect(url: &str) -> Self {
        let nats = eventually(PUBLISH_WITHIN, "a connection to the nats-server", async || {
            async_nats::ConnectOptions::new()
                .subscription_capacity(SUBSCRIPTION_CAPACITY)
                .reconnect_delay_callback(|_| Duration::from_millis(20))
                .connect(url)
                .await
                .map_err(|error| error.to_string())
        })
        .await;
        let jetstream = ContextBuilder::new().timeout(ACK_WITHIN).build(nats.clone());
        Self { nats, jetstream }
    }

    /// The connection.
    pub fn nats(&self) -> &async_nats::Client {
        &self.nats
    }

    /// JetStream on that connection.
    pub fn jetstream(&self) -> &Context {
        &self.jetstream
    }

    /// Publishes a request, again and again until it is acknowledged.
    ///
    /// # Panics
    /// When it is never acknowledged, with the last error.
    pub async fn publish(&self, request: &Request) -> PublishAck {
        eventually(PUBLISH_WITHIN, &format!("the acknowledgement of {}", request.identity), async || {
            self.try_publish(request).await.map_err(|error| error.to_string())
        })
        .await
    }

    /// The same for tasks: it owns what it needs.
    ///
    /// # Panics
    /// When it is never acknowledged.
    pub async fn publish_owned(self, request: Request) {
        let what = format!("the acknowledgement of {}", request.identity);
        // Owned by each look, too.
        let look = move || {
            let (client, request) = (self.clone(), request.clone());
            async move { client.try_publish(&request).await.map_err(|error| error.to_string()) }.boxed()
        };
        drop(eventually(PUBLISH_WITHIN, &what, look).await);
    }

    /// The same for many, several at once.
    ///
    /// # Panics
    /// When one is never acknowledged.
    pub async fn publish_all(&self, requests: &[Request]) {
        let publishes = requests.iter().map(|request| async move { drop(self.publish(request).await) });
        futures_util::stream::iter(publishes).buffer_unordered(PUBLISH_AT_ONCE).collect::<()>().await;
    }

    /// Publishes a request once.
    ///
    /// # Errors
    /// What the server says, or that it said nothing in time; then the request may be stored or not.
    pub async fn try_publish(&self, request: &Request) -> Result<PublishAck, PublishError> {
        self.try_publish_raw(&request.subject(), request.header_map(), request.payload()).await
    }

    /// Publishes any message to any stream once.
    ///
    /// # Errors
    /// As [`Client::try_publish`] does.
    pub async fn try_publish_raw(
        &self,
        subject: &str,
        headers: HeaderMap,
        payload: impl Into<Bytes>,
    ) -> Result<PublishAck, PublishError> {
        let message = PublishMessage::build().headers(headers).payload(payload.into());
        self.jetstream.send_publish(subject.to_owned(), message).await?.await
    }

    /// Collects the responses of a team from now on. Call it before publishing.
    pub async fn watch(&self, team: &str) -> Live {
        Live::subscribe(self, &format!("llm.live.res.{team}.>")).await
    }

    /// The stored response of a request, by direct get.
    ///
    /// # Panics
    /// When the server answers neither with a message nor with "not found" for a long time.
    pub async fn response(&self, identity: &Identity) -> Option<Stored> {
        let subject = identity.response_subject();
        let record =
            self.jetstream.get_stream_no_info("LLM_RECORD").await.expect("it asks the server nothing");
        eventually(
            PUBLISH_WITHIN,
            &format!("an answer to the direct get of {subject}"),
            async || match record.direct_get_last_for_subject(subject.as_str()).await {
                Ok(message) => Ok(Some(Stored::from(message))),
                Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
                Err(error) => Err(error.to_string()),
            },
        )
        .await
    }

    /// Waits until a response is stored and returns it.
    ///
    /// # Panics
    /// At the deadline.
    pub async fn await_response(&self, identity: &Identity, deadline: Duration) -> Stored {
        eventually(deadline, &format!("the response of {identity}"), async || self.response(identity).await)
            .await
    }

    /// Everything in a stream, in order. Works on work queues too, where it reads without consuming.
    ///
    /// # Panics
    /// When there is no such stream or it cannot be read.
    pub async fn read_stream(&self, stream: &str) -> Vec<Stored> {
        stored::read_stream(self, stream).await
    }

    /// How many messages a stream holds.
    ///
    /// # Panics
    /// When there is no such stream.
    pub async fn message_count(&self, stream: &str) -> u64 {
        let stream = self.jetstream.get_stream(stream).await.expect("the stream is there");
        stream.cached_info().state.messages
    }

    /// Every consumer of a stream.
    ///
    /// # Panics
    /// When there is no such stream.
    pub async fn consumers(&self, stream: &str) -> Vec<consumer::Info> {
        let stream = self.jetstream.get_stream(stream).await.expect("the stream is there");
        stream.consumers().try_collect().await.expect("the consumers can be listed")
    }

    /// Messages of a stream that are delivered and not acknowledged, over all of its consumers.
    ///
    /// # Panics
    /// When there is no such stream.
    pub async fn ack_pending(&self, stream: &str) -> usize {
        self.consumers(stream).await.iter().map(|consumer| consumer.num_ack_pending).sum()
    }

    /// One request and its reply over core NATS, as for `llm.ask.…` and `llm.ctl.…`.
    ///
    /// # Errors
    /// What NATS says: nobody listens, or no reply within the timeout.
    pub async fn request(
        &self,
        subject: &str,
        headers: HeaderMap,
        body: &Value,
        timeout: Duration,
    ) -> Result<async_nats::Message, String> {
        let payload = serde_json::to_vec(body).expect("a JSON value can be written");
        let request =
            async_nats::Request::new().headers(headers).payload(payload.into()).timeout(Some(timeout));
        self.nats.send_request(subject.to_owned(), request).await.map_err(|error| error.to_string())
    }

    /// What the ledger has counted so far, by team.
    ///
    /// # Panics
    /// When no ledger answers in time.
    pub async fn usage_by_team(&self) -> Value {
        let query = serde_json::json!({"by": ["team"]});
        eventually(PUBLISH_WITHIN, "the ledger's answer to a usage query", async || {
            let reply =
                self.request("llm.ctl.usage.query", HeaderMap::new(), &query, Duration::from_secs(5)).await?;
            let value: Value = serde_json::from_slice(&reply.payload).map_err(|error| error.to_string())?;
            if value["total"].is_object() { Ok(value) } else { Err(value.to_string()) }
        })
        .await
    }
}
