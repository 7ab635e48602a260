//! Reading the entries of counters, and up to where they must have been read.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_nats::jetstream::consumer::{PullConsumer, pull};
use futures_util::StreamExt;
use futures_util::stream::ReadyChunks;
use tokio_util::task::TaskTracker;
use tollgate_bus::counter::{self, StoredEntry};

use super::in_background;
use super::settle::{Delivered, Fault, Pass, Settler, again, in_order};
use crate::metrics;
use crate::settle::PlacedEvent;

/// How long an entry that is stored may take before it is looked whether it is there.
const CAUGHT_UP_LOOK: Duration = Duration::from_millis(250);

/// The entries as they come, and how many did.
pub(super) struct Entries {
    pub(super) stream: ReadyChunks<pull::Stream>,
    pub(super) seen: u64,
}

impl Settler<'_> {
    fn read_entries(&self, chunk: Vec<Delivered>, seen: &mut u64) -> Result<(Vec<StoredEntry>, u64), Fault> {
        let (mut read, mut pending) = (Vec::with_capacity(chunk.len()), u64::MAX);
        for message in chunk {
            let message = message.map_err(again)?;
            pending = in_order(&message, seen)?;
            match self.bus.read_entry(&message) {
                Ok(entry) => read.push(entry),
                Err(reason) => {
                    metrics::note_unreadable_header();
                    tracing::error!(subject = %message.subject, reason, "an entry of a budget cannot be read");
                }
            }
        }
        Ok((read, pending))
    }

    pub(super) async fn note_entries(
        &self,
        chunk: Option<Vec<Delivered>>,
        seen: &mut u64,
        pass: &mut Pass,
        tasks: &TaskTracker,
    ) -> Result<(), Fault> {
        let chunk = chunk.ok_or_else(|| again("the consumer's messages ended"))?;
        let (read, pending) = self.read_entries(chunk, seen)?;
        let outcome = self.note(read, Vec::new()).await?;
        pass.entries_read |= pending == 0;
        self.act(outcome, pass, tasks);
        Ok(())
    }

    /// Reads all entries that are stored by now. The two streams come by themselves: what a call was reserved with was stored
    /// before its usage event, and can be read after it. Charged as if it had no reservation, it would be there twice.
    pub(super) async fn catch_up(
        &self,
        entries: &mut Entries,
        consumer: &mut PullConsumer,
        pass: &mut Pass,
        tasks: &TaskTracker,
    ) -> Result<(), Fault> {
        let last = self.stream(counter::STREAM).await?.cached_info().state.last_sequence;
        while self.lock().cursors().entries < last {
            match tokio::time::timeout(CAUGHT_UP_LOOK, entries.stream.next()).await {
                Ok(chunk) => self.note_entries(chunk, &mut entries.seen, pass, tasks).await?,
                Err(_) => {
                    // The last one may have been removed: then it does not come.
                    let info = consumer.info().await.map_err(again)?;
                    if info.num_pending == 0 && info.delivered.consumer_sequence <= entries.seen {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether these calls have their reservations; and the events again.
    pub(super) async fn are_reserved(
        &self,
        usage: Vec<PlacedEvent>,
    ) -> Result<(bool, Vec<PlacedEvent>), Fault> {
        let book = Arc::clone(self.book);
        let look = move || {
            let are_reserved = book.lock().unwrap_or_else(PoisonError::into_inner).are_reserved(&usage)?;
            Ok((are_reserved, usage))
        };
        in_background(look).await.map_err(Fault::Fatal)
    }
}
