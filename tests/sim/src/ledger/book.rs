//! Accounts of requests, as `src/ledger/src/settle.rs` keeps them; the rule is `policy::account`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::rc::Rc;

use tollgate_model::Stored;
use tollgate_policy::account::{Account, Line};
use tollgate_policy::budget::Budgets;
use tollgate_protocol::budget::{Counter, Entry, EntryKind, OpenAnswer, OpenQuestion, Spent, end_id};
use tollgate_protocol::usage::UsageEvent;
use tollgate_protocol::{Sequence, Timestamp};

use super::counter_of;
use crate::world::{Body, timestamp};

/// An entry as it is read.
pub struct StoredEntry {
    counter: Counter,
    entry: Rc<Entry>,
    id: String,
    amount: i64,
    total: i64,
    sequence: Sequence,
    stored_at: Timestamp,
}

impl StoredEntry {
    /// Of a stored message.
    pub fn read(stored: Stored<Body>) -> Option<Self> {
        let Body::Entry(entry) = stored.payload else { return None };
        Some(Self {
            counter: counter_of(&stored.subject)?,
            entry,
            id: stored.id.unwrap_or_default(),
            amount: stored.increment?,
            total: stored.total?,
            sequence: stored.sequence,
            stored_at: timestamp(stored.stored_at),
        })
    }
}

/// Something to be written.
#[derive(Clone, Debug)]
pub struct Due {
    /// Into this counter.
    pub counter: Counter,
    /// For this request.
    pub account: String,
    /// For these attempts.
    pub attempt: u32,
    /// So much.
    pub amount: i64,
    /// The try that ends with it.
    pub tried: Option<String>,
    /// The same whoever writes it.
    pub id: String,
}

/// The book.
#[derive(Debug, Default)]
pub struct Book {
    budgets: Budgets,
    accounts: BTreeMap<String, Account>,
    totals: BTreeMap<Counter, (i64, Sequence)>,
    opened: BTreeMap<String, Sequence>,
    entries: Sequence,
    usage: Sequence,
    writing: HashSet<String>,
    again: BTreeSet<String>,
}

impl Book {
    /// With nothing read yet.
    pub fn new(budgets: Budgets) -> Self {
        Self { budgets, ..Self::default() }
    }

    /// What was only in memory is gone.
    pub fn restart(&mut self) {
        self.writing.clear();
        self.again.clear();
    }

    /// How far it is, in entries and usage events.
    pub fn cursors(&self) -> (Sequence, Sequence) {
        (self.entries, self.usage)
    }

    /// Budgets that have no opening entry yet.
    pub fn unopened(&self) -> Vec<String> {
        let counted = self.budgets.0.iter().filter(|budget| budget.measure.unit().is_some());
        let names = counted.map(|budget| budget.name.clone());
        names.filter(|name| !self.opened.contains_key(name)).collect()
    }

    /// Reads what comes next in both streams.
    pub fn read(
        &mut self,
        entries: &[StoredEntry],
        usage: &[(Sequence, Rc<UsageEvent>)],
    ) -> (Vec<Due>, BTreeSet<Counter>) {
        let (mut touched, mut changed) = (BTreeSet::new(), BTreeSet::new());
        for stored in entries {
            if stored.sequence <= self.entries {
                continue;
            }
            self.entries = stored.sequence;
            self.totals.insert(stored.counter.clone(), (stored.total, stored.sequence));
            changed.insert(stored.counter.clone());
            if stored.entry.kind == EntryKind::Open {
                touched.extend(self.accounts.keys().cloned());
                let opened = stored.entry.usage_sequence.unwrap_or_default();
                self.opened.entry(stored.counter.budget.clone()).or_insert(opened);
                continue;
            }
            self.writing.remove(&stored.id);
            touched.insert(stored.entry.account.clone());
            let account = self.account(&stored.entry.account);
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
            if *sequence <= self.usage {
                continue;
            }
            self.usage = *sequence;
            let name = event.identity().to_string();
            let concerns = self.budgets.concern(event);
            if !concerns && !self.accounts.contains_key(&name) {
                continue;
            }
            let budgets = self.budgets.clone();
            self.account(&name).note_usage(event, *sequence, &budgets);
            touched.insert(name);
        }
        let mut due = Vec::new();
        for name in &touched {
            changed.extend(self.lines(name).into_iter().map(|line| line.counter));
            self.due(name, &mut due);
        }
        (due, changed)
    }

