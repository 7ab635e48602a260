//! Counts what the simulator did, so that a test or a benchmark can compare it with what a broker says it
//! did.
//!
//! Counted are calls for an answer (chat and embeddings), not questions about models, health or the simulator
//! itself. At any moment `calls` is the sum of `by_status`, `abandoned` and `in_flight`.

use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const STATUSES: usize = 600;

/// What the simulator did since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Calls that arrived.
    pub calls: u64,
    /// Calls that were answered, by status. A stream counts when it has ended.
    pub by_status: BTreeMap<u16, u64>,
    /// Calls whose caller hung up first.
    pub abandoned: u64,
    /// Calls that have arrived and are not answered.
    pub in_flight: u64,
    /// The most there ever were of these at the same time.
    pub in_flight_max: u64,
    /// Input tokens of the calls that were answered with 200.
    pub prompt_tokens: u64,
    /// Output tokens given out; of a stream that was abandoned those that were ready to be sent.
    pub completion_tokens: u64,
}

/// The counters behind [`Stats`].
pub(super) struct Counters {
    calls: AtomicU64,
    by_status: [AtomicU64; STATUSES],
    abandoned: AtomicU64,
    in_flight: AtomicU64,
    in_flight_max: AtomicU64,
    prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    /// Calls that hold one of the `max_concurrent` places.
    places: AtomicU64,
}

/// One call, from its arrival to its answer. Dropped without an answer it is an abandoned one.
pub(super) struct Call {
    counters: Arc<Counters>,
    pub(super) number: u64,
    status: Option<u16>,
    placed: bool,
}

impl Counters {
    pub(super) fn new() -> Self {
        Self {
            calls: AtomicU64::new(0),
            by_status: [const { AtomicU64::new(0) }; STATUSES],
            abandoned: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            in_flight_max: AtomicU64::new(0),
            prompt_tokens: AtomicU64::new(0),
            completion_tokens: AtomicU64::new(0),
            places: AtomicU64::new(0),
        }
    }

    /// Counts an arrival. The first call has the number 1.
    pub(super) fn arrive(self: &Arc<Self>) -> Call {
        let number = self.calls.fetch_add(1, Relaxed) + 1;
        let in_flight = self.in_flight.fetch_add(1, Relaxed) + 1;
        self.in_flight_max.fetch_max(in_flight, Relaxed);
        Call { counters: Arc::clone(self), number, status: None, placed: false }
    }

    pub(super) fn stats(&self) -> Stats {
        let count = |(status, count): (usize, &AtomicU64)| {
            let count = count.load(Relaxed);
            (count > 0).then(|| Some((u16::try_from(status).ok()?, count))).flatten()
        };
        Stats {
            calls: self.calls.load(Relaxed),
            by_status: self.by_status.iter().enumerate().filter_map(count).collect(),
            abandoned: self.abandoned.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            in_flight_max: self.in_flight_max.load(Relaxed),
            prompt_tokens: self.prompt_tokens.load(Relaxed),
            completion_tokens: self.completion_tokens.load(Relaxed),
        }
    }
}

impl Call {
    /// Takes a place if there is one; it is given back when the call ends.
    pub(super) fn take_place(&mut self, places: Option<u32>) -> bool {
        let Some(places) = places else { return true };
        let take = |taken: u64| (taken < u64::from(places)).then_some(taken + 1);
        self.placed = self.counters.places.fetch_update(Relaxed, Relaxed, take).is_ok();
        self.placed
    }

    pub(super) fn read(&self, prompt_tokens: u64) {
        self.counters.prompt_tokens.fetch_add(prompt_tokens, Relaxed);
    }

    pub(super) fn wrote(&self, completion_tokens: u64) {
        self.counters.completion_tokens.fetch_add(completion_tokens, Relaxed);
    }

    /// Ends the call with an answer.
    pub(super) fn answered(mut self, status: u16) {
        self.status = Some(status);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        match self.status.and_then(|status| self.counters.by_status.get(usize::from(status))) {
            Some(count) => count.fetch_add(1, Relaxed),
            None => self.counters.abandoned.fetch_add(1, Relaxed),
        };
        if self.placed {
            self.counters.places.fetch_sub(1, Relaxed);
        }
        self.counters.in_flight.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_in_flight_answered_or_abandoned() {
        let counters = Arc::new(Counters::new());
        let (first, second, third) = (counters.arrive(), counters.arrive(), counters.arrive());
        assert_eq!((first.number, third.number), (1, 3));
        first.answered(200);
        second.answered(503);
        drop(third);
        let fourth = counters.arrive();
        let stats = counters.stats();
        assert_eq!(stats.by_status, BTreeMap::from([(200, 1), (503, 1)]));
        assert_eq!((stats.calls, stats.abandoned, stats.in_flight, stats.in_flight_max), (4, 1, 1, 3));
        drop(fourth);
    }

    #[test]
    fn places_are_given_back_once() {
        let counters = Arc::new(Counters::new());
        let (mut first, mut second) = (counters.arrive(), counters.arrive());
        assert!(first.take_place(Some(1)));
        assert!(!second.take_place(Some(1)));
        second.answered(429);
        first.answered(200);
        assert!(counters.arrive().take_place(Some(1)));
        assert_eq!(counters.places.load(Relaxed), 0);
    }
}
