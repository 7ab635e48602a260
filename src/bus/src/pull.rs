//! Pulling work, never more than there are places for.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::message::Acker;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tollgate_protocol::record::Source;
use tollgate_protocol::{Sequence, Timestamp};

use crate::heartbeat::{Beat, Heartbeats};
use crate::{Bus, HeaderView};

/// A message in hand, with the place it takes. Dropping it without an acknowledgement lets the server
/// deliver it again when its wait is over.
pub struct Held {
    /// Where the message was stored.
    pub subject: String,
    /// Its headers.
    pub headers: Option<async_nats::HeaderMap>,
    /// Its bytes.
    pub payload: Bytes,
    /// Which stored message it is.
    pub source: Source,
    /// When it was stored.
    pub stored_at: Timestamp,
    /// Whether it was delivered before. A hint only: a killed server forgets.
    pub redelivered: bool,
    acker: Acker,
    beat: Beat,
    place: Option<OwnedSemaphorePermit>,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the payload: it may be a prompt.
        f.debug_struct("Held")
            .field("source", &self.source)
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}

impl Held {
    /// Its headers, as the protocol reads them.
    pub fn header_view(&self) -> HeaderView<'_> {
        HeaderView(self.headers.as_ref())
    }

    /// The sequence of the stored message.
    pub fn sequence(&self) -> Sequence {
        self.source.sequence
    }

    /// Done with: the server may forget it. Not waited for: a lost acknowledgement is a redelivery, and
    /// a redelivery finds everything done.
    pub async fn ack(self) {
        drop(self.beat);
        if let Err(error) = self.acker.ack().await {
            tracing::debug!(%error, message = %self.source, "acknowledgement was not sent");
        }
    }

    /// To be delivered again after `delay`, here or elsewhere.
    pub async fn hand_back(self, delay: Duration) {
        // First: a heartbeat after it would count as the message's own, and it would come only after the whole wait.
        drop(self.beat);
        if let Err(error) = self.acker.ack_with(AckKind::Nak(Some(delay))).await {
            tracing::debug!(%error, message = %self.source, "hand-back was not sent");
        }
    }

    /// Makes room for another one, and stays in hand.
    pub fn free_place(&mut self) {
        self.place = None;
    }

    /// Lets go without a word: somebody else has it, and an acknowledgement would take it from them.
    pub fn abandon(self) {
        drop(self);
    }
}

/// Which consumer to pull from.
#[derive(Clone, Debug)]
pub struct PullFrom {
    /// The stream.
    pub stream: String,
    /// The durable consumer and its settings.
    pub consumer: pull::Config,
}

impl Bus {
    /// Pulls until `stop`, giving each message to `into`. Never asks for more than `places` has left; a
    /// missing consumer, a lost connection or a restarted server only pause it.
    pub async fn pull(
        &self,
        from: PullFrom,
        places: Arc<Semaphore>,
        batch_max: usize,
        heartbeats: Heartbeats,
        into: mpsc::Sender<Held>,
        stop: CancellationToken,
    ) {
        let mut pause = Duration::from_millis(50);
        let mut is_set = false;
        while !stop.is_cancelled() {
            let consumer = match self.consumer(&from, is_set).await {
                Ok(consumer) => {
                    is_set = true;
                    consumer
                }
                Err(error) => {
                    tracing::warn!(stream = from.stream, error, "consumer is not available, trying again");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(Duration::from_secs(2));
                    continue;
                }
            };
            pause = Duration::from_millis(50);
            while let Ok(()) =
                pull_batch(self, &consumer, &places, batch_max, &heartbeats, &into, &stop).await
            {
                if stop.is_cancelled() {
                    return;
                }
            }
        }
    }

