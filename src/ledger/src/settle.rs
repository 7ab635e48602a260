//! What is spent of each budget, and what has to be written so that its counter says so.
//!
//! The book follows two streams, the counters' entries and the usage events, and keeps one account per request that a
//! budget concerns. `policy::account` says what stands in the counters and what should; here it is stored, summed up by
//! counter, and the differences are handed out to be written. They are believed when they are read back from the stream,
//! so whoever else writes them too does no lasting harm.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tollgate_bus::counter::StoredEntry;
use tollgate_policy::account::{Account, Line};
use tollgate_policy::budget::{Budget, Budgets};
use tollgate_protocol::budget::{Counter, EntryKind, OTHERS_MAX, OpenAnswer, OpenQuestion, Spent, Unit};
use tollgate_protocol::usage::UsageEvent;
use tollgate_protocol::{Sequence, Timestamp};

use crate::Ledger;
use crate::store::{Changes, Error};
use anew::Anew;

mod anew;
mod forget;
mod list;
#[cfg(test)]
mod tests;

const STATE: &[u8] = b"$state";
const ACCOUNT: &[u8] = b"$a";
const COUNTER: &[u8] = b"$c";
const OPENED: &[u8] = b"$o";
const COUNTED: &[u8] = b"$budgets";

/// How far both streams have been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursors {
    /// The last entry of a counter; 0 if none.
    pub entries: Sequence,
    /// The last usage event; `None` if nobody has said yet where to begin.
    pub usage: Option<Sequence>,
}

/// A counter as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Sums {
    /// What the server says.
    total: i64,
    /// Of it, what is reserved for calls that are not over, and what is to be settled.
    unsettled: i64,
    /// Its last entry that was read; 0 if none was.
    sequence: Sequence,
    /// Whether the first entry that was read of it is not its first one: a log has an end.
    #[serde(default)]
    is_short: bool,
    /// When that entry was stored, in milliseconds.
    #[serde(default)]
    began_ms: i64,
}

/// Something to be written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Due {
    /// Into this counter.
    pub counter: Counter,
    /// For this request.
    pub account: String,
    /// For these attempts.
    pub attempt: u32,
    /// So much.
    pub amount: i64,
    /// Of this.
    pub unit: Unit,
    /// The try to reserve that ends with it.
    pub tried: Option<String>,
    /// Tells it from earlier and later ones; the same whoever writes it.
    pub id: String,
}

/// What reading some messages has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What is to be written now.
    pub due: Vec<Due>,
    /// Counters that say something else now.
    pub changed: BTreeSet<Counter>,
}

/// A usage event with its place in the stream.
pub type PlacedEvent = (Sequence, UsageEvent);

/// The accounts of all requests that a budget concerns.
#[derive(Debug)]
pub struct Book {
    ledger: Arc<Ledger>,
    budgets: Budgets,
    cursors: Cursors,
    counters: HashMap<Counter, Sums>,
    opened: HashMap<String, Sequence>,
    /// What is being written, until it is read back or has failed.
    writing: HashSet<String>,
    /// Accounts of which something could not be written.
    again: BTreeSet<String>,
    anew: Anew,
    /// Whether both streams were read since it was opened or emptied: before that an account may be known by half.
    is_whole: bool,
    /// When the last entry was stored that was heard of, by the server's clock; after a start, when the last counter began.
    heard: Timestamp,
}

impl Book {
    /// Opens the book in a ledger's store.
    pub fn open(ledger: Arc<Ledger>, budgets: Budgets) -> Result<Self, Error> {
        let store = ledger.store();
        let cursors = store.get(STATE)?.map(|bytes| decode(&bytes)).transpose()?.unwrap_or_default();
        let (mut counters, mut opened) = (HashMap::new(), HashMap::new());
        ledger.each(COUNTER, |_, value| {
            let (counter, sums): (Counter, Sums) = decode(value)?;
            counters.insert(counter, sums);
            Ok(())
        })?;
        ledger.each(OPENED, |_, value| {
            let (budget, sequence): (String, Sequence) = decode(value)?;
            opened.insert(budget, sequence);
            Ok(())
        })?;
        let began = counters.values().map(|sums| sums.began_ms).max().unwrap_or_default();
        let heard = Timestamp::from_timestamp_millis(began).unwrap_or_default();
        let mut book = Self {
            ledger,
            budgets,
            cursors,
            counters,
            opened,
            writing: HashSet::new(),
            again: BTreeSet::new(),
            anew: Anew::default(),
            is_whole: false,
            heard,
        };
        book.compare_counted()?;
        book.sum_up()?;
        Ok(book)
    }

