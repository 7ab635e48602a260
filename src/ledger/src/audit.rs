//! What stands in the counters, held against what should: everything that is different, by the ledger's own rule.
//!
//! It reads both streams from their beginnings into a book of its own, so that nothing is believed that only a ledger
//! knows. What is not of an account (entries that nobody can read, openings) is kept beside the book. Nothing here asks a
//! clock or a server.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::Serialize;
use tollgate_bus::counter::{StoredEntry, UnreadableEntry};
use tollgate_policy::account::{Account, Line};
use tollgate_policy::budget::Budgets;
use tollgate_protocol::budget::{Counter, Entry, EntryKind, Spent, Unit};
use tollgate_protocol::{Sequence, Timestamp};

use crate::Ledger;
use crate::settle::{Book, PlacedEvent};
use crate::store::Error;

#[cfg(test)]
mod tests;

/// Entries beside accounts that are kept. More than these are not named one by one.
const KEPT_MAX: usize = 100_000;

/// What is different.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A request stands in a counter with something else than what it cost.
    Account,
    /// Something is reserved for a request that is not there.
    Reservation,
    /// An entry of a counter cannot be read, or is an opening that should say something else.
    Entry,
    /// A counter says something else than its entries.
    Counter,
    /// What is told to be spent is something else.
    Told,
    /// The ledger's totals are not those of the usage events.
    Totals,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Difference {
    /// What is different.
    pub what: What,
    /// In which counter, as `<budget>.<window>`; for totals, of what.
    pub counter: String,
    /// What its amounts are in.
    pub unit: Unit,
    /// Of which request.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub account: String,
    /// From which attempt on.
    #[serde(skip_serializing_if = "is_zero")]
    pub attempt: u32,
    /// The entry that is wrong; of a request, its last one.
    pub sequence: Sequence,
    /// What stands there.
    pub stands: i64,
    /// What should.
    pub should_be: i64,
    /// For a person.
    pub reason: String,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Difference {
    /// What is too much, or with a minus too little.
    pub fn amount(&self) -> i64 {
        self.stands.saturating_sub(self.should_be)
    }
}

/// An entry that puts a difference right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction {
    /// Into this counter.
    pub counter: Counter,
    /// This entry.
    pub entry: Entry,
    /// Of this amount.
    pub amount: i64,
    /// Under this id, whoever writes it.
    pub id: String,
}

/// What is found of accounts.
#[derive(Debug, Default)]
pub struct Found {
    /// What is different, or to be settled.
    pub differences: BTreeSet<Difference>,
    /// What is reserved and not over. It is right, if its request is there.
    pub open: BTreeSet<Difference>,
    /// How many accounts were looked at.
    pub accounts: u64,
    /// Lines of accounts that cannot be compared, because the counter's log is shorter than its history.
    pub not_compared: u64,
}

/// An entry beside accounts.
#[derive(Debug)]
struct Beside {
    counter: Counter,
    amount: i64,
    reason: String,
    /// For an opening, up to which usage event it goes.
    opens: Option<Sequence>,
}

/// A counter's log.
#[derive(Debug)]
struct Log {
    total: i64,
    /// Whether it begins with the counter's first entry.
    is_whole: bool,
    began: Timestamp,
    /// By how much the total went on without an entry, and before which one.
    gap: Option<(i64, Sequence)>,
}

/// Both streams, as far as they were read.
#[derive(Debug)]
pub struct Audit {
    book: Book,
    budgets: Budgets,
    logs: HashMap<Counter, Log>,
    /// By budget, the first entry of any of its windows that a ledger can read.
    firsts: HashMap<String, Sequence>,
    beside: BTreeMap<Sequence, Beside>,
    corrected: HashMap<Sequence, i64>,
    last: Sequence,
    /// The first usage event that is left.
    usage_first: Option<Sequence>,
}

