//! Settles budgets: reads entries and usage events, writes the differences, and tells what is spent.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, PullConsumer, pull};
use futures_util::StreamExt;
use tokio::sync::{Semaphore, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tollgate_bus::counter::StoredEntry;
use tollgate_bus::retry::Patience;
use tollgate_bus::{Bus, counter, event};
use tollgate_policy::budget::Budgets;
use tollgate_policy::hot::Hot;
use tollgate_protocol::budget::{Counter, Entry, EntryKind};
use tollgate_protocol::{Sequence, Timestamp};

use super::alert::Alerts;
use super::entries::Entries;
use super::forget::Forgetting;
use super::in_background;
use super::lease::{self, Lease};
use crate::fold::parse;
use crate::reading::Reading;
use crate::settle::{Book, Due, Outcome, PlacedEvent};
use crate::{Error, Ledger};

/// Most messages in one transaction.
pub(crate) const BATCH_MAX: usize = 500;
/// Differences that are written at a time.
const WRITES_MAX: usize = 256;
/// How often it is told what is spent, if that has changed.
const TELL_EVERY: Duration = Duration::from_millis(50);
/// How often old accounts and windows are looked for.
const FORGET_EVERY: Duration = Duration::from_secs(3_600);
/// And when first: by then it is known who writes.
const FORGET_FIRST: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(500);
const ACTIVE_EVERY: Duration = Duration::from_millis(250);
/// How long one difference is tried before its account is looked at again.
pub(super) const PATIENCE: Patience = Patience(Duration::from_secs(5));

/// The book, shared with who asks it.
pub(super) type Shared = Arc<Mutex<Book>>;

/// Opens the book.
pub(super) async fn open(ledger: &Arc<Ledger>, budgets: Budgets) -> Result<Shared, Error> {
    let ledger = Arc::clone(ledger);
    in_background(move || Ok(Arc::new(Mutex::new(Book::open(ledger, budgets)?)))).await
}

/// Works until `stop`.
pub(super) async fn run(
    bus: &Bus,
    book: &Shared,
    mut hot: watch::Receiver<Arc<Hot>>,
    stop: &CancellationToken,
) -> Result<(), Error> {
    // Without budgets nothing is read; once there were some, all is.
    let has_openings = book.lock().unwrap_or_else(PoisonError::into_inner).has_openings();
    let is_begun = tokio::select! {
        () = stop.cancelled() => false,
        found = hot.wait_for(|hot| has_openings || !hot.budgets.is_empty()) => found.is_ok(),
    };
    if !is_begun {
        stop.cancelled().await;
        return Ok(());
    }
    let lease = Lease::of(lease::LEDGER);
    let alerts = Alerts::default();
    let settler = Settler {
        bus,
        book,
        hot,
        lease: &lease,
        alerts: &alerts,
        writes: Arc::new(Semaphore::new(WRITES_MAX)),
    };
    let telling = alerts.run(bus, book, &lease, stop);
    let (outcome, (), ()) = tokio::join!(settler.serve(stop), lease.run(bus, stop), telling);
    outcome
}

pub(super) struct Settler<'a> {
    pub(super) bus: &'a Bus,
    pub(super) book: &'a Shared,
    hot: watch::Receiver<Arc<Hot>>,
    pub(super) lease: &'a Lease,
    pub(super) alerts: &'a Alerts,
    writes: Arc<Semaphore>,
}

/// What one pass over the streams knows.
#[derive(Default)]
pub(super) struct Pass {
    pub(super) entries_read: bool,
    usage_read: bool,
    /// Whether the book knows that both are.
    is_whole: bool,
    /// Whether this process wrote when it last looked.
    was_active: bool,
    /// Counters of which it is to be told what is spent.
    pub(super) changed: BTreeSet<Counter>,
    /// Whether it was said which budgets are closed.
    is_closed: bool,
}

impl Pass {
    /// Something else is charged to these counters.
    fn configured(&mut self, changed: Vec<Counter>) {
        // What is due by that is of accounts of which nothing need be heard any more: all are looked at.
        self.was_active &= changed.is_empty();
        self.changed.extend(changed);
    }
}

