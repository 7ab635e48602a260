//! What is long over is forgotten: accounts, windows, and their counters in the server.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::TimeDelta;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tollgate_bus::bucket::{ALERTS, SPENT};
use tollgate_bus::{Bus, counter};
use tollgate_policy::budget::{Budget, Measure};
use tollgate_protocol::Timestamp;
use tollgate_protocol::budget::Counter;

use super::in_background;
use super::lease::Lease;
use super::settle::Shared;
use crate::Error;

/// So much longer a ledger that does not write knows a window that is over: whoever writes removes it from the server, and
/// this one may have to, if that one dies before it has.
const STANDBY: TimeDelta = TimeDelta::hours(1);
/// Windows that are dropped from the book at a time.
const DROPPED_AT_A_TIME: usize = 100;

/// Forgets beside everything else: there may be thousands of windows, and settlements do not wait for them.
#[derive(Debug, Default)]
pub(super) struct Forgetting(Option<JoinHandle<()>>, Marked);

/// Windows of which the buckets have the marks of their deletion. By these routers hear of it; one round later they have. A
/// mark that a process leaves behind does no harm.
type Marked = Arc<Mutex<Vec<Counter>>>;

impl Forgetting {
    /// Begins, unless it is still at it.
    pub(super) fn begin(&mut self, bus: &Bus, book: &Shared, lease: &Lease, tasks: &TaskTracker) {
        if self.0.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (bus, book, lease, marked) = (bus.clone(), Arc::clone(book), lease.clone(), Arc::clone(&self.1));
        self.0 = Some(tasks.spawn(async move {
            let now = tollgate_bus::now();
            let mut before = std::mem::take(&mut *marked.lock().unwrap_or_else(PoisonError::into_inner));
            // With longer windows one of the same name may have begun.
            before.retain(|gone| book.lock().unwrap_or_else(PoisonError::into_inner).is_long_over(gone, now));
            if lease.is_held() {
                erase(&bus, before).await;
            }
            if let Err(error) = forget(&bus, &book, &lease, &marked, now).await {
                tracing::warn!(%error, "what is long over is not forgotten yet");
            }
        }));
    }
}

pub(super) async fn erase(bus: &Bus, marked: Vec<Counter>) {
    for counter in marked {
        for bucket in [SPENT, ALERTS] {
            if let Err(error) = bus.erase(bucket, &counter.to_string()).await {
                tracing::debug!(%error, %counter, bucket, "the mark of a window that is over was not removed");
            }
        }
    }
}

async fn forget(
    bus: &Bus,
    book: &Shared,
    lease: &Lease,
    marked: &Marked,
    now: Timestamp,
) -> Result<(), Error> {
    let reader = Arc::clone(book);
    let over = in_background(move || {
        let mut book = reader.lock().unwrap_or_else(PoisonError::into_inner);
        if !book.forget_accounts(now)? {
            return Ok((Vec::new(), Vec::new()));
        }
        Ok((book.long_over(now), book.long_over(now - STANDBY)))
    });
    let (over, for_longer) = over.await?;
    if !lease.is_held() {
        return drop_all(book, for_longer).await;
    }
    let mut gone = Vec::new();
    for counter in over {
        // Its budget may have longer windows since.
        let is_over = book.lock().unwrap_or_else(PoisonError::into_inner).is_long_over(&counter, now);
        if !is_over {
            continue;
        }
        if !lease.is_held() || !remove(bus, book, &counter).await {
            // The next time, or the next one who writes.
            break;
        }
        marked.lock().unwrap_or_else(PoisonError::into_inner).push(counter.clone());
        gone.push(counter);
        if gone.len() >= DROPPED_AT_A_TIME {
            drop_all(book, std::mem::take(&mut gone)).await?;
        }
    }
    drop_all(book, gone).await
}

/// Removes all that the server has of a window. Whether it is gone.
pub(super) async fn remove(bus: &Bus, book: &Shared, counter: &Counter) -> bool {
    let name = bus.subjects().stream(counter::STREAM);
    let Ok(stream) = bus.jetstream().get_stream_no_info(name).await else { return false };
    if let Err(error) = stream.purge().filter(bus.subjects().budget(counter)).await {
        tracing::debug!(%error, %counter, "a window that is over was not removed");
        return false;
    }
    let budget = book.lock().unwrap_or_else(PoisonError::into_inner).budget(&counter.budget);
    for bucket in buckets(budget.as_ref()) {
        if let Ok(store) = bus.bucket(bucket).await
            && let Err(error) = store.purge(counter.to_string()).await
        {
            tracing::debug!(%error, %counter, bucket, "what is told of a window that is over was not removed");
            return false;
        }
    }
    true
}

/// Where something is told of a budget's windows: nobody is alerted of a limit.
fn buckets(budget: Option<&Budget>) -> &'static [&'static str] {
    let is_limit = budget.is_some_and(|budget| budget.measure != Measure::Money);
    if is_limit { &[SPENT] } else { &[SPENT, ALERTS] }
}

async fn drop_all(book: &Shared, gone: Vec<Counter>) -> Result<(), Error> {
    let book = Arc::clone(book);
    in_background(move || Ok(book.lock().unwrap_or_else(PoisonError::into_inner).drop_counters(&gone)?)).await
}