impl Audit {
    /// Nothing read yet. `opened` says of budgets up to which usage event their opening goes, as the ledger knows it.
    pub fn new(
        ledger: Arc<Ledger>,
        budgets: Budgets,
        opened: impl IntoIterator<Item = (String, Sequence)>,
    ) -> Result<Self, Error> {
        let mut book = Book::open(ledger, budgets.clone())?;
        book.begin(0);
        opened.into_iter().for_each(|(budget, usage)| book.adopt_opening(&budget, usage));
        let (logs, corrected) = (HashMap::new(), HashMap::new());
        let (firsts, beside) = (HashMap::new(), BTreeMap::new());
        Ok(Self { book, budgets, logs, firsts, beside, corrected, last: 0, usage_first: None })
    }

    /// Reads what comes next in both streams.
    pub fn read(
        &mut self,
        entries: Vec<Result<StoredEntry, UnreadableEntry>>,
        usage: &[PlacedEvent],
    ) -> Result<(), Error> {
        let mut readable = Vec::with_capacity(entries.len());
        for entry in entries {
            match entry {
                Ok(entry) => {
                    self.log(&entry.counter, entry.amount, entry.total, entry.sequence, entry.stored_at);
                    self.firsts.entry(entry.counter.budget.clone()).or_insert(entry.sequence);
                    if let Some(corrects) = entry.entry.corrects {
                        *self.corrected.entry(corrects).or_default() += entry.amount;
                    }
                    if entry.entry.kind == EntryKind::Open {
                        self.keep(
                            entry.sequence,
                            Beside {
                                counter: entry.counter.clone(),
                                amount: entry.amount,
                                reason: "it is an opening".into(),
                                opens: Some(entry.entry.usage_sequence.unwrap_or_default()),
                            },
                        );
                    }
                    readable.push(entry);
                }
                Err(UnreadableEntry { counter, amount, total, sequence, reason }) => {
                    self.log(&counter, amount, total, sequence, Timestamp::UNIX_EPOCH);
                    self.keep(sequence, Beside { counter, amount, reason, opens: None });
                }
            }
        }
        self.usage_first = self.usage_first.or_else(|| usage.first().map(|(sequence, _)| *sequence));
        let outcome = self.book.read(&readable, usage)?;
        outcome.due.iter().for_each(|due| self.book.not_mine(due));
        Ok(())
    }

    fn log(&mut self, counter: &Counter, amount: i64, total: i64, sequence: Sequence, stored_at: Timestamp) {
        self.last = self.last.max(sequence);
        let log = self.logs.entry(counter.clone()).or_insert_with(|| Log {
            total: total.saturating_sub(amount),
            is_whole: total == amount,
            began: stored_at,
            gap: None,
        });
        let missing = total.saturating_sub(amount).saturating_sub(log.total);
        if missing != 0 {
            log.gap = Some((log.gap.map_or(0, |(sum, _)| sum).saturating_add(missing), sequence));
        }
        log.total = total;
    }

    fn keep(&mut self, sequence: Sequence, beside: Beside) {
        if self.beside.len() < KEPT_MAX {
            self.beside.insert(sequence, beside);
        }
    }

    /// How far it is: the last entry, and the last usage event.
    pub fn cursors(&self) -> (Sequence, Sequence) {
        (self.last.max(self.book.cursors().entries), self.book.cursors().usage.unwrap_or_default())
    }

    /// How far a ledger has to be that has read the same. What nobody can read is nowhere on its way.
    pub fn readable(&self) -> (Sequence, Sequence) {
        let cursors = self.book.cursors();
        (cursors.entries, cursors.usage.unwrap_or_default())
    }

    /// How many counters have entries.
    pub fn counters(&self) -> usize {
        self.logs.len()
    }

