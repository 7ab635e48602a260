//! A budget that comes back is counted anew.
//!
//! While a budget is not configured, nobody charges calls to it. One rule says what is spent of it afterwards, whether the
//! ledger went on, was made anew or is compared with the streams: what its scope has used since it was first opened, as if
//! it had been there all the time. Which calls these are is in the usage events, and an account keeps too little of them;
//! so both streams are read again from their beginnings. Another scope or window under the same name begins it as well,
//! but what was reserved stays where it was charged.

use std::collections::{BTreeMap, BTreeSet};

use tollgate_policy::account::{Account, Line};
use tollgate_policy::budget::{Budget, Budgets};
use tollgate_protocol::budget::{Counter, Unit};

use super::{ACCOUNT, Book, COUNTED, COUNTER, Cursors, OPENED, STATE, decode, encode};
use crate::store::{Changes, Error};

/// Budgets that came back, until their counters say all that was called without them.
#[derive(Debug, Default)]
pub(super) struct Anew {
    budgets: BTreeSet<String>,
    /// What is not in a counter yet: the counter and the account.
    missing: BTreeSet<(Counter, String)>,
    /// Whether both streams were read, and what is missing is known.
    pub(super) is_read: bool,
}

/// What has to be the same for what was counted to be right.
fn definition(budget: &Budget) -> String {
    let unit = budget.measure.unit();
    format!("{unit:?} {:?} {} {}", budget.scope.labels(), budget.per.as_str(), budget.timezone.name())
}

fn definitions(budgets: &Budgets) -> BTreeMap<String, String> {
    // What is over is in flight no more, whenever it was.
    let is_counted = |unit: Option<Unit>| unit.is_some_and(|unit| unit != Unit::InFlight);
    let counted = budgets.0.iter().filter(|budget| is_counted(budget.measure.unit()));
    counted.map(|budget| (budget.name.clone(), definition(budget))).collect()
}

impl Book {
    /// Compares the budgets with those by which all was counted that was read. If one was open before and was not there
    /// since, or was another, everything is to be read again.
    pub(super) fn compare_counted(&mut self) -> Result<(), Error> {
        let now = definitions(&self.budgets);
        let counted = self.ledger.store().get(COUNTED)?.map(|bytes| decode(&bytes)).transpose()?;
        // A new folder, or one of an older version, does not say.
        let counted: BTreeMap<String, String> = counted.unwrap_or_else(|| now.clone());
        let is_other = |name: &&String| counted.get(*name) != now.get(*name);
        let returned: BTreeSet<_> =
            now.keys().filter(|name| self.opened.contains_key(*name)).filter(is_other).cloned().collect();
        self.anew = Anew { budgets: returned, ..Anew::default() };
        if self.anew.budgets.is_empty() {
            return self.keep_counted();
        }
        tracing::info!(budgets = ?self.anew.budgets, "budgets came back or are for something else, all is counted anew");
        let mut changes = Changes::default();
        for prefix in [ACCOUNT, COUNTER] {
            self.ledger.each(prefix, |key, _| {
                changes.delete(key.to_vec());
                Ok(())
            })?;
        }
        changes.delete(STATE.to_vec());
        // By what these are counted nobody can say before all is read, nor whether the next change makes them what they were.
        let others = now.into_iter().filter(|(name, _)| !self.anew.budgets.contains(name));
        changes.put(COUNTED.to_vec(), encode(&others.collect::<BTreeMap<_, _>>())?);
        self.ledger.store().apply(&changes)?;
        // Of openings the first counts, and its entry may be gone: they are kept.
        (self.cursors, self.counters) = (Cursors::default(), Default::default());
        self.is_whole = false;
        self.writing.clear();
        self.again.clear();
        Ok(())
    }

    /// Of those that are counted anew it is stored only when all is counted by it: who dies before begins again.
    fn keep_counted(&self) -> Result<(), Error> {
        let mut changes = Changes::default();
        changes.put(COUNTED.to_vec(), encode(&definitions(&self.budgets))?);
        self.ledger.store().apply(&changes)
    }

    /// Whether less may stand in the counters of a budget than was spent of it. Until it does not, it is closed.
    pub fn is_counted_anew(&self, budget: &str) -> bool {
        self.anew.budgets.contains(budget)
    }

    /// Hears that both streams were read, as far as there was anything.
    pub fn note_all_read(&mut self) {
        self.is_whole = true;
    }

    /// Whether nothing can be told of a budget: it is not configured, or counted anew.
    pub fn is_closed(&self, budget: &str) -> bool {
        self.budgets.named(budget).is_none() || self.is_counted_anew(budget)
    }

    /// Whether it says what is to be written. A call that nobody reserved for is charged no more to a window that is long
    /// over: it may be one of thousands. And what somebody has charged or settled had its usage event, though it may not be
    /// there to be read again.
    pub(super) fn is_charged(&self, account: &Account, line: &Line) -> bool {
        if line.attempt == 0 {
            account.began().is_some() && !self.is_long_over(&line.counter, self.heard)
        } else {
            !line.is_settled_unseen()
        }
    }

    /// Whether a budget was open before: some of its calls may have been charged.
    pub fn has_openings(&self) -> bool {
        !self.opened.is_empty()
    }

    fn missing(&self, account: &Account) -> BTreeSet<Counter> {
        let is_missing = |line: &Line| line.difference() > 0 && self.is_counted_anew(&line.counter.budget);
        self.lines(account).into_iter().filter(is_missing).map(|line| line.counter).collect()
    }

    /// All accounts are looked at once more.
    pub(super) fn forget_missing(&mut self) {
        self.anew.missing.clear();
    }

    /// Hears what has to be charged yet, when all is read.
    pub(super) fn note_missing(&mut self, account: &Account) {
        if !self.anew.budgets.is_empty() {
            let missing = self.missing(account).into_iter().map(|counter| (counter, account.name.clone()));
            self.anew.missing.extend(missing);
        }
    }

    /// Hears what was charged.
    pub(super) fn note_charged(&mut self, name: &str, account: &Account) {
        if self.anew.missing.iter().any(|(_, of)| of == name) {
            let missing = self.missing(account);
            self.anew.missing.retain(|(counter, of)| of != name || missing.contains(counter));
        }
    }

    /// Ends it if nothing is missing. Returns the counters of which it can be told again what is spent.
    pub(super) fn end_anew(&mut self) -> Result<Vec<Counter>, Error> {
        if self.anew.budgets.is_empty() || !self.anew.is_read || !self.anew.missing.is_empty() {
            return Ok(Vec::new());
        }
        // An opening of which no counter is left says nothing: the budget is opened anew.
        let is_left = |name: &String| self.counters.keys().any(|counter| counter.budget == *name);
        let gone: Vec<_> = self.opened.keys().filter(|name| !is_left(name)).cloned().collect();
        let mut changes = Changes::default();
        for name in gone {
            changes.delete([OPENED, name.as_bytes()].concat());
            self.opened.remove(&name);
        }
        self.ledger.store().apply(&changes)?;
        self.keep_counted()?;
        let budgets = std::mem::take(&mut self.anew).budgets;
        Ok(self.counters.keys().filter(|counter| budgets.contains(&counter.budget)).cloned().collect())
    }
}
