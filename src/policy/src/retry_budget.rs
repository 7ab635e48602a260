//! How many retries a provider may be given: a part of what it is asked anyway, so that a sick one is not multiplied.
//!
//! A token bucket as in Finagle's `RetryBudget`: each first call adds a fifth of a retry, each second ten, and what is
//! not used within ten seconds is lost. Who gets none waits longer; nothing fails for it.

use chrono::TimeDelta;
use tollgate_protocol::Timestamp;

/// Retries are counted in thousandths.
const ONE: u64 = 1_000;
const PER_CALL: u64 = 200;
const PER_SECOND: u64 = 10 * ONE;
/// How long it takes that the seconds bring a thousandth, in microseconds, and how long they are counted.
const EACH_US: u64 = 1_000_000 / PER_SECOND;
const MOST_US: u64 = 10_000_000;
/// What ten seconds bring, and a fifth of ten thousand calls.
const MOST: u64 = 10 * PER_SECOND + 2_000 * ONE;

/// The retries of one provider, as one process counts them.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    saved: u64,
    /// Until when the seconds are counted.
    counted: Option<Timestamp>,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { saved: 10 * PER_SECOND, counted: None }
    }
}

impl RetryBudget {
    /// A first call was made.
    pub fn deposit(&mut self, now: Timestamp) {
        self.pass(now);
        self.saved = (self.saved + PER_CALL).min(MOST);
    }

    /// Takes one retry. `false`: there is none.
    pub fn withdraw(&mut self, now: Timestamp) -> bool {
        self.pass(now);
        let is_left = self.saved >= ONE;
        if is_left {
            self.saved -= ONE;
        }
        is_left
    }

    fn pass(&mut self, now: Timestamp) {
        let counted = *self.counted.get_or_insert(now);
        let passed_us = (now - counted).num_microseconds().and_then(|us| u64::try_from(us).ok()).unwrap_or(0);
        let passed_us = passed_us.min(MOST_US);
        let brought = passed_us / EACH_US;
        // What is left over goes on counting, so that many short steps bring what a long one does.
        let left_us = i64::try_from(passed_us % EACH_US).unwrap_or_default();
        self.counted = Some(counted.max(now - TimeDelta::microseconds(left_us)));
        // The seconds fill it up to what ten of them bring; more can only be earned by calls.
        let filled = (self.saved + brought).min(10 * PER_SECOND);
        self.saved = self.saved.max(filled);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_timestamp_millis(1_790_000_000_000 + ms).unwrap()
    }

    fn drain(budget: &mut RetryBudget, now: Timestamp) -> usize {
        (0..100_000).take_while(|_| budget.withdraw(now)).count()
    }

    #[test]
    fn retries_are_a_fifth_of_the_calls_and_ten_a_second() {
        let mut budget = RetryBudget::default();
        assert_eq!(drain(&mut budget, at(0)), 100, "ten seconds' worth to begin with");
        for _ in 0..1_000 {
            budget.deposit(at(0));
        }
        assert_eq!(drain(&mut budget, at(0)), 200);
        assert_eq!(drain(&mut budget, at(1_000)), 10);
        assert_eq!(drain(&mut budget, at(3_600_000)), 100, "no more than ten seconds are saved");
        assert_eq!(drain(&mut budget, at(0)), 0, "a clock that goes back brings nothing");
    }

    proptest! {
        #[test]
        fn never_more_than_was_earned(steps in prop::collection::vec((0_i64..5_000_000, any::<bool>()), 1..300)) {
            let (mut budget, mut time_us, mut calls, mut retries) = (RetryBudget::default(), 0, 0_u64, 0_u64);
            for (later_us, is_call) in steps {
                time_us += later_us;
                let now = at(0) + TimeDelta::microseconds(time_us);
                if is_call {
                    budget.deposit(now);
                    calls += 1;
                } else {
                    retries += u64::from(budget.withdraw(now));
                }
                // A hundred to begin with, a fifth of each call, ten a second.
                let earned = 100 * ONE + calls * PER_CALL + time_us.unsigned_abs() * PER_SECOND / 1_000_000;
                prop_assert!(retries * ONE <= earned, "{retries} of {earned} thousandths");
            }
        }

        #[test]
        fn short_steps_bring_what_a_long_one_brings(step_us in 1_i64..5_000) {
            let mut budget = RetryBudget::default();
            drain(&mut budget, at(0));
            let steps = 2_000_000 / step_us;
            let brought = (1..=steps)
                .filter(|n| budget.withdraw(at(0) + TimeDelta::microseconds(n * step_us)))
                .count();
            prop_assert!((19..=20).contains(&brought), "{brought} in two seconds");
        }
    }
}