    /// The openings that budgets began with: the entry, its counter, and the last usage event that is in it. A ledger that
    /// was made anew opens a budget once more where it cannot read the first opening any more; it knows from the entries
    /// there are that what was spent is counted, and so is nothing in that one.
    pub fn openings(&self) -> Vec<(Sequence, Counter, Sequence)> {
        let opens =
            self.beside.iter().filter_map(|(sequence, beside)| Some((sequence, beside, beside.opens?)));
        opens
            .filter(|(sequence, beside, up_to)| {
                let budget = &beside.counter.budget;
                self.firsts.get(budget) == Some(*sequence) && self.book.opening(budget) == Some(*up_to)
            })
            .map(|(sequence, beside, up_to)| (*sequence, beside.counter.clone(), up_to))
            .collect()
    }

    fn unit(&self, counter: &Counter) -> Unit {
        let budget = self.budgets.named(&counter.budget);
        budget.and_then(|budget| budget.measure.unit()).unwrap_or_default()
    }

    /// Whether a counter's log begins with its first entry.
    pub fn is_whole(&self, counter: &Counter) -> bool {
        self.logs.get(counter).is_some_and(|log| log.is_whole)
    }

    /// What is different beside accounts. `openings` says what the openings cost that budgets began with; `None` of one
    /// that cannot be known any more.
    pub fn beside(&self, openings: &HashMap<Sequence, Option<i64>>) -> BTreeSet<Difference> {
        let mut found = BTreeSet::new();
        for (sequence, beside) in &self.beside {
            let corrected = self.corrected.get(sequence).copied().unwrap_or(0);
            let is = beside.amount.saturating_add(corrected);
            // A second opening of a budget has nothing to add.
            let Some(should) = openings.get(sequence).copied().unwrap_or(Some(0)) else { continue };
            if is != should {
                found.insert(Difference {
                    what: What::Entry,
                    counter: beside.counter.to_string(),
                    unit: self.unit(&beside.counter),
                    account: String::new(),
                    attempt: 0,
                    sequence: *sequence,
                    stands: is,
                    should_be: should,
                    reason: beside.reason.clone(),
                });
            }
        }
        for (counter, log) in &self.logs {
            if let Some((missing, before)) = log.gap {
                found.insert(Difference {
                    what: What::Counter,
                    counter: counter.to_string(),
                    unit: self.unit(counter),
                    account: String::new(),
                    attempt: 0,
                    sequence: before,
                    stands: log.total,
                    should_be: log.total.saturating_sub(missing),
                    reason: "entries before this one are gone".into(),
                });
            }
        }
        found
    }

    /// What is different in these accounts; in all of them if none are given.
    pub fn accounts(&self, only: Option<&BTreeSet<String>>, now: Timestamp) -> Result<Found, Error> {
        let mut found = Found::default();
        let names = match only {
            Some(names) => names.iter().cloned().collect(),
            None => self.book.names()?,
        };
        for name in names {
            let Some((account, lines)) = self.book.looked_at(&name)? else { continue };
            found.accounts += 1;
            for line in lines {
                if line.cost == Some(line.sum) || (line.cost.is_none() && line.sum == 0) {
                    continue;
                }
                if !self.is_compared(&account, &line, now) {
                    found.not_compared += 1;
                    continue;
                }
                let (what, reason) = match line.cost {
                    Some(_) => (What::Account, "it is not what the request cost"),
                    None => (What::Reservation, "nothing is known of such a request"),
                };
                let difference = Difference {
                    what,
                    counter: line.counter.to_string(),
                    unit: line.unit,
                    account: name.clone(),
                    attempt: line.attempt,
                    sequence: account.last_entry,
                    stands: line.sum,
                    should_be: line.cost.unwrap_or(0),
                    reason: reason.into(),
                };
                match line.cost {
                    Some(_) => found.differences.insert(difference),
                    None => found.open.insert(difference),
                };
            }
        }
        Ok(found)
    }