    /// What is unsettled depends on the budgets' scopes, which may be others than last time.
    fn sum_up(&mut self) -> Result<(), Error> {
        for sums in self.counters.values_mut() {
            sums.unsettled = 0;
        }
        let ledger = Arc::clone(&self.ledger);
        ledger.each(ACCOUNT, |_, value| {
            for (counter, amount) in self.unsettled(&decode(value)?) {
                // A window that is even may be forgotten already.
                if amount != 0 {
                    self.counters.entry(counter).or_default().unsettled += amount;
                }
            }
            Ok(())
        })
    }

    /// Other budgets count from now on. Returns the counters of which something else may be spent or reserved now.
    pub fn configure(&mut self, budgets: Budgets) -> Result<Vec<Counter>, Error> {
        let of = |budgets: &Budgets| -> Vec<_> {
            let one = |budget: &Budget| {
                (budget.name.clone(), budget.measure, budget.scope.clone(), budget.per, budget.timezone)
            };
            budgets.0.iter().map(one).collect()
        };
        // Only what is charged to which counter has to be found out anew; limits are none of that.
        let is_other = of(&budgets) != of(&self.budgets);
        self.budgets = budgets;
        if !is_other {
            return Ok(Vec::new());
        }
        // Where all is read anew nothing of them is left here.
        let known = self.counters.keys().cloned().collect();
        self.compare_counted()?;
        self.sum_up()?;
        Ok(known)
    }

    /// The budget of this name.
    pub fn budget(&self, name: &str) -> Option<Budget> {
        self.budgets.named(name).cloned()
    }

    /// How far it is.
    pub fn cursors(&self) -> Cursors {
        self.cursors
    }

    /// Begins with the usage event after this one, if it has not begun.
    pub fn begin(&mut self, usage: Sequence) {
        self.cursors.usage.get_or_insert(usage);
    }

    /// Budgets that have no opening entry yet.
    pub fn unopened(&self) -> Vec<String> {
        let counted = self.budgets.0.iter().filter(|budget| budget.measure.unit().is_some());
        let names = counted.map(|budget| budget.name.clone());
        names.filter(|name| !self.opened.contains_key(name)).collect()
    }

    /// Reads what comes next in both streams. What was read before changes nothing.
    pub fn read(&mut self, entries: &[StoredEntry], usage: &[PlacedEvent]) -> Result<Outcome, Error> {
        let mut outcome = Outcome::default();
        let mut accounts: BTreeMap<String, Touched> = BTreeMap::new();
        let mut changes = Changes::default();
        let mut is_shorter = false;
        for stored in entries {
            if stored.sequence <= self.cursors.entries {
                continue;
            }
            self.cursors.entries = stored.sequence;
            self.heard = self.heard.max(stored.stored_at);
            let sums = self.counters.entry(stored.counter.clone()).or_default();
            if sums.sequence == 0 {
                sums.is_short = stored.total != stored.amount;
                sums.began_ms = stored.stored_at.timestamp_millis();
                // What was heard of before is seen otherwise now.
                is_shorter |= sums.is_short;
            }
            (sums.total, sums.sequence) = (stored.total, stored.sequence);
            outcome.changed.insert(stored.counter.clone());
            if stored.entry.kind == EntryKind::Open {
                let name = &stored.counter.budget;
                let opened = stored.entry.usage_sequence.unwrap_or_default();
                // What was called since, and is not in it, is charged from now on.
                for account in self.called_since(name, opened)? {
                    self.touch(&mut accounts, &account)?;
                }
                let opened = *self.opened.entry(name.clone()).or_insert(opened);
                changes.put([OPENED, name.as_bytes()].concat(), encode(&(name, opened))?);
                continue;
            }
            self.writing.remove(&stored.id);
            if stored.entry.corrects.is_some() {
                // Of an entry that is of no account.
                continue;
            }
            let touched = self.touch(&mut accounts, &stored.entry.account)?;
            let Touched { account, .. } = touched;
            account.note_entry(
                &stored.counter,
                &stored.entry,
                stored.amount,
                stored.sequence,
                stored.stored_at,
            );
            account.note_total(&stored.counter, &stored.entry, stored.total, stored.stored_at);
        }
        for (sequence, event) in usage {
            if self.cursors.usage.is_some_and(|cursor| *sequence <= cursor) {
                continue;
            }
            self.cursors.usage = Some(*sequence);
            let name = event.identity().to_string();
            // Also if the call is none that is charged: it may be what ends a request that reserved.
            let concerns = self.budgets.concern(event);
            if !concerns && !accounts.contains_key(&name) && self.stored(&name)?.is_none() {
                continue;
            }
            let budgets = self.budgets.clone();
            self.touch(&mut accounts, &name)?.account.note_usage(event, *sequence, &budgets);
        }
        for (name, Touched { account, before }) in accounts {
            let unsettled = self.unsettled(&account);
            for counter in before.keys().chain(unsettled.keys()).collect::<BTreeSet<_>>() {
                let change = unsettled.get(counter).unwrap_or(&0) - before.get(counter).unwrap_or(&0);
                if change != 0 {
                    self.counters.entry(counter.clone()).or_default().unsettled += change;
                    outcome.changed.insert(counter.clone());
                }
            }
            self.due(&name, &account, &mut outcome.due);
            self.note_charged(&name, &account);
            changes.put(account_key(&name), encode(&account)?);
        }
        for counter in &outcome.changed {
            let sums = self.counters.get(counter).copied().unwrap_or_default();
            changes.put([COUNTER, counter.to_string().as_bytes()].concat(), encode(&(counter, sums))?);
        }
        changes.put(STATE.to_vec(), encode(&self.cursors)?);
        self.ledger.store().apply(&changes)?;
        if is_shorter {
            self.sum_up()?;
        }
        outcome.changed.extend(self.end_anew()?);
        Ok(outcome)
    }

