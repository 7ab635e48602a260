//! Consumers with which streams are read.

use std::ops::Deref;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use tokio::runtime::Handle;
use tollgate_bus::Bus;
use tollgate_protocol::Sequence;

/// How long the server keeps the consumer of a process that died.
const KEPT: Duration = Duration::from_secs(60);

/// An ephemeral consumer that acknowledges nothing. It is removed with this: the server would keep it for a minute, and of a
/// thousand budgets that are opened at once each has one.
pub(crate) struct Reading {
    consumer: PullConsumer,
    bus: Bus,
    stream: String,
}

impl Reading {
    /// Of a stream, after this sequence.
    pub(crate) async fn after(bus: &Bus, stream: &str, cursor: Sequence) -> Result<Self, String> {
        Self::from(bus, stream, DeliverPolicy::ByStartSequence { start_sequence: cursor + 1 }).await
    }

    /// Of a stream, from here on.
    pub(crate) async fn from(bus: &Bus, stream: &str, deliver_policy: DeliverPolicy) -> Result<Self, String> {
        let config = pull::Config {
            deliver_policy,
            ack_policy: AckPolicy::None,
            inactive_threshold: KEPT,
            memory_storage: true,
            num_replicas: 1,
            description: Some("the ledger's reading".into()),
            ..pull::Config::default()
        };
        let stream = bus.subjects().stream(stream);
        let consumer = Box::pin(bus.jetstream().create_consumer_on_stream(config, &stream)).await;
        let consumer = consumer.map_err(|error| error.to_string())?;
        Ok(Self { consumer, bus: bus.clone(), stream })
    }
}

impl Deref for Reading {
    type Target = PullConsumer;

    fn deref(&self) -> &PullConsumer {
        &self.consumer
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let Ok(runtime) = Handle::try_current() else { return };
        let (bus, stream) = (self.bus.clone(), std::mem::take(&mut self.stream));
        let name = self.consumer.cached_info().name.clone();
        runtime.spawn(async move {
            if let Err(error) = bus.jetstream().delete_consumer_from_stream(&name, &stream).await {
                tracing::debug!(%error, stream, "a consumer is left to the server to remove");
            }
        });
    }
}
