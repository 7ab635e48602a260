//! Reading both streams for an [`Audit`], the totals beside it, and writing what was found to be missing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;
use tollgate_bus::bucket::SPENT;
use tollgate_bus::counter::{self, StoredEntry, UnreadableEntry};
use tollgate_bus::retry::Patience;
use tollgate_bus::{Bus, event};
use tollgate_policy::budget::{Budgets, window_start};
use tollgate_protocol::budget::{Counter, Spent, Unit};
use tollgate_protocol::{Sequence, Timestamp};

use crate::audit::{Audit, Correction, Difference, What};
use crate::fold::{Message, parse};
use crate::query::{self, Answer, AsOf};
use crate::reading::Reading;
use crate::row::Row;
use crate::run::lease::{self, Lease};
use crate::run::open::spent_since;
use crate::run::settle::{BATCH_MAX, Fault, in_order, messages};
use crate::store::sled::SledStore;
use crate::{Caps, Error, Ledger};

/// How long a repair waits for another one to end.
const LEASE_WAIT: Duration = Duration::from_secs(60);
const PATIENCE: Patience = Patience(Duration::from_secs(20));

/// Why it cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The streams cannot be read now.
    #[error("the streams cannot be read: {0}")]
    Unreadable(String),
    /// What was read cannot be kept.
    #[error(transparent)]
    Ledger(#[from] Error),
    /// Another repair goes on.
    #[error("another repair goes on; nothing was changed")]
    Busy,
}

impl From<crate::store::Error> for ReconcileError {
    fn from(error: crate::store::Error) -> Self {
        Self::Ledger(error.into())
    }
}

impl From<Fault> for ReconcileError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Fatal(error) => Self::Ledger(error),
            Fault::Again(reason) => Self::Unreadable(reason),
        }
    }
}

fn unreadable(error: impl std::fmt::Display) -> ReconcileError {
    ReconcileError::Unreadable(error.to_string())
}

/// Both streams read from their beginnings, in a store of its own.
pub struct Reconciliation<'a> {
    bus: &'a Bus,
    ledger: Arc<Ledger>,
    audit: Audit,
    budgets: Budgets,
    /// The first usage event that there still is, and when it was stored.
    first_usage: (Sequence, Timestamp),
}

impl std::fmt::Debug for Reconciliation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reconciliation").finish_non_exhaustive()
    }
}

impl<'a> Reconciliation<'a> {
    /// Works in `folder`, which has to be new.
    pub async fn open(
        bus: &'a Bus,
        folder: &Path,
        budgets: Budgets,
        opened: impl IntoIterator<Item = (String, Sequence)>,
    ) -> Result<Self, ReconcileError> {
        let store = SledStore::open(folder)?;
        let ledger = Arc::new(Ledger::open(Box::new(store), folder, Caps::default())?);
        let audit = Audit::new(Arc::clone(&ledger), budgets.clone(), opened)?;
        let usage = bus.jetstream().get_stream(bus.subjects().stream(event::USAGE)).await;
        let state = usage.map_err(unreadable)?.cached_info().state.clone();
        let first_usage = (state.first_sequence, state.first_timestamp);
        Ok(Self { bus, ledger, audit, budgets, first_usage })
    }

    /// What was read.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// The last sequences of both streams: entries, and usage events.
    pub async fn ends(&self) -> Result<(Sequence, Sequence), ReconcileError> {
        let last = async |name: &str| {
            let stream = self.bus.jetstream().get_stream(self.bus.subjects().stream(name)).await;
            stream.map(|stream| stream.cached_info().state.last_sequence).map_err(unreadable)
        };
        Ok((last(counter::STREAM).await?, last(event::USAGE).await?))
    }

    /// Reads entries up to one and usage events up to another. `fold` also adds the events up.
    pub async fn read(
        &mut self,
        entries: Sequence,
        usage: Sequence,
        fold: bool,
    ) -> Result<(), ReconcileError> {
        let (entries_read, usage_read) = self.audit.cursors();
        let mut stream = Reader::open(self.bus, counter::STREAM, entries_read, entries).await?;
        while let Some(chunk) = stream.next().await? {
            let read = chunk.iter().filter_map(|message| entry(self.bus, message)).collect();
            self.audit.read(read, &[])?;
        }
        let mut stream = Reader::open(self.bus, event::USAGE, usage_read, usage).await?;
        while let Some(chunk) = stream.next().await? {
            let mut messages = Vec::with_capacity(chunk.len());
            for message in chunk {
                let info = message.info().map_err(unreadable)?;
                let (sequence, stored_at) = (info.stream_sequence, info.published);
                messages.push(Message { sequence, stored_at, payload: message.message.payload });
            }
            let events =
                messages.iter().filter_map(|message| Some((message.sequence, parse(&message.payload).ok()?)));
            self.audit.read(Vec::new(), &events.collect::<Vec<_>>())?;
            if fold {
                self.ledger.fold(&messages)?;
            }
        }
        Ok(())
    }