    /// Whether these calls all have their reservations, as far as the entries were read.
    pub fn are_reserved(&self, usage: &[PlacedEvent]) -> Result<bool, Error> {
        for (_, event) in usage.iter().filter(|(_, event)| self.budgets.concern(event)) {
            let account = self.stored(&event.identity().to_string())?.unwrap_or_default();
            if !account.is_reserved_for(event, &self.budgets) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes it as known up to which usage event a budget's opening goes. Its entry may be gone.
    pub(crate) fn adopt_opening(&mut self, budget: &str, usage: Sequence) {
        self.opened.insert(budget.to_owned(), usage);
    }

    /// Up to which usage event a budget's opening goes.
    pub(crate) fn opening(&self, budget: &str) -> Option<Sequence> {
        self.opened.get(budget).copied()
    }

    /// An account with its lines, as they are.
    pub(crate) fn looked_at(&self, name: &str) -> Result<Option<(Account, Vec<Line>)>, Error> {
        Ok(self.stored(name)?.map(|account| {
            let lines = account.lines(&self.budgets, |budget| self.opened.get(budget).copied());
            (account, lines)
        }))
    }

    /// Everything that is to be written, for who begins to write.
    pub fn all_due(&mut self) -> Result<Vec<Due>, Error> {
        let mut due = Vec::new();
        self.forget_missing();
        let ledger = Arc::clone(&self.ledger);
        ledger.each(ACCOUNT, |_, value| {
            let account: Account = decode(value)?;
            self.due(&account.name, &account, &mut due);
            self.note_missing(&account);
            Ok(())
        })?;
        self.anew.is_read = true;
        self.end_anew()?;
        Ok(due)
    }

    /// What could not be written before. Some of it may not be due any more.
    pub fn due_again(&mut self) -> Result<Outcome, Error> {
        let mut outcome = Outcome::default();
        for name in std::mem::take(&mut self.again) {
            if let Some(account) = self.stored(&name)? {
                self.due(&name, &account, &mut outcome.due);
                self.note_charged(&name, &account);
            }
        }
        outcome.changed.extend(self.end_anew()?);
        Ok(outcome)
    }

    /// It could not be written: it is due again.
    pub fn failed(&mut self, due: &Due) {
        self.again.insert(due.account.clone());
        self.not_mine(due);
    }

    /// Another process writes it.
    pub fn not_mine(&mut self, due: &Due) {
        self.writing.remove(&due.id);
    }

    /// What is spent of a counter's window.
    pub fn spent(&self, counter: &Counter) -> Spent {
        let sums = self.counters.get(counter).copied().unwrap_or_default();
        Spent {
            spent_nano_usd: sums.total.saturating_sub(sums.unsettled),
            total_nano_usd: sums.total,
            sequence: sums.sequence,
            is_closed: false,
        }
    }

    /// Every counter that is known.
    pub fn counters(&self) -> impl Iterator<Item = &Counter> {
        self.counters.keys()
    }

    /// What is reserved for a request and not over.
    pub fn answer(&self, question: &OpenQuestion) -> Result<OpenAnswer, Error> {
        let account = self.stored(&question.account)?.unwrap_or_default();
        let open = account.open(question.attempt, &self.budgets);
        let mut others = Vec::new();
        for (other, attempt) in question.others.iter().take(OTHERS_MAX) {
            let Some(account) = self.stored(other)? else { continue };
            let counters = account.held_in(*attempt, &self.budgets);
            others.extend(counters.into_iter().map(|counter| (other.clone(), counter)));
        }
        Ok(OpenAnswer { sequence: self.cursors.entries, open, tries: account.tries(), others })
    }

    /// The accounts that know of a call after this usage event that the budget would be charged for: few, of all that are
    /// kept.
    fn called_since(&self, budget: &str, usage: Sequence) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        self.ledger.each(ACCOUNT, |_, value| {
            let account: Account = decode(value)?;
            if account.was_called_since(budget, usage) {
                names.push(account.name);
            }
            Ok(())
        })?;
        Ok(names)
    }

    pub(crate) fn names(&self) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        self.ledger.each(ACCOUNT, |_, value| {
            names.push(decode::<Account>(value)?.name);
            Ok(())
        })?;
        Ok(names)
    }

