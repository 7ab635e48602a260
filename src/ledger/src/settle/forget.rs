//! What is long over is forgotten.

use std::collections::{BTreeSet, HashMap};

use chrono::TimeDelta;
use tollgate_policy::account::Account;
use tollgate_policy::budget::{Measure, window_start};
use tollgate_protocol::Timestamp;
use tollgate_protocol::budget::Counter;

use super::{ACCOUNT, Book, COUNTER, OPENED, decode};
use crate::store::{Changes, Error};

/// How long an account is kept after it was last heard of: longer than any request may take.
const KEPT_MS: i64 = 9 * 24 * 3_600_000;
/// The same of a limit's window: what is settled in a minute that is over concerns nobody.
const KEPT_OF_LIMITS_MS: i64 = 3_600_000;
/// No window is longer than a month.
const LONGEST: TimeDelta = TimeDelta::days(32);

impl Book {
    /// Whether a counter's window is over for so long that it is forgotten.
    pub(crate) fn is_long_over(&self, counter: &Counter, now: Timestamp) -> bool {
        let Some(start) = window_start(&counter.window) else { return false };
        let ended_before =
            |end: Timestamp, kept_ms: i64| end.timestamp_millis() < now.timestamp_millis() - kept_ms;
        match self.budgets.named(&counter.budget) {
            Some(budget) => {
                let kept_ms = if budget.measure == Measure::Money { KEPT_MS } else { KEPT_OF_LIMITS_MS };
                budget.window(start).end.is_some_and(|end| ended_before(end, kept_ms))
            }
            // Nobody knows any more how long its windows were; none is longer.
            None => ended_before(start + LONGEST, KEPT_MS),
        }
    }

    /// Forgets accounts of which nothing can be heard any more. `false`: that cannot be said yet, there may be some that are
    /// known by half.
    pub fn forget_accounts(&mut self, now: Timestamp) -> Result<bool, Error> {
        if !self.is_whole {
            return Ok(false);
        }
        let oldest = now.timestamp_millis() - KEPT_MS;
        let mut changes = Changes::default();
        self.ledger.each(ACCOUNT, |key, value| {
            let account: Account = decode(value)?;
            // What is still open or wrong stays, to be seen.
            let is_even = self.lines(&account).iter().all(|line| line.cost.unwrap_or(0) == line.sum);
            if account.touched_ms < oldest && is_even {
                changes.delete(key.to_vec());
            }
            Ok(())
        })?;
        self.ledger.store().apply(&changes)?;
        Ok(true)
    }

    /// The windows that are over for so long that nothing is settled in them any more. Of a budget that is configured the
    /// newest stays, however old it is: routers that start hear of the budget by it.
    pub fn long_over(&self, now: Timestamp) -> Vec<Counter> {
        let mut newest: HashMap<&str, &str> = HashMap::new();
        for Counter { budget, window } in self.counters.keys() {
            if self.budgets.named(budget).is_some() {
                let known = newest.entry(budget).or_insert(window);
                *known = (*known).max(window);
            }
        }
        let is_newest =
            |counter: &Counter| newest.get(counter.budget.as_str()) == Some(&counter.window.as_str());
        let over =
            self.counters.keys().filter(|counter| self.is_long_over(counter, now) && !is_newest(counter));
        over.cloned().collect()
    }

    /// Forgets windows. With the last one of a budget that is not configured it is forgotten that it was opened: if it comes
    /// back, it begins with what was spent without it.
    pub fn drop_counters(&mut self, gone: &[Counter]) -> Result<(), Error> {
        let mut changes = Changes::default();
        for counter in gone {
            self.counters.remove(counter);
            changes.delete([COUNTER, counter.to_string().as_bytes()].concat());
        }
        for name in gone.iter().map(|counter| &counter.budget).collect::<BTreeSet<_>>() {
            let is_left = || self.counters.keys().any(|counter| counter.budget == *name);
            if self.budgets.named(name).is_none() && !is_left() {
                self.opened.remove(name);
                changes.delete([OPENED, name.as_bytes()].concat());
            }
        }
        self.ledger.store().apply(&changes)
    }
}
