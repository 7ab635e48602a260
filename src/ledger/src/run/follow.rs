//! Follows the usage stream from the store's own cursor.
//!
//! The consumer is ephemeral and acknowledges nothing: which events are counted is written where the totals
//! are, and only there. Whatever goes wrong, the next consumer starts at the cursor again.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;
use tollgate_bus::{Bus, event};

use super::in_background;
use super::standing::{Standing, Stream, standing};
use crate::fold::Message;
use crate::reading::Reading;
use crate::{Error, Ledger, metrics, store};

/// How long the fold rests after few events, so that the next transaction has more of them.
const GATHER: Duration = Duration::from_millis(10);
/// Most events in one transaction.
const BATCH_MAX: usize = 500;
/// How often the lag is measured and the stream is looked at, to notice that it was recreated.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// When to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// When told to stop.
    Stopped,
    /// When everything that is stored has been folded.
    CaughtUp,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Stopped,
    CaughtUp,
}

enum Fault {
    /// It cannot go on.
    Fatal(Error),
    /// The server, the consumer or the connection failed: again, from the cursor.
    Again(String),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
}

impl From<store::Error> for Fault {
    fn from(error: store::Error) -> Self {
        Self::Fatal(error.into())
    }
}

fn again(error: impl std::fmt::Display) -> Fault {
    Fault::Again(error.to_string())
}

/// Looks at the stream until there is one, and refuses one that is not the ledger's. `None`: stopped.
pub(crate) async fn first_look(
    bus: &Bus,
    ledger: &Arc<Ledger>,
    stop: &CancellationToken,
) -> Result<Option<()>, Error> {
    retrying(stop, || Box::pin(async { look(bus, ledger).await.map(drop) })).await
}

/// Follows the stream, through every failure of the server, until `until`.
pub(crate) async fn follow(
    bus: &Bus,
    ledger: &Arc<Ledger>,
    until: Until,
    stop: &CancellationToken,
) -> Result<Ended, Error> {
    let ended = retrying(stop, || {
        Box::pin(async {
            look(bus, ledger).await?;
            pass(bus, ledger, until, stop).await
        })
    });
    Ok(ended.await?.unwrap_or(Ended::Stopped))
}

