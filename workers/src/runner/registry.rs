//! The attempts in this process's hands.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tollgate_bus::owner::Question;

/// Counts, because a message that is delivered twice can bring the same attempt here twice.
#[derive(Clone, Debug, Default)]
pub(super) struct Registry(Arc<Mutex<HashMap<Question, usize>>>);

/// An attempt is in hand until this is dropped.
#[derive(Debug)]
pub(super) struct InHand {
    registry: Registry,
    question: Question,
}

impl Registry {
    /// Notes an attempt, before it is claimed.
    pub(super) fn take(&self, question: Question) -> InHand {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(question.clone()).or_default() += 1;
        InHand { registry: self.clone(), question }
    }

    /// Whether an attempt is in hand.
    pub(super) fn holds(&self, question: &Question) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(question)
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        let mut held = self.registry.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.question) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.question);
            }
        }
    }
}
