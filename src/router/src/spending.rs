//! What is spent of budgets, as the ledger tells it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_nats::jetstream::kv::Operation;
use futures_util::StreamExt;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tollgate_bus::Bus;
use tollgate_bus::bucket::SPENT;
use tollgate_policy::budget::{Budget, is_full};
use tollgate_protocol::Timestamp;
use tollgate_protocol::budget::{Counter, Spent};

/// How soon a watch that broke is begun again.
const WATCH_AGAIN: Duration = Duration::from_millis(500);
/// Budgets that say something else now and were not heard of yet.
const NEWS_MAX: usize = 1_024;

/// What is spent, as the ledger tells it. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Spending {
    known: Arc<RwLock<Known>>,
    news: broadcast::Sender<String>,
}

#[derive(Debug, Default)]
struct Known {
    spent: HashMap<Counter, Spent>,
    /// Budgets of which anything was told: the ledger has opened them.
    opened: HashSet<String>,
    /// Budgets of which it was last told that they are closed.
    closed: HashSet<String>,
}

impl Default for Spending {
    fn default() -> Self {
        Self { known: Arc::default(), news: broadcast::Sender::new(NEWS_MAX) }
    }
}

impl Spending {
    /// Follows what the ledger tells until `stop`.
    pub(crate) async fn run(&self, bus: &Bus, stop: CancellationToken) {
        loop {
            let watched = tokio::select! {
                () = stop.cancelled() => return,
                watched = self.watch(bus) => watched,
            };
            if let Err(error) = watched {
                tracing::debug!(error, "what is spent cannot be followed, trying again");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(WATCH_AGAIN) => {}
            }
        }
    }

    async fn watch(&self, bus: &Bus) -> Result<(), String> {
        let disconnections = bus.connection().health().disconnections;
        let store = bus.bucket(SPENT).await?;
        let mut entries = store.watch_with_history(">").await.map_err(|error| error.to_string())?;
        loop {
            let entry = tokio::select! {
                entry = entries.next() => entry,
                // A server that was restarted may have forgotten that somebody watches.
                () = bus.connection().reconnected_since(disconnections) => return Ok(()),
            };
            let Some(entry) = entry else { return Ok(()) };
            let entry = entry.map_err(|error| error.to_string())?;
            self.hear(entry.operation, &entry.key, &entry.value);
        }
    }

    fn hear(&self, operation: Operation, key: &str, value: &[u8]) {
        let Some((budget, window)) = key.split_once('.') else { return };
        let counter = Counter { budget: budget.to_owned(), window: window.to_owned() };
        match operation {
            Operation::Put => match serde_json::from_slice::<Spent>(value) {
                Ok(spent) if spent.is_closed => {
                    let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
                    known.opened.remove(&counter.budget);
                    known.spent.remove(&counter);
                    known.closed.insert(counter.budget);
                }
                Ok(spent) => self.note(counter, spent),
                Err(_) => {}
            },
            // The ledger forgets windows that are long over; there is one for each minute. What it told of them it told of
            // a budget that was open, or of one that it has closed.
            Operation::Delete | Operation::Purge => {
                let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
                known.spent.remove(&counter);
                if !known.closed.contains(&counter.budget) {
                    known.opened.insert(counter.budget);
                }
            }
        }
    }

    fn note(&self, counter: Counter, spent: Spent) {
        let budget = counter.budget.clone();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.closed.remove(&budget);
        known.opened.insert(budget.clone());
        known.spent.insert(counter, spent);
        drop(known);
        // Nobody listens while nothing waits.
        let _ = self.news.send(budget);
    }

    /// Names of budgets that say something else now.
    pub(crate) fn news(&self) -> broadcast::Receiver<String> {
        self.news.subscribe()
    }

