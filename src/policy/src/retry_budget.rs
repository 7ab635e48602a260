//! How many retries a provider may be given: a part of what it is asked anyway, so that a sick one is not multiplied.
//!
//! A token bucket as in Finagle's `RetryBudget`: each first call adds a fifth of a retry, each second ten, and what is
//! not used within ten seconds is lost. Who gets none waits longer; nothing fails for it.

use tollgate_protocol::Timestamp;

/// Retries are counted in thousandths.
const ONE: u64 = 1_000;
const PER_CALL: u64 = 200;
const PER_SECOND: u64 = 10 * ONE;
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
        let counted = self.counted.unwrap_or(now);
        let passed_ms = u64::try_from((now - counted).num_milliseconds()).unwrap_or(0).min(10_000);
        // The seconds fill it up to what ten of them bring; more can only be earned by calls.
        let filled = (self.saved + passed_ms * PER_SECOND / 1_000).min(10 * PER_SECOND);
        self.saved = self.saved.max(filled);
        self.counted = Some(counted.max(now));
    }
}

#[cfg(test)]
mod tests {
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
}
