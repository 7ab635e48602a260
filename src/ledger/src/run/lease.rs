//! Which ledger writes. One at a time: what it writes into counters cannot be fenced.
//!
//! The lease is a key whose revision each renewal changes. Who sees the same revision for the whole term takes it. Who has
//! it may write for half the term after a renewal, so that a process that was stopped and goes on writes nothing before
//! it has looked. Between that look and the write that it allows it can still be stopped: what is then written twice, the
//! rule of accounts takes back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tollgate_bus::Bus;
use tollgate_bus::bucket::{LEASE, Swapped};
use tollgate_protocol::Sequence;

/// The key of the ledger that settles.
pub(crate) const LEDGER: &str = "ledger";
/// The key of who repairs.
pub(crate) const REPAIR: &str = "repair";
/// How long a holder may be silent.
pub(crate) const TERM: Duration = Duration::from_secs(6);
/// How often it is renewed, or looked at.
const EVERY: Duration = Duration::from_secs(1);

/// The lease, as this process knows it. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    key: &'static str,
    renewed: Arc<Mutex<Option<Instant>>>,
}

impl Lease {
    /// The lease of this key, which this process does not have yet.
    pub(crate) fn of(key: &'static str) -> Self {
        Self { key, renewed: Arc::default() }
    }

    /// Whether this process may write now.
    pub(crate) fn is_held(&self) -> bool {
        let renewed = *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        renewed.is_some_and(|renewed| renewed.elapsed() < TERM / 2)
    }

    fn set(&self, renewed: Option<Instant>) {
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = renewed;
    }

    /// Takes and keeps the lease, as far as it can, until `stop`; then lets it go.
    pub(crate) async fn run(&self, bus: &Bus, stop: &CancellationToken) {
        let mine = bytes::Bytes::from(uuid::Uuid::now_v7().to_string());
        let mut revision: Sequence = 0;
        let mut seen = Instant::now();
        loop {
            // The time before it is asked for: what is held is never longer than what the others wait.
            let asked = Instant::now();
            let is_held = self.is_held();
            if is_held || revision == 0 || seen.elapsed() >= TERM {
                match bus.swap(LEASE, self.key, mine.clone(), revision).await {
                    Ok(Swapped::Written(written)) => {
                        if !is_held {
                            tracing::info!(lease = self.key, "this process has the lease now");
                        }
                        (revision, seen) = (written, Instant::now());
                        self.set(Some(asked));
                    }
                    Ok(Swapped::Other(_, other)) => {
                        self.set(None);
                        (revision, seen) = (other, Instant::now());
                    }
                    Ok(Swapped::Gone(mark)) if mark != revision => {
                        // Let go: it is taken at once, over the mark that is left.
                        revision = mark;
                        seen = asked.checked_sub(TERM).unwrap_or(asked);
                        continue;
                    }
                    Ok(Swapped::Gone(_)) => {}
                    Err(reason) => tracing::debug!(reason, "the ledger's lease cannot be renewed"),
                }
            } else if let Some(other) = current(bus, self.key).await
                && other != revision
            {
                (revision, seen) = (other, Instant::now());
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
        if self.is_held() {
            self.set(None);
            // The next one need not wait for the end of the term.
            if let Ok(store) = bus.bucket(LEASE).await {
                let _ = store.delete_expect_revision(self.key, Some(revision)).await;
            }
        }
    }
}

async fn current(bus: &Bus, key: &str) -> Option<Sequence> {
    let store = bus.bucket(LEASE).await.ok()?;
    match store.entry(key).await {
        Ok(Some(entry)) if entry.operation == async_nats::jetstream::kv::Operation::Put => {
            Some(entry.revision)
        }
        // Let go: it can be taken at once.
        Ok(_) => Some(0),
        Err(_) => None,
    }
}