/// Tries again, with growing pauses, until `once` succeeds, fails for good, or `stop`: then `None`.
///
/// Boxed rather than an async closure: those are not known to be `Send` for every lifetime, and a role has
/// to run on any thread.
async fn retrying<'a, T>(
    stop: &CancellationToken,
    mut once: impl FnMut() -> Pin<Box<dyn Future<Output = Result<T, Fault>> + Send + 'a>>,
) -> Result<Option<T>, Error> {
    let mut pause = PAUSE_MIN;
    while !stop.is_cancelled() {
        match once().await {
            Ok(value) => return Ok(Some(value)),
            Err(Fault::Fatal(error)) => return Err(error),
            Err(Fault::Again(reason)) => {
                tracing::warn!(
                    reason,
                    pause_ms = pause.as_millis(),
                    "the usage stream is not available, trying again"
                );
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
    Ok(None)
}

/// Asks the server how the stream is, and brings the cursor to where the next event is.
async fn look(bus: &Bus, ledger: &Arc<Ledger>) -> Result<Stream, Fault> {
    let name = bus.subjects().stream(event::USAGE);
    let stream = bus.jetstream().get_stream(&name).await.map_err(again)?;
    let info = stream.cached_info();
    let found =
        Stream { created_at: info.created, first: info.state.first_sequence, last: info.state.last_sequence };
    let ledger = Arc::clone(ledger);
    in_background(move || {
        let cursor = ledger.cursor()?;
        match standing(cursor, ledger.adopt_stream(found.created_at)?, &found) {
            Standing::Continue => {}
            Standing::SkipTo(sequence) => {
                let missing = ledger.skip_to(sequence)?;
                metrics::note_gap();
                tracing::error!(
                    missing,
                    cursor,
                    first_sequence = found.first,
                    "usage events aged out of the stream before they were folded: they are not in the totals"
                );
            }
            Standing::Other(reason) => return Err(Error::OtherStream { stream: name, reason }),
        }
        metrics::set_lag(found.last.saturating_sub(ledger.cursor()?));
        Ok(found)
    })
    .await
    .map_err(Fault::Fatal)
}

/// Reads with one consumer for as long as that works.
async fn pass(
    bus: &Bus,
    ledger: &Arc<Ledger>,
    until: Until,
    stop: &CancellationToken,
) -> Result<Ended, Fault> {
    let disconnections = bus.connection().health().disconnections;
    let cursor = ledger.cursor()?;
    let consumer = Reading::after(bus, event::USAGE, cursor).await.map_err(again)?;
    if until == Until::CaughtUp && consumer.cached_info().num_pending == 0 {
        return Ok(Ended::CaughtUp);
    }
    let mut chunks = consumer
        .stream()
        .max_messages_per_batch(BATCH_MAX)
        .expires(Duration::from_secs(30))
        .heartbeat(Duration::from_secs(5))
        .messages()
        .await
        .map_err(again)?
        .ready_chunks(BATCH_MAX);
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut delivered = 0;
    loop {
        let chunk = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(Ended::Stopped),
            _ = looks.tick() => {
                look(bus, ledger).await?;
                // A restarted server has forgotten the consumer; its missing heartbeats would show it later.
                if bus.connection().health().disconnections != disconnections {
                    return Err(Fault::Again("the connection was lost in between".into()));
                }
                continue;
            }
            chunk = chunks.next() => chunk.ok_or_else(|| again("the consumer's messages ended"))?,
        };
        let read = read(chunk, delivered);
        delivered += u64::try_from(read.messages.len()).unwrap_or(u64::MAX);
        if !read.messages.is_empty() {
            let is_small = read.messages.len() < BATCH_MAX / 4;
            fold(ledger, read.messages).await?;
            if is_small {
                // A transaction costs the same for one event as for many: a moment gathers some.
                tokio::time::sleep(GATHER).await;
            }
        }
        if let Some(reason) = read.broken {
            return Err(Fault::Again(reason));
        }
        if until == Until::CaughtUp && read.pending == 0 {
            return Ok(Ended::CaughtUp);
        }
    }
}

struct Read {
    /// What can be folded: everything up to the first thing that is wrong.
    messages: Vec<Message>,
    /// What the server still had when it sent the last one.
    pending: u64,
    /// Why this consumer cannot be used any longer.
    broken: Option<String>,
}

/// Takes a chunk of what a consumer sent, of which `delivered` messages came before. Without
/// acknowledgements nobody sends a message again that was lost on the way; a gap in the consumer's own
/// numbers shows it.
fn read<E: std::fmt::Display>(
    chunk: Vec<Result<async_nats::jetstream::Message, E>>,
    mut delivered: u64,
) -> Read {
    let mut read = Read { messages: Vec::with_capacity(chunk.len()), pending: u64::MAX, broken: None };
    for message in chunk {
        let taken = message.map_err(|error| error.to_string()).and_then(|message| {
            let info = message.info().map_err(|error| error.to_string())?;
            if info.consumer_sequence != delivered + 1 {
                return Err(format!("message {} of the consumer was lost on the way", delivered + 1));
            }
            let (sequence, stored_at) = (info.stream_sequence, info.published);
            Ok((info.pending, Message { sequence, stored_at, payload: message.message.payload.clone() }))
        });
        match taken {
            Ok((pending, message)) => {
                delivered += 1;
                read.pending = pending;
                read.messages.push(message);
            }
            Err(reason) => {
                read.broken = Some(reason);
                break;
            }
        }
    }
    read
}

async fn fold(ledger: &Arc<Ledger>, messages: Vec<Message>) -> Result<(), Fault> {
    let ledger = Arc::clone(ledger);
    let last = messages.last().map_or(0, |message| message.sequence);
    let report = in_background(move || Ok(ledger.fold(&messages)?)).await?;
    metrics::note(&report);
    if report.missing > 0 {
        metrics::note_gap();
        tracing::warn!(
            missing = report.missing,
            before = last,
            "sequences are missing from the usage stream"
        );
    }
    if report.skipped > 0 {
        tracing::error!(
            messages = report.skipped,
            up_to = last,
            "messages of the usage stream are no usage events"
        );
    }
    Ok(())
}