    /// Of budgets that are not configured, and of which nothing is told, it is not known that they are open: with the last
    /// window the ledger forgets it as well. Called before others come into force.
    pub(crate) fn forget(&self, is_configured: impl Fn(&str) -> bool) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let Known { spent, opened, .. } = &mut *known;
        opened.retain(|name| is_configured(name) || spent.keys().any(|counter| counter.budget == *name));
    }

    pub(crate) fn spent(&self, counter: &Counter) -> Option<Spent> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).spent.get(counter).cloned()
    }

    /// Whether nothing changes by trying: see [`is_full`].
    pub(crate) fn is_full(&self, budget: &Budget, now: Timestamp) -> bool {
        self.spent(&budget.counter(now)).is_some_and(|spent| is_full(budget, &spent))
    }

    pub(crate) fn is_open(&self, budget: &str) -> bool {
        self.known.read().unwrap_or_else(PoisonError::into_inner).opened.contains(budget)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_ledger_forgets_is_forgotten() {
        let spending = Spending::default();
        let counter = |window: &str| Counter { budget: "calls".into(), window: window.into() };
        let told = serde_json::to_vec(&Spent { spent_nano_usd: 7, ..Spent::default() }).unwrap();
        for operation in [Operation::Delete, Operation::Purge] {
            spending.hear(Operation::Put, "calls.20261128T210000Z", &told);
            spending.hear(Operation::Put, "calls.20261128T210100Z", &told);
            assert_eq!(
                spending.spent(&counter("20261128T210000Z")).map(|spent| spent.spent_nano_usd),
                Some(7)
            );
            spending.hear(operation, "calls.20261128T210000Z", b"");
            assert_eq!(spending.spent(&counter("20261128T210000Z")), None);
            assert_eq!(spending.known.read().unwrap().spent.len(), 1, "the other window is kept");
            assert!(spending.is_open("calls"));
        }
    }

    /// A router that starts finds nothing of a limit that was not used for hours but the marks of what was forgotten.
    #[test]
    fn a_budget_of_which_all_is_forgotten_is_open() {
        for operation in [Operation::Delete, Operation::Purge] {
            let spending = Spending::default();
            assert!(!spending.is_open("calls"));
            spending.hear(operation, "calls.20261128T210000Z", b"");
            assert!(spending.is_open("calls"));
            assert!(!spending.is_open("other"));
        }
    }

    /// The ledger says that it knows nothing of a budget that is not there, or is counted anew.
    #[test]
    fn nobody_reserves_in_a_budget_that_is_closed() {
        let spending = Spending::default();
        let told = serde_json::to_vec(&Spent::default()).unwrap();
        let closed = serde_json::to_vec(&Spent { is_closed: true, ..Spent::default() }).unwrap();
        spending.hear(Operation::Put, "back.20261128T210000Z", &told);
        spending.hear(Operation::Put, "back.20261128T210100Z", &told);
        spending.hear(Operation::Put, "back.20261128T210000Z", &closed);
        assert!(!spending.is_open("back"));
        spending.forget(|_| true);
        assert!(!spending.is_open("back"));
        // What is forgotten of it meanwhile does not open it.
        spending.hear(Operation::Purge, "back.20261128T210000Z", b"");
        assert!(!spending.is_open("back"));
        // One window that is told of is enough: what is missing is in it by then.
        spending.hear(Operation::Put, "back.20261128T210100Z", &told);
        assert!(spending.is_open("back"));
        spending.hear(Operation::Purge, "back.20261128T210100Z", b"");
        assert!(spending.is_open("back"));
    }

    /// A budget that was taken out, and of which nothing is left, is opened anew when it comes back: not before the ledger has.
    #[test]
    fn a_budget_that_comes_back_is_not_open_yet() {
        let spending = Spending::default();
        let told = serde_json::to_vec(&Spent::default()).unwrap();
        spending.hear(Operation::Put, "gone.20261128T210000Z", &told);
        spending.hear(Operation::Put, "there.20261128T210000Z", &told);
        spending.forget(|name| name == "there");
        assert!(spending.is_open("gone"), "its window is still there");
        for budget in ["gone", "there"] {
            spending.hear(Operation::Purge, &format!("{budget}.20261128T210000Z"), b"");
        }
        spending.forget(|name| name == "there");
        assert!(!spending.is_open("gone") && spending.is_open("there"));
    }
}