    fn touch<'a>(
        &self,
        accounts: &'a mut BTreeMap<String, Touched>,
        name: &str,
    ) -> Result<&'a mut Touched, Error> {
        if !accounts.contains_key(name) {
            let account = self.stored(name)?.unwrap_or_else(|| Account::new(name));
            let before = self.unsettled(&account);
            accounts.insert(name.to_owned(), Touched { account, before });
        }
        accounts.get_mut(name).ok_or(Error::Unreadable("an account"))
    }

    fn stored(&self, name: &str) -> Result<Option<Account>, Error> {
        self.ledger.store().get(&account_key(name))?.map(|bytes| decode(&bytes)).transpose()
    }

    /// What stands in the counters for an account, and what should. A log that has lost its beginning does not say what
    /// was written for a request then: what there is of it is taken as right, or a reservation that is not seen would be
    /// settled for ever, and a request that was charged be charged again.
    fn lines(&self, account: &Account) -> Vec<Line> {
        let lines = account.lines(&self.budgets, |budget| self.opened.get(budget).copied()).into_iter();
        let of_book = |line: Line| {
            let sums = self.counters.get(&line.counter).filter(|sums| sums.is_short);
            let is_incomplete = sums.is_some_and(|sums| match line.attempt {
                0 => account.began().is_none_or(|began| began.timestamp_millis() <= sums.began_ms),
                _ => line.is_cut && line.cost.is_some(),
            });
            if is_incomplete || !self.is_charged(account, &line) { line.as_it_stands() } else { line }
        };
        lines.map(of_book).collect()
    }

    /// What an account has in each counter beyond what is spent.
    fn unsettled(&self, account: &Account) -> BTreeMap<Counter, i64> {
        let mut unsettled = BTreeMap::new();
        for line in self.lines(account) {
            let open = line.sum - line.cost.unwrap_or(0);
            *unsettled.entry(line.counter).or_default() += open;
        }
        unsettled
    }

    fn due(&mut self, name: &str, account: &Account, due: &mut Vec<Due>) {
        for line in self.lines(account) {
            if let Some((tried, amount)) = line.next_entry() {
                let id = line.id(account, tried.as_deref());
                if self.writing.insert(id.clone()) {
                    let (counter, account) = (line.counter.clone(), name.to_owned());
                    let (attempt, unit) = (line.attempt, line.unit);
                    due.push(Due { counter, account, attempt, amount, unit, tried, id });
                }
            }
        }
    }
}

/// An account in hand, and what was unsettled of it before.
struct Touched {
    account: Account,
    before: BTreeMap<Counter, i64>,
}

fn account_key(name: &str) -> Vec<u8> {
    [ACCOUNT, name.as_bytes()].concat()
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    rmp_serde::to_vec(value).map_err(Error::engine)
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    rmp_serde::from_slice(bytes).map_err(|_| Error::Unreadable("an account"))
}
