//! Everything the scripted provider was asked, in the order of arrival.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use serde_json::Value;

/// One call that the provider received.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its place in the log, from 0.
    pub number: usize,
    /// The content of the first user message, which tells requests apart.
    pub key: String,
    /// How many calls with this key there were before it.
    pub earlier: usize,
    /// When its body had arrived.
    pub arrived: Instant,
    /// The same by the wall clock.
    pub arrived_at: SystemTime,
    /// The headers, by lower-case name; of one sent twice the last.
    pub headers: BTreeMap<String, String>,
    /// The body; `null` if it is no JSON.
    pub body: Value,
    /// When its answer was on the way, or the client had left.
    pub ended: Option<Instant>,
    /// How it ended, or that it has not.
    pub end: End,
}

/// How a call ended, seen from the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is still in flight.
    Open,
    /// A good answer: a real provider would have charged for it.
    Answered,
    /// The provider refused it or failed with this status: nothing to pay.
    Refused(u16),
    /// The call was made and maybe charged for, but what came back is unusable or nothing.
    Spoiled,
    /// The client closed the connection first. A real provider may charge for it.
    ClientLeft,
}

/// The log, shared between the server and the test.
#[derive(Debug, Default)]
pub(super) struct Log {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    calls: Vec<Call>,
    by_key: HashMap<String, Vec<usize>>,
    in_flight: usize,
    peak: usize,
}

impl Log {
    /// Enters a call that just arrived and returns it with its place in the log.
    pub(super) fn enter(&self, mut call: Call) -> Call {
        let mut inner = self.lock();
        call.number = inner.calls.len();
        let same = inner.by_key.entry(call.key.clone()).or_default();
        call.earlier = same.len();
        same.push(call.number);
        inner.calls.push(call.clone());
        inner.in_flight += 1;
        inner.peak = inner.peak.max(inner.in_flight);
        call
    }

    pub(super) fn leave(&self, number: usize, end: End) {
        let mut inner = self.lock();
        inner.in_flight -= 1;
        let call = &mut inner.calls[number];
        call.ended = Some(Instant::now());
        call.end = end;
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    pub(super) fn calls_of(&self, key: &str) -> Vec<Call> {
        let inner = self.lock();
        let numbers = inner.by_key.get(key).map(Vec::as_slice).unwrap_or_default();
        numbers.iter().map(|&number| inner.calls[number].clone()).collect()
    }

    pub(super) fn counts(&self) -> BTreeMap<String, usize> {
        self.lock().by_key.iter().map(|(key, numbers)| (key.clone(), numbers.len())).collect()
    }

    pub(super) fn total(&self) -> usize {
        self.lock().calls.len()
    }

    /// Calls in flight now, and the most there ever were.
    pub(super) fn in_flight(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.in_flight, inner.peak)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A test's script may panic inside a call; the log is whole between any two statements here.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