    /// Whether the usage events of what somebody has charged or settled can be there: all since the budget's opening are, or
    /// one is known. The ledger takes as right what they may have said.
    fn is_told_of(&self, account: &Account, line: &Line) -> bool {
        let is_unseen = match line.attempt {
            0 => account.began().is_none(),
            _ => line.is_settled_unseen(),
        };
        let opened = self.book.opening(&line.counter.budget).unwrap_or_default();
        !is_unseen || self.usage_first.is_some_and(|first| first <= opened.saturating_add(1))
    }

    /// Whether all of the line's entries can be there. A log has an end, and windows that are long over are forgotten.
    fn is_compared(&self, account: &Account, line: &Line, now: Timestamp) -> bool {
        !self.book.is_long_over(&line.counter, now)
            && self.is_told_of(account, line)
            && self
                .logs
                .get(&line.counter)
                .is_none_or(|log| log.is_whole || account.began().is_some_and(|began| began > log.began))
    }

    /// Counters of which something else is told than what is counted. `told` is what is told of each. A log that is not
    /// whole does not say how much of its counter is reserved, and of what is long over nothing is told.
    pub fn told(&self, told: &HashMap<Counter, Spent>, now: Timestamp) -> BTreeSet<Difference> {
        let whole = self.logs.iter().filter(|(_, log)| log.is_whole).map(|(counter, _)| counter);
        let compared = whole.filter(|counter| !self.book.is_long_over(counter, now));
        let different = compared.filter_map(|counter| {
            let (told, counted) = (told.get(counter).cloned().unwrap_or_default(), self.book.spent(counter));
            let is_known = self.budgets.named(&counter.budget).is_some();
            (is_known && told.spent_nano_usd != counted.spent_nano_usd).then(|| Difference {
                what: What::Told,
                counter: counter.to_string(),
                unit: self.unit(counter),
                account: String::new(),
                attempt: 0,
                sequence: counted.sequence,
                stands: told.spent_nano_usd,
                should_be: counted.spent_nano_usd,
                reason: "this is told to be spent".into(),
            })
        });
        different.collect()
    }

    /// The entries that put a difference right; none if no entry does.
    pub fn corrections(&self, difference: &Difference) -> Result<Vec<Correction>, Error> {
        match difference.what {
            What::Account | What::Reservation => {
                let Some((account, lines)) = self.book.looked_at(&difference.account)? else {
                    return Ok(Vec::new());
                };
                let is_it = |line: &&Line| {
                    line.counter.to_string() == difference.counter && line.attempt == difference.attempt
                };
                let Some(line) = lines.iter().find(is_it) else { return Ok(Vec::new()) };
                let line = if line.cost.is_none() { line.given_up() } else { line.clone() };
                let correction = |(tried, amount): (Option<String>, i64)| Correction {
                    counter: line.counter.clone(),
                    id: line.id(&account, tried.as_deref()),
                    amount,
                    entry: Entry {
                        kind: EntryKind::Correct,
                        unit: line.unit,
                        account: difference.account.clone(),
                        attempt: line.attempt,
                        tried,
                        takes: None,
                        usage_sequence: None,
                        corrects: None,
                        limit: None,
                    },
                };
                Ok(line.entries().into_iter().map(correction).collect())
            }
            What::Entry => {
                let Some(beside) = self.beside.get(&difference.sequence) else { return Ok(Vec::new()) };
                let entry = Entry {
                    kind: EntryKind::Correct,
                    unit: difference.unit,
                    account: String::new(),
                    attempt: 0,
                    tried: None,
                    takes: None,
                    usage_sequence: None,
                    corrects: Some(difference.sequence),
                    limit: None,
                };
                Ok(vec![Correction {
                    counter: beside.counter.clone(),
                    entry,
                    amount: difference.amount().saturating_neg(),
                    id: format!("correct/{}/{}", difference.sequence, difference.stands),
                }])
            }
            What::Counter | What::Told | What::Totals => Ok(Vec::new()),
        }
    }
}