    /// The consumer, with the settings that are wanted. They are set once for each start: a process with an older
    /// configuration must not put its own back whenever its connection was interrupted.
    async fn consumer(&self, from: &PullFrom, is_set: bool) -> Result<PullConsumer, String> {
        if is_set && let Some(name) = &from.consumer.durable_name {
            let found = self.jetstream().get_consumer_from_stream(name, &from.stream).await;
            if let Ok(consumer) = found {
                return Ok(consumer);
            }
            // Created only when it is gone: a look-up that failed for any other reason must not end in an update.
            let made =
                self.jetstream().create_consumer_strict_on_stream(from.consumer.clone(), &from.stream).await;
            return made.map_err(|error| error.to_string());
        }
        self.jetstream()
            .create_consumer_on_stream(from.consumer.clone(), &from.stream)
            .await
            .map_err(|error| error.to_string())
    }
}

/// One pull: waits for a place, asks for as many messages as there are places, and passes them on as they
/// come. `Err`: the consumer should be looked at again.
async fn pull_batch(
    bus: &Bus,
    consumer: &PullConsumer,
    places: &Arc<Semaphore>,
    batch_max: usize,
    heartbeats: &Heartbeats,
    into: &mpsc::Sender<Held>,
    stop: &CancellationToken,
) -> Result<(), ()> {
    // Short, because a pull that is lost with its server's leadership is noticed only by its end.
    // Twice the largest message there is, so that a lane of large ones does not fill the memory.
    const BYTES_MAX: usize = 16 * 1024 * 1024;
    const GATHER: Duration = Duration::from_micros(500);
    // And because it goes on after a stop: what the server hands out meanwhile would be lost to everybody until its wait
    // is over, were nobody there to hand it back.
    const EXPIRES: Duration = Duration::from_secs(2);
    let first = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        place = Arc::clone(places).acquire_owned() => place.map_err(|_| ())?,
    };
    // With nearly every place taken, places come free one by one, and a pull for each would cost the server
    // as much as the message: a moment gathers some.
    if places.available_permits() < batch_max / 8 {
        tokio::time::sleep(GATHER).await;
    }
    let mut permits = first;
    while permits.num_permits() < batch_max {
        let Ok(more) = Arc::clone(places).try_acquire_owned() else { break };
        permits.merge(more);
    }
    let disconnections = bus.connection().health().disconnections;
    let batch =
        consumer.batch().max_messages(permits.num_permits()).max_bytes(BYTES_MAX).expires(EXPIRES).messages();
    let mut batch = batch.await.map_err(|error| tracing::debug!(%error, "pull failed"))?;
    loop {
        let next = tokio::select! {
            biased;
            next = tokio::time::timeout(EXPIRES + Duration::from_secs(5), batch.next()) => next,
            () = bus.connection().reconnected_since(disconnections) => return Err(()),
        };
        let message = match next {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(error))) => {
                tracing::debug!(%error, "pull was interrupted");
                tokio::time::sleep(Duration::from_millis(20)).await;
                return Err(());
            }
            Ok(None) => return Ok(()),
            // The server promised to end the pull by now. It was restarted, or the connection is gone.
            Err(_) => return Err(()),
        };
        let Some(place) = permits.split(1) else { return Ok(()) };
        if let Some(held) = held(message, place, heartbeats)
            && let Err(refused) = into.send(held).await
        {
            // Nobody works here any more.
            refused.0.hand_back(Duration::ZERO).await;
        }
    }
}

fn held(
    message: async_nats::jetstream::Message,
    place: OwnedSemaphorePermit,
    heartbeats: &Heartbeats,
) -> Option<Held> {
    let (source, stored_at, redelivered) = {
        let info = message.info().ok()?;
        let source = Source { stream: info.stream.to_owned(), sequence: info.stream_sequence };
        (source, info.published, info.delivered > 1)
    };
    let beat = heartbeats.hold(message.reply.clone()?);
    let (message, acker) = message.split();
    Some(Held {
        subject: message.subject.into_string(),
        headers: message.headers,
        payload: message.payload,
        source,
        stored_at,
        redelivered,
        acker,
        beat,
        place: Some(place),
    })
}