    /// What has to stand in the openings that budgets began with; `None` if that cannot be known any more.
    pub async fn openings(&self) -> Result<HashMap<Sequence, Option<i64>>, ReconcileError> {
        let mut openings = HashMap::new();
        for (sequence, counter, up_to) in self.audit.openings() {
            openings.insert(sequence, self.opening(&counter, up_to).await?);
        }
        Ok(openings)
    }

    async fn opening(&self, counter: &Counter, up_to: Sequence) -> Result<Option<i64>, ReconcileError> {
        let Some(budget) = self.budgets.named(&counter.budget) else { return Ok(None) };
        let start = window_start(&counter.window);
        let (first, since) = self.first_usage;
        let is_aged = first > 1 && start.is_none_or(|start| start < since);
        if is_aged || !self.audit.is_whole(counter) {
            return Ok(None);
        }
        let unit = budget.measure.unit().unwrap_or_default();
        // What is over is in flight no more.
        if up_to < first || unit == Unit::InFlight {
            return Ok(Some(0));
        }
        let only = Budgets([budget.clone()].into());
        Ok(Some(spent_since(self.bus, &only, unit, start, up_to).await?))
    }

    /// What is told to be spent.
    pub async fn told(&self) -> Result<HashMap<Counter, Spent>, ReconcileError> {
        let bucket = self.bus.bucket(SPENT).await.map_err(unreadable)?;
        let mut keys = bucket.keys().await.map_err(unreadable)?;
        let mut told = HashMap::new();
        while let Some(key) = keys.next().await {
            let key = key.map_err(unreadable)?;
            let Some((budget, window)) = key.split_once('.') else { continue };
            let value = bucket.get(key.clone()).await.map_err(unreadable)?.unwrap_or_default();
            let counter = Counter { budget: budget.to_owned(), window: window.to_owned() };
            let spent = serde_json::from_slice(&value).ok().filter(|spent: &Spent| !spent.is_closed);
            told.extend(spent.map(|spent| (counter, spent)));
        }
        Ok(told)
    }

    /// The question to a ledger whose answer [`Reconciliation::totals`] compares. What aged out of the stream is left out.
    pub fn question(&self) -> query::Request {
        let (first, since) = self.first_usage;
        query::Request {
            by: ["team", "provider", "model"].map(str::to_owned).into(),
            // An event is stored after its call; a day is more than that takes.
            from: (first > 1).then(|| since + chrono::TimeDelta::days(1)),
            ..query::Request::default()
        }
    }

    /// Compares a ledger's answer with the events that were folded here, which are those up to the answer's place.
    pub fn totals(&self, theirs: &Answer) -> Result<BTreeSet<Difference>, ReconcileError> {
        let payload = serde_json::to_vec(&self.question()).map_err(unreadable)?;
        let (request, query) = query::parse(&payload).map_err(|problem| unreadable(problem.message))?;
        let (sums, state) = self.ledger.query(&query)?;
        let as_of = AsOf { skipped: state.skipped, missing: state.missing, ..theirs.as_of.clone() };
        let ours = Answer::new(&request, &query, sums, as_of);
        let mut found = BTreeSet::new();
        let mut compare = |of: String, theirs: &Row, ours: &Row| {
            if theirs == ours {
                return;
            }
            let nanos = |row: &Row| i64::try_from(row.cost_nano_usd).unwrap_or(i64::MAX);
            found.insert(Difference {
                what: What::Totals,
                counter: of,
                unit: Unit::NanoUsd,
                account: String::new(),
                attempt: 0,
                sequence: 0,
                stands: nanos(theirs),
                should_be: nanos(ours),
                reason: format!(
                    "the ledger counts {} requests, the usage events are of {}",
                    theirs.requests, ours.requests
                ),
            });
        };
        let rows = |answer: &Answer| -> BTreeMap<String, Row> {
            answer.rows.iter().map(|row| (labels(&row.labels), row.sums.clone())).collect()
        };
        let (their_rows, our_rows) = (rows(theirs), rows(&ours));
        // Rows that were cut are in the total.
        if !theirs.truncated && !ours.truncated {
            for of in their_rows.keys().chain(our_rows.keys()).collect::<BTreeSet<_>>() {
                let row = |rows: &BTreeMap<String, Row>| rows.get(of).cloned().unwrap_or_default();
                compare(of.clone(), &row(&their_rows), &row(&our_rows));
            }
        }
        compare("total".into(), &theirs.total, &ours.total);
        Ok(found)
    }

