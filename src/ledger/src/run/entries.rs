//! Reading the entries of counters, and up to where they must have been read.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use futures_util::StreamExt;
use futures_util::stream::ReadyChunks;
use tokio_util::task::TaskTracker;
use tollgate_bus::counter::{self, StoredEntry};
use tollgate_protocol::Sequence;

use super::in_background;
use super::settle::{BATCH_MAX, Delivered, Fault, Pass, Settler, again, in_order};
use crate::metrics;
use crate::settle::PlacedEvent;

/// How long the next of the entries that are stored may take to come. They may be lost on the way: then they are read from the cursor on.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(5);

/// The entries as they come.
pub(super) struct Entries {
    pub(super) stream: ReadyChunks<pull::Stream>,
    /// How many have come.
    seen: u64,
    /// Which one was the last, whether it could be read or not.
    last: Sequence,
}

impl Entries {
    /// Those after `cursor`.
    pub(super) fn new(stream: pull::Stream, cursor: Sequence) -> Self {
        Self { stream: stream.ready_chunks(BATCH_MAX), seen: 0, last: cursor }
    }
}

impl Settler<'_> {
    fn read_entries(
        &self,
        chunk: Vec<Delivered>,
        entries: &mut Entries,
    ) -> Result<(Vec<StoredEntry>, u64), Fault> {
        let (mut read, mut pending) = (Vec::with_capacity(chunk.len()), u64::MAX);
        for message in chunk {
            let message = message.map_err(again)?;
            pending = in_order(&message, &mut entries.seen)?;
            entries.last = message.info().map_err(again)?.stream_sequence;
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
        entries: &mut Entries,
        pass: &mut Pass,
        tasks: &TaskTracker,
    ) -> Result<(), Fault> {
        let chunk = chunk.ok_or_else(|| again("the consumer's messages ended"))?;
        let (read, pending) = self.read_entries(chunk, entries)?;
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
        pass: &mut Pass,
        tasks: &TaskTracker,
    ) -> Result<(), Fault> {
        // From the leader: a copy that lags behind does not know of it.
        let stored =
            self.bus.last_stored(&self.bus.subjects().stream(counter::STREAM), ">").await.map_err(again)?;
        let last = stored.map_or(0, |stored| stored.source.sequence);
        while entries.last < last {
            let Ok(chunk) = tokio::time::timeout(CAUGHT_UP_WITHIN, entries.stream.next()).await else {
                return Err(again("entries that are stored did not come"));
            };
            self.note_entries(chunk, entries, pass, tasks).await?;
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
