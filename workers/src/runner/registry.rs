//! The attempts in this process's hands.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;
use tollgate_bus::owner::Question;

/// Counts, because a message that is delivered twice can bring the same attempt here twice.
#[derive(Clone, Debug, Default)]
pub(super) struct Registry(Arc<Mutex<HashMap<Question, Entry>>>);

#[derive(Debug, Default)]
struct Entry {
    count: usize,
    aborted: CancellationToken,
}

/// An attempt is in hand until this is dropped.
#[derive(Debug)]
pub(super) struct InHand {
    registry: Registry,
    question: Question,
    aborted: CancellationToken,
}

impl Registry {
    /// Notes an attempt, before it is claimed.
    pub(super) fn take(&self, question: Question) -> InHand {
        let mut held = self.lock();
        let entry = held.entry(question.clone()).or_default();
        entry.count += 1;
        let aborted = entry.aborted.clone();
        drop(held);
        InHand { registry: self.clone(), question, aborted }
    }

    /// Whether an attempt is in hand.
    pub(super) fn holds(&self, question: &Question) -> bool {
        self.lock().contains_key(question)
    }

    /// Has an attempt end, if it is in hand; says whether it is.
    pub(super) fn abort(&self, question: &Question) -> bool {
        let held = self.lock();
        held.get(question).map(|entry| entry.aborted.cancel()).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Question, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InHand {
    /// Whether somebody wants the attempt to end.
    pub(super) fn is_aborted(&self) -> bool {
        self.aborted.is_cancelled()
    }

    /// Waits until somebody wants the attempt to end.
    pub(super) async fn aborted(&self) {
        self.aborted.cancelled().await;
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        let mut held = self.registry.lock();
        if let Some(entry) = held.get_mut(&self.question) {
            entry.count -= 1;
            if entry.count == 0 {
                held.remove(&self.question);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_protocol::Identity;

    #[test]
    fn an_attempt_is_in_hand_until_the_last_one_lets_go_and_all_hear_of_its_end() {
        let registry = Registry::default();
        let question = Question { identity: Identity::from_tokens("t.g.a").unwrap(), attempt: 1 };
        assert!(!registry.abort(&question), "nobody has it");
        let (one, other) = (registry.take(question.clone()), registry.take(question.clone()));
        drop(one);
        assert!(registry.holds(&question) && !other.is_aborted());
        assert!(registry.abort(&question) && other.is_aborted());
        drop(other);
        assert!(!registry.holds(&question));
        assert!(!registry.take(question).is_aborted(), "the next one is another one");
    }
}