    /// Writes the corrections that `choose` chooses while nobody else repairs, and returns them.
    pub async fn repair(
        &mut self,
        choose: impl AsyncFnOnce(&mut Self) -> Result<Vec<Correction>, ReconcileError>,
    ) -> Result<Vec<Correction>, ReconcileError> {
        let (lease, stop) = (Lease::of(lease::REPAIR), CancellationToken::new());
        let bus = self.bus;
        let keeping = lease.run(bus, &stop);
        let writing = async {
            let written = self.write(&lease, choose).await;
            stop.cancel();
            written
        };
        let (written, ()) = tokio::join!(writing, keeping);
        written
    }

    async fn write(
        &mut self,
        lease: &Lease,
        choose: impl AsyncFnOnce(&mut Self) -> Result<Vec<Correction>, ReconcileError>,
    ) -> Result<Vec<Correction>, ReconcileError> {
        let held = async {
            while !lease.is_held() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(LEASE_WAIT, held).await.map_err(|_| ReconcileError::Busy)?;
        // Chosen now: what another repair wrote before is read.
        let corrections = choose(self).await?;
        for correction in &corrections {
            if !lease.is_held() {
                return Err(ReconcileError::Busy);
            }
            let Correction { counter, entry, amount, id } = correction;
            self.bus.add(counter, entry, *amount, id, PATIENCE).await.map_err(unreadable)?;
        }
        Ok(corrections)
    }
}

fn labels(labels: &BTreeMap<String, Option<String>>) -> String {
    let named = labels.iter().map(|(name, value)| format!("{name} {}", value.as_deref().unwrap_or("-")));
    named.collect::<Vec<_>>().join(", ")
}

fn entry(
    bus: &Bus,
    message: &async_nats::jetstream::Message,
) -> Option<Result<StoredEntry, UnreadableEntry>> {
    match bus.read_entry(message) {
        Ok(entry) => Some(Ok(entry)),
        Err(reason) => bus.read_amount(message, reason).map(Err),
    }
}

/// A stream's messages from one sequence to another, in order.
struct Reader {
    /// Kept as long as its messages are read.
    reading: Option<Reading>,
    messages: Option<futures_util::stream::ReadyChunks<async_nats::jetstream::consumer::pull::Stream>>,
    seen: u64,
    up_to: Sequence,
}

impl Reader {
    async fn open(bus: &Bus, stream: &str, after: Sequence, up_to: Sequence) -> Result<Self, ReconcileError> {
        let mut reader = Self { reading: None, messages: None, seen: 0, up_to };
        if after < up_to {
            let reading = Reading::after(bus, stream, after).await.map_err(unreadable)?;
            if reading.cached_info().num_pending > 0 {
                reader.messages = Some(messages(&reading).await?.ready_chunks(BATCH_MAX));
            }
            reader.reading = Some(reading);
        }
        Ok(reader)
    }

    /// The next ones; `None` after the last.
    async fn next(&mut self) -> Result<Option<Vec<async_nats::jetstream::Message>>, ReconcileError> {
        let Some(messages) = &mut self.messages else { return Ok(None) };
        let chunk = messages.next().await.ok_or_else(|| unreadable("the consumer's messages ended"))?;
        let mut read = Vec::with_capacity(chunk.len());
        let mut is_end = false;
        for message in chunk {
            let message = message.map_err(unreadable)?;
            let pending = in_order(&message, &mut self.seen)?;
            let sequence = message.info().map_err(unreadable)?.stream_sequence;
            is_end |= pending == 0 || sequence >= self.up_to;
            if sequence <= self.up_to {
                read.push(message);
            }
        }
        if is_end {
            self.messages = None;
        }
        Ok(Some(read))
    }
}