    fn account(&mut self, name: &str) -> &mut Account {
        self.accounts.entry(name.to_owned()).or_insert_with(|| Account::new(name))
    }

    fn lines(&self, name: &str) -> Vec<Line> {
        let lines =
            |account: &Account| account.lines(&self.budgets, |budget| self.opened.get(budget).copied());
        self.accounts.get(name).map(lines).unwrap_or_default()
    }

    /// Lines of any account that say something else than they should, or are open.
    pub fn uneven(&self) -> Vec<String> {
        let mut uneven = Vec::new();
        for name in self.accounts.keys() {
            let of = self.lines(name).into_iter().filter(|line| line.cost != Some(line.sum));
            uneven.extend(of.map(|line| format!("{name}: {line:?}")));
        }
        uneven
    }

    /// Everything that is to be written, for who begins to write.
    pub fn all_due(&mut self) -> Vec<Due> {
        let names: Vec<String> = self.accounts.keys().cloned().collect();
        let mut due = Vec::new();
        names.iter().for_each(|name| self.due(name, &mut due));
        due
    }

    /// What could not be written before.
    pub fn due_again(&mut self) -> Vec<Due> {
        let mut due = Vec::new();
        let names = std::mem::take(&mut self.again);
        names.iter().for_each(|name| self.due(name, &mut due));
        due
    }

    /// It could not be written: it is due again.
    pub fn failed(&mut self, due: &Due) {
        self.again.insert(due.account.clone());
        self.not_mine(due);
    }

    /// It is not written now.
    pub fn not_mine(&mut self, due: &Due) {
        self.writing.remove(&due.id);
    }

    /// What is spent of a counter's window.
    pub fn spent(&self, counter: &Counter) -> Spent {
        let (total, sequence) = self.totals.get(counter).copied().unwrap_or_default();
        let lines = self.accounts.keys().flat_map(|name| self.lines(name));
        let unsettled: i64 =
            lines.filter(|line| line.counter == *counter).map(|line| line.sum - line.cost.unwrap_or(0)).sum();
        Spent { spent_nano_usd: total - unsettled, total_nano_usd: total, sequence, is_closed: false }
    }

    /// Every counter that is known.
    pub fn counters(&self) -> Vec<Counter> {
        self.totals.keys().cloned().collect()
    }

    /// What is reserved for a request and not over.
    pub fn answer(&self, question: &OpenQuestion) -> OpenAnswer {
        let account = self.accounts.get(&question.account).cloned().unwrap_or_default();
        let open = account.open(question.attempt, &self.budgets);
        OpenAnswer { sequence: self.entries, open, tries: account.tries(), others: Vec::new() }
    }

    fn due(&mut self, name: &str, due: &mut Vec<Due>) {
        let last_entry = self.accounts.get(name).map_or(0, |account| account.last_entry);
        for line in self.lines(name) {
            if let Some((tried, amount)) = line.next_entry() {
                let id = match &tried {
                    Some(tried) => end_id(tried),
                    None => {
                        let cost = line.cost.unwrap_or(0);
                        format!("settle/{name}/{}/{}/{last_entry}/{cost}", line.counter, line.attempt)
                    }
                };
                if self.writing.insert(id.clone()) {
                    let (counter, account) = (line.counter.clone(), name.to_owned());
                    due.push(Due { counter, account, attempt: line.attempt, amount, tried, id });
                }
            }
        }
    }
}
