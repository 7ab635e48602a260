//! What is long over is forgotten: accounts, windows, and their counters in the server.

use std::sync::{Arc, PoisonError};

use chrono::TimeDelta;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tollgate_bus::bucket::{ALERTS, SPENT};
use tollgate_bus::{Bus, counter};
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
pub(super) struct Forgetting(Option<JoinHandle<()>>);

impl Forgetting {
    /// Begins, unless it is still at it.
    pub(super) fn begin(&mut self, bus: &Bus, book: &Shared, lease: &Lease, tasks: &TaskTracker) {
        if self.0.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (bus, book, lease) = (bus.clone(), Arc::clone(book), lease.clone());
        self.0 = Some(tasks.spawn(async move {
            if let Err(error) = forget(&bus, &book, &lease, tollgate_bus::now()).await {
                tracing::warn!(%error, "what is long over is not forgotten yet");
            }
        }));
    }
}

async fn forget(bus: &Bus, book: &Shared, lease: &Lease, now: Timestamp) -> Result<(), Error> {
    let reader = Arc::clone(book);
    let over = in_background(move || {
        let mut book = reader.lock().unwrap_or_else(PoisonError::into_inner);
        book.forget_accounts(now)?;
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
        if !lease.is_held() || !remove(bus, &counter).await {
            // The next time, or the next one who writes.
            break;
        }
        gone.push(counter);
        if gone.len() >= DROPPED_AT_A_TIME {
            drop_all(book, std::mem::take(&mut gone)).await?;
        }
    }
    drop_all(book, gone).await
}

/// Removes all that the server has of a window. Whether it is gone.
async fn remove(bus: &Bus, counter: &Counter) -> bool {
    let name = bus.subjects().stream(counter::STREAM);
    let Ok(stream) = bus.jetstream().get_stream_no_info(name).await else { return false };
    if let Err(error) = stream.purge().filter(bus.subjects().budget(counter)).await {
        tracing::debug!(%error, %counter, "a window that is over was not removed");
        return false;
    }
    for bucket in [SPENT, ALERTS] {
        if let Ok(store) = bus.bucket(bucket).await
            && let Err(error) = store.purge(counter.to_string()).await
        {
            tracing::debug!(%error, %counter, bucket, "what is told of a window that is over was not removed");
            return false;
        }
    }
    true
}

async fn drop_all(book: &Shared, gone: Vec<Counter>) -> Result<(), Error> {
    let book = Arc::clone(book);
    in_background(move || Ok(book.lock().unwrap_or_else(PoisonError::into_inner).drop_counters(&gone)?)).await
}
