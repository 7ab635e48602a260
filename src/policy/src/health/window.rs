//! What one process has seen of a target in the last seconds.

use std::collections::VecDeque;

use chrono::TimeDelta;
use tollgate_protocol::Timestamp;

/// How far a window goes back, in milliseconds.
const WINDOW_MS: i64 = 10_000;
/// The window moves by so much, in milliseconds.
const BUCKET_MS: i64 = 500;
/// So many failures in a row say that a target is down.
const FAILURES_IN_A_ROW: u32 = 5;
/// From so many calls on, half of them failing say the same.
const CALLS_MIN: u32 = 20;

/// How a call ended, as far as its target is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The target answered.
    Success,
    /// It failed.
    Failure,
}

/// Successes and failures of the last ten seconds, and the failures in a row.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// Start of the bucket, successes, failures.
    buckets: VecDeque<(Timestamp, u32, u32)>,
    in_a_row: u32,
    last_failure: Option<Timestamp>,
    last_success: Option<Timestamp>,
}

impl Window {
    /// Notes a call. `true`: the target is to be taken for down, and the window begins anew.
    pub fn note(&mut self, outcome: Outcome, now: Timestamp) -> bool {
        let is_old = |time: Timestamp| now - time >= TimeDelta::milliseconds(WINDOW_MS);
        while self.buckets.front().is_some_and(|(start, ..)| is_old(*start)) {
            self.buckets.pop_front();
        }
        if self.last_failure.is_none_or(is_old) {
            self.in_a_row = 0;
        }
        let is_current =
            |(start, ..): &&mut (Timestamp, u32, u32)| now - *start < TimeDelta::milliseconds(BUCKET_MS);
        let (succeeded, failed) = match outcome {
            Outcome::Success => (1, 0),
            Outcome::Failure => (0, 1),
        };
        match self.buckets.back_mut().filter(is_current) {
            Some((_, successes, failures)) => {
                *successes += succeeded;
                *failures += failed;
            }
            None => self.buckets.push_back((now, succeeded, failed)),
        }
        match outcome {
            Outcome::Success => {
                self.in_a_row = 0;
                self.last_success = Some(now);
            }
            Outcome::Failure => {
                self.in_a_row += 1;
                self.last_failure = Some(now);
            }
        }
        let sum = |count: fn(&(Timestamp, u32, u32)) -> u32| self.buckets.iter().map(count).sum::<u32>();
        let (successes, failures) = (sum(|bucket| bucket.1), sum(|bucket| bucket.2));
        let is_down = outcome == Outcome::Failure
            && (self.in_a_row >= FAILURES_IN_A_ROW
                || (successes + failures >= CALLS_MIN && failures >= successes));
        if is_down {
            self.buckets.clear();
            self.in_a_row = 0;
        }
        is_down
    }

    /// When the target last answered.
    pub fn last_success(&self) -> Option<Timestamp> {
        self.last_success
    }
}