impl Settler<'_> {
    async fn serve(&self, stop: &CancellationToken) -> Result<(), Error> {
        let tasks = TaskTracker::new();
        let mut forgetting = Forgetting::default();
        while !stop.is_cancelled() {
            match self.pass(&tasks, &mut forgetting, stop).await {
                Ok(()) => {}
                Err(Fault::Fatal(error)) => return Err(error),
                Err(Fault::Again(reason)) => {
                    tracing::warn!(reason, "budgets cannot be settled now, trying again");
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
        tasks.close();
        tasks.wait().await;
        Ok(())
    }

    async fn pass(
        &self,
        tasks: &TaskTracker,
        forgetting: &mut Forgetting,
        stop: &CancellationToken,
    ) -> Result<(), Fault> {
        let disconnections = self.bus.connection().health().disconnections;
        self.begin().await?;
        let cursors = self.lock().cursors();
        let entries = Reading::after(self.bus, counter::STREAM, cursors.entries).await.map_err(again)?;
        let from = cursors.usage.unwrap_or_default();
        let usage = Reading::after(self.bus, event::USAGE, from).await.map_err(again)?;
        let mut pass = Pass {
            entries_read: entries.cached_info().num_pending == 0,
            usage_read: usage.cached_info().num_pending == 0,
            ..Pass::default()
        };
        let mut entries = Entries::new(messages(&entries).await?, cursors.entries);
        let mut usage = messages(&usage).await?.ready_chunks(BATCH_MAX);
        let mut usage_seen = 0;
        let mut tell = interval(TELL_EVERY);
        let mut active = interval(ACTIVE_EVERY);
        let mut forget = tokio::time::interval_at(tokio::time::Instant::now() + FORGET_FIRST, FORGET_EVERY);
        forget.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut hot = self.hot.clone();
        // What was changed before, or while nothing was read, too.
        hot.mark_changed();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.bus.connection().reconnected_since(disconnections) => {
                    return Err(again("the connection was lost in between"));
                }
                chunk = entries.stream.next() => self.note_entries(chunk, &mut entries, &mut pass, tasks).await?,
                chunk = usage.next() => {
                    let chunk = chunk.ok_or_else(|| again("the consumer's messages ended"))?;
                    let (read, pending) = read_usage(chunk, &mut usage_seen)?;
                    let read = if pass.was_active {
                        let (are_reserved, read) = self.are_reserved(read).await?;
                        if !are_reserved {
                            self.catch_up(&mut entries, &mut pass, tasks).await?;
                        }
                        read
                    } else {
                        read
                    };
                    let outcome = self.note(Vec::new(), read).await?;
                    pass.usage_read |= pending == 0;
                    self.act(outcome, &mut pass, tasks);
                }
                _ = tell.tick(), if !pass.changed.is_empty() && self.is_active(&pass) => self.tell(&mut pass).await,
                Ok(()) = hot.changed() => {
                    let budgets = hot.borrow_and_update().budgets.clone();
                    pass.configured(self.configure(budgets).await?);
                    pass.is_closed = false;
                    self.close_all(&mut pass).await;
                    if self.lock().cursors().usage.is_none() {
                        return Err(again("all is read again by other budgets"));
                    }
                    // Another limit may have been reached already.
                    self.alerts.note(self.lock().counters().cloned().collect::<Vec<_>>());
                }
                _ = active.tick() => {
                    self.close_all(&mut pass).await;
                    if self.is_active(&pass) && !pass.was_active {
                        self.catch_up(&mut entries, &mut pass, tasks).await?;
                    }
                    self.look(&mut pass, tasks).await?;
                    if pass.entries_read && pass.usage_read && !pass.is_whole {
                        self.lock().note_all_read();
                        pass.is_whole = true;
                    }
                }
                _ = forget.tick(), if pass.entries_read && pass.usage_read => {
                    forgetting.begin(self.bus, self.book, self.lease, tasks);
                }
            }
        }
    }

    /// Where a new book begins: with the first entry that there is, and with the usage events since; without an entry,
    /// with what comes next.
    async fn begin(&self) -> Result<(), Fault> {
        if self.lock().cursors().usage.is_some() {
            return Ok(());
        }
        let entries = self.stream(counter::STREAM).await?;
        let usage = self.stream(event::USAGE).await?;
        let state = &usage.cached_info().state;
        let first = entries.cached_info().state.first_timestamp;
        let is_empty = entries.cached_info().state.messages == 0;
        let start = if is_empty {
            state.last_sequence
        } else {
            self.first_since(first).await?.map_or(state.last_sequence, |sequence| sequence.saturating_sub(1))
        };
        self.lock().begin(start);
        Ok(())
    }

    async fn stream(&self, name: &str) -> Result<async_nats::jetstream::stream::Stream, Fault> {
        self.bus.jetstream().get_stream(self.bus.subjects().stream(name)).await.map_err(again)
    }

    /// The first usage event that was stored since.
    async fn first_since(&self, time: Timestamp) -> Result<Option<Sequence>, Fault> {
        let policy = DeliverPolicy::ByStartTime { start_time: time };
        let consumer = Reading::from(self.bus, event::USAGE, policy).await.map_err(again)?;
        if consumer.cached_info().num_pending == 0 {
            return Ok(None);
        }
        let mut messages = messages(&consumer).await?;
        let message = messages.next().await.ok_or_else(|| again("no message"))?.map_err(again)?;
        Ok(message.info().ok().map(|info| info.stream_sequence))
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Other budgets count from now on. Returns the counters of which something else is to be told.
    async fn configure(&self, budgets: Budgets) -> Result<Vec<Counter>, Fault> {
        let book = Arc::clone(self.book);
        let change = move || Ok(book.lock().unwrap_or_else(PoisonError::into_inner).configure(budgets)?);
        in_background(change).await.map_err(Fault::Fatal)
    }

    /// Says once which budgets are closed, if this process may write: before it has read everything.
    async fn close_all(&self, pass: &mut Pass) {
        if pass.is_closed || !self.lease.is_held() {
            return;
        }
        match self.close().await {
            Ok(()) => pass.is_closed = true,
            Err(error) => tracing::debug!(error, "it cannot be said which budgets are closed, trying again"),
        }
    }

    pub(super) async fn note(
        &self,
        entries: Vec<StoredEntry>,
        usage: Vec<PlacedEvent>,
    ) -> Result<Outcome, Fault> {
        let book = Arc::clone(self.book);
        let read = move || Ok(book.lock().unwrap_or_else(PoisonError::into_inner).read(&entries, &usage)?);
        in_background(read).await.map_err(Fault::Fatal)
    }

    /// Whether this process writes: it has the lease, and has read everything, its own entries of before among it.
    fn is_active(&self, pass: &Pass) -> bool {
        pass.entries_read && pass.usage_read && self.lease.is_held()
    }

    pub(super) fn act(&self, outcome: Outcome, pass: &mut Pass, tasks: &TaskTracker) {
        pass.changed.extend(outcome.changed);
        if pass.was_active && self.is_active(pass) {
            self.write(outcome.due, tasks);
        } else {
            // Another process writes it; if it does not, this one finds it when it begins to: at the next look, if it may then.
            let mut book = self.lock();
            outcome.due.iter().for_each(|due| book.not_mine(due));
            pass.was_active = false;
        }
    }

    /// Begins to write, if it may now; opens budgets that are new.
    async fn look(&self, pass: &mut Pass, tasks: &TaskTracker) -> Result<(), Fault> {
        let is_active = self.is_active(pass);
        if is_active {
            // Once more all that is due: of what failed to be written, too.
            let book = Arc::clone(self.book);
            let begins = !pass.was_active;
            if begins {
                pass.changed.extend(self.lock().counters().cloned());
            }
            let outcome = in_background(move || {
                let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(if begins {
                    Outcome { due: book.all_due()?, ..Outcome::default() }
                } else {
                    book.due_again()?
                })
            });
            let Outcome { due, changed } = outcome.await.map_err(Fault::Fatal)?;
            pass.changed.extend(changed);
            self.write(due, tasks);
            let unopened = self.lock().unopened();
            for name in unopened {
                self.open_budget(&name).await?;
            }
        }
        pass.was_active = is_active;
        Ok(())
    }

    fn write(&self, due: Vec<Due>, tasks: &TaskTracker) {
        for due in due {
            let (bus, book, lease) = (self.bus.clone(), Arc::clone(self.book), self.lease.clone());
            let writes = Arc::clone(&self.writes);
            tasks.spawn(async move {
                let Ok(_place) = writes.acquire().await else { return };
                let entry = Entry {
                    kind: EntryKind::Settle,
                    unit: due.unit,
                    account: due.account.clone(),
                    attempt: due.attempt,
                    tried: due.tried.clone(),
                    takes: None,
                    usage_sequence: None,
                    corrects: None,
                    limit: None,
                };
                tollgate_bus::point("ledger.settle");
                // Looked at last: the write is what must not come late.
                let written = if lease.is_held() {
                    bus.add(&due.counter, &entry, due.amount, &due.id, PATIENCE).await.map(|_| ())
                } else {
                    Err(tollgate_bus::PublishError::Permission("another ledger writes".into()))
                };
                if let Err(error) = written {
                    tracing::debug!(%error, request = due.account, "a settlement was not written, it is looked at again");
                    book.lock().unwrap_or_else(PoisonError::into_inner).failed(&due);
                }
            });
        }
    }
}

pub(super) type Delivered =
    Result<async_nats::jetstream::Message, async_nats::jetstream::consumer::pull::MessagesError>;

fn read_usage(chunk: Vec<Delivered>, seen: &mut u64) -> Result<(Vec<PlacedEvent>, u64), Fault> {
    let (mut read, mut pending) = (Vec::with_capacity(chunk.len()), u64::MAX);
    for message in chunk {
        let message = message.map_err(again)?;
        pending = in_order(&message, seen)?;
        let sequence = message.info().map_err(again)?.stream_sequence;
        // What is no usage event is counted and told where totals are made.
        if let Ok(event) = parse(&message.payload) {
            read.push((sequence, event));
        }
    }
    Ok((read, pending))
}

/// Without acknowledgements nobody sends a message again that was lost on the way; a gap in the consumer's own numbers
/// shows it. Returns what the server still has.
pub(crate) fn in_order(message: &async_nats::jetstream::Message, seen: &mut u64) -> Result<u64, Fault> {
    let info = message.info().map_err(again)?;
    if info.consumer_sequence != *seen + 1 {
        return Err(again(format!("message {} of the consumer was lost on the way", *seen + 1)));
    }
    *seen += 1;
    Ok(info.pending)
}

pub(crate) async fn messages(consumer: &PullConsumer) -> Result<pull::Stream, Fault> {
    let stream = consumer.stream().max_messages_per_batch(BATCH_MAX);
    stream.expires(Duration::from_secs(30)).heartbeat(Duration::from_secs(5)).messages().await.map_err(again)
}

fn interval(every: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

pub(crate) enum Fault {
    /// It cannot go on.
    Fatal(Error),
    /// The server, a consumer or the connection failed: again, from the cursors.
    Again(String),
}

pub(crate) fn again(reason: impl std::fmt::Display) -> Fault {
    Fault::Again(reason.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is due by another configuration is due of accounts of which nothing is heard any more.
    #[test]
    fn all_is_looked_at_once_other_budgets_count() {
        let counter = || Counter { budget: "b".into(), window: "total".into() };
        let mut pass = Pass { was_active: true, ..Pass::default() };
        pass.configured(Vec::new());
        assert!(pass.was_active, "another limit is none of that");
        pass.configured(vec![counter()]);
        assert_eq!((pass.was_active, pass.changed), (false, BTreeSet::from([counter()])));
    }
}
