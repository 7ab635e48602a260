//! What one request has in the counters of budgets, and what it should have there.
//!
//! **The rule.** Whatever is over has to stand in a counter at what it cost. A reservation is for an attempt and those
//! after it, up to the next reservation; when it is over (the request has ended or went back to the routers, or a later
//! attempt was reserved for and the one before it is heard of), the sum of its entries must equal the cost of those attempts, and the difference is what
//! has to be written. A late usage event, a reservation that came late or twice, a reservation of a router that died,
//! the same settlement written twice: all are put right by the same rule.
//!
//! The window of a reservation is the window that is charged; of several, that of the last try which stood when the call
//! began. What nobody reserved for, because the budget is younger than the request, is charged to the window in which it
//! was called.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tollgate_protocol::budget::{Counter, Entry, EntryKind, Try, Unit, end_id};
use tollgate_protocol::usage::{Kind, UsageEvent};
use tollgate_protocol::{Sequence, Timestamp};

use crate::budget::Budgets;

/// Attempts, corrections and reservations of one account that are kept. More are of no request that we made.
const KEPT_MAX: usize = 2 * crate::retry::ATTEMPTS_MAX;
/// When a try was stored is the server's time, when a call began is a worker's: so far apart they may be for the try to have
/// come before the call. A try that came so soon after it stands as well, and may be charged instead.
const CLOCKS_APART_MS: i64 = 5_000;

/// A call, and what it cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Paid {
    cost: i64,
    is_lost: bool,
    provider: String,
    model: String,
    /// The usage event's place in its stream.
    sequence: Sequence,
    /// What it is charged to if nobody reserved for it.
    charges: Vec<Counter>,
    /// What it used, in tokens.
    #[serde(default)]
    tokens: i64,
    /// When it began, in milliseconds; 0 if an older version stored it.
    #[serde(default)]
    time_ms: i64,
}

impl Paid {
    fn amount(&self, unit: Unit) -> i64 {
        match unit {
            Unit::NanoUsd => self.cost,
            Unit::Tokens => self.tokens,
            Unit::InFlight => 0,
        }
    }
}

/// The entries of one reservation in one window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    sum: i64,
    /// The last reservation in it.
    sequence: Sequence,
    /// Tries that were neither taken back nor settled, the oldest first.
    tries: Vec<(String, i64)>,
    /// What is counted.
    #[serde(default)]
    unit: Unit,
    /// Tries that were not taken back, settled or not, each with the entry it stands by and when it was stored, in
    /// milliseconds. An older version kept none.
    #[serde(default)]
    stands: Vec<(String, Sequence, i64)>,
    /// Something is there of a try that is not: the counter's log has lost it.
    #[serde(default)]
    is_cut: bool,
    /// What else is known of tries.
    #[serde(default)]
    known: BTreeMap<String, Try>,
}

impl Held {
    /// Whether the try that an entry is about was heard of; without a name, whether any was.
    fn is_known(&self, tried: Option<&String>) -> bool {
        match tried {
            None => self.sequence > 0,
            Some(tried) => {
                self.tries.iter().any(|(known, _)| known == tried)
                    || self.stands.iter().any(|(known, ..)| known == tried)
            }
        }
    }

    fn note(&mut self, entry: &Entry, amount: i64, sequence: Sequence, stored_at: Timestamp) {
        let about = if entry.kind == EntryKind::Take { entry.takes.as_ref() } else { entry.tried.as_ref() };
        self.is_cut |= entry.kind != EntryKind::Reserve && entry.attempt > 0 && !self.is_known(about);
        self.sum = self.sum.saturating_add(amount);
        self.unit = entry.unit;
        match (&entry.tried, entry.kind) {
            (Some(tried), EntryKind::Take) => {
                self.sequence = self.sequence.max(sequence);
                if let Some((known, _)) = self.tries.iter_mut().find(|(known, _)| Some(known) == about) {
                    known.clone_from(tried);
                }
                if let Some(of) = about.and_then(|known| self.known.remove(known)) {
                    self.known.insert(tried.clone(), Try { is_taken: true, ..of });
                }
                if let Some((known, last, _)) =
                    self.stands.iter_mut().find(|(known, ..)| Some(known) == about)
                {
                    known.clone_from(tried);
                    *last = sequence;
                }
            }
            (Some(tried), EntryKind::Reserve) => {
                self.sequence = self.sequence.max(sequence);
                if self.tries.len() < KEPT_MAX {
                    self.tries.push((tried.clone(), amount));
                }
                if self.stands.len() < KEPT_MAX {
                    self.stands.push((tried.clone(), sequence, stored_at.timestamp_millis()));
                }
            }
            (Some(tried), kind) => {
                self.tries.retain(|(known, _)| known != tried);
                self.known.remove(tried);
                if kind == EntryKind::Undo {
                    self.stands.retain(|(known, ..)| known != tried);
                }
            }
            (None, _) => {}
        }
    }
}

/// Which of these windows is charged for calls of which the first began then: the one with the last try that stood by then.
/// A try that was taken back never counts, and one that came after the call only if there is no other.
fn charged(windows: &BTreeMap<String, Held>, began_ms: Option<i64>) -> Option<&String> {
    let stands = || {
        let of = |(window, held)| {
            let held: &Held = held;
            held.stands.iter().map(move |(_, sequence, stored_ms)| (*sequence, *stored_ms, window))
        };
        windows.iter().flat_map(of)
    };
    let by_then = began_ms.and_then(|began| {
        stands().filter(|(_, stored_ms, _)| *stored_ms <= began.saturating_add(CLOCKS_APART_MS)).max()
    });
    let last = || windows.iter().max_by_key(|(_, held)| held.sequence).map(|(window, _)| window);
    by_then.or_else(|| stands().max()).map(|(.., window)| window).or_else(last)
}

/// What is known of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Whose it is: `<team>.<group>.<id>`.
    pub name: String,
    /// The last entry of it in any counter.
    pub last_entry: Sequence,
    is_closed: bool,
    /// The last attempt after which it went back to the routers.
    requeued: u32,
    /// By use of the identity and number.
    attempts: BTreeMap<(i64, u32), Paid>,
    /// Corrections by their id: the attempt, and the amount.
    corrections: BTreeMap<String, (u32, i64)>,
    /// By budget, first attempt and window.
    reserved: BTreeMap<String, BTreeMap<u32, BTreeMap<String, Held>>>,
    /// When something was last heard of it, in milliseconds.
    pub touched_ms: i64,
}

/// What stands in a counter for some attempts of a request, and what should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The counter.
    pub counter: Counter,
    /// What it counts.
    pub unit: Unit,
    /// The first of the attempts.
    pub attempt: u32,
    /// What stands there.
    pub sum: i64,
    /// What it has to be; `None` while the reservation is open.
    pub cost: Option<i64>,
    /// Tries that were neither taken back nor settled, the oldest first.
    tries: Vec<(String, i64)>,
    /// Entries of it are missing: something is there of a try that is not.
    pub is_cut: bool,
}

impl Line {
    /// What has to be written, all in all.
    pub fn difference(&self) -> i64 {
        self.cost.map_or(0, |cost| cost.saturating_sub(self.sum))
    }

    /// Whether its tries are over, and nothing is known of a call: somebody has settled it who knew.
    pub fn is_settled_unseen(&self) -> bool {
        self.cost.is_none() && self.tries.is_empty() && self.sum > 0 && !self.is_cut
    }

    /// The same line, if nothing will come of what is reserved any more.
    pub fn given_up(&self) -> Self {
        Self { cost: Some(0), ..self.clone() }
    }

    /// The same line, if what stands there has to be taken as right.
    pub fn as_it_stands(self) -> Self {
        Self { cost: Some(self.sum), tries: Vec::new(), ..self }
    }

    /// The id under which an entry of it is written, whoever writes it.
    pub fn id(&self, account: &Account, tried: Option<&str>) -> String {
        match tried {
            Some(tried) => end_id(tried),
            None => {
                let (name, last) = (&account.name, account.last_entry);
                format!("settle/{name}/{}/{}/{last}/{}", self.counter, self.attempt, self.cost.unwrap_or(0))
            }
        }
    }

    /// The same, entry by entry, each with the try that it ends. A router may be about to take back a try of its own: what
    /// ends a try has the same id whoever writes it, and so is written once.
    pub fn entries(&self) -> Vec<(Option<String>, i64)> {
        if self.cost.is_none() {
            return Vec::new();
        }
        let difference = self.difference();
        let Some(((last, _), orphans)) = self.tries.split_last() else {
            return if difference == 0 { Vec::new() } else { vec![(None, difference)] };
        };
        if difference == 0 && orphans.is_empty() {
            return Vec::new();
        }
        let mut entries: Vec<_> =
            orphans.iter().map(|(tried, amount)| (Some(tried.clone()), -amount)).collect();
        let rest = entries.iter().fold(difference, |rest, (_, amount)| rest.saturating_sub(*amount));
        entries.push((Some(last.clone()), rest));
        entries
    }
}

impl Line {
    /// What is to be written first; the rest follows when that is read back. Of several tries the last is made to carry the
    /// cost before the others are ended: its router may have taken it back meanwhile, and were the others gone by then, the
    /// counter would be too low for as long as it takes to see that.
    pub fn next_entry(&self) -> Option<(Option<String>, i64)> {
        self.entries().pop()
    }
}

impl Account {
    /// Of a request of which nothing is known.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// When the first of its calls that is known was accepted.
    pub fn began(&self) -> Option<Timestamp> {
        self.attempts.keys().next().and_then(|(accepted, _)| Timestamp::from_timestamp_micros(*accepted))
    }

    /// Whether a call is known of it that a budget would be charged for, after this usage event.
    pub fn was_called_since(&self, budget: &str, usage: Sequence) -> bool {
        let is_charged = |paid: &Paid| paid.charges.iter().any(|counter| counter.budget == budget);
        self.attempts.values().any(|paid| paid.sequence > usage && is_charged(paid))
    }

    /// Hears of a usage event of this request, at this place of its stream.
    pub fn note_usage(&mut self, event: &UsageEvent, sequence: Sequence, budgets: &Budgets) {
        self.touched_ms = self.touched_ms.max(event.time.timestamp_millis());
        self.is_closed |= event.is_final;
        if event.requeued {
            self.requeued = self.requeued.max(event.attempt);
        }
        match event.kind {
            Kind::Unpaid => {}
            Kind::Correction => {
                if self.corrections.len() < KEPT_MAX {
                    self.corrections.entry(event.ce_id()).or_insert((event.attempt, event.cost_nano_usd.0));
                }
            }
            Kind::Attempt | Kind::Lost => {
                let known = self.attempts.get(&key(event));
                let is_lost = event.kind == Kind::Lost;
                // The same rule as for sums: each counts once, and an attempt beats a lost one.
                if known.is_some_and(|known| is_lost || !known.is_lost) || self.attempts.len() >= KEPT_MAX {
                    return;
                }
                let charges = budgets.of_event(event).map(|budget| budget.counter(event.time)).collect();
                let paid = Paid {
                    cost: event.cost_nano_usd.0,
                    is_lost,
                    provider: event.provider.clone().unwrap_or_default(),
                    model: event.model.clone().unwrap_or_default(),
                    sequence,
                    charges,
                    tokens: i64::try_from(event.usage.total_tokens()).unwrap_or(i64::MAX),
                    time_ms: event.time.timestamp_millis(),
                };
                self.attempts.insert(key(event), paid);
            }
        }
    }

    /// Hears of an entry of this request in a counter.
    pub fn note_entry(
        &mut self,
        counter: &Counter,
        entry: &Entry,
        amount: i64,
        sequence: Sequence,
        now: Timestamp,
    ) {
        self.touched_ms = self.touched_ms.max(now.timestamp_millis());
        self.last_entry = self.last_entry.max(sequence);
        let of_budget = self.reserved.entry(counter.budget.clone()).or_default();
        if of_budget.len() >= KEPT_MAX && !of_budget.contains_key(&entry.attempt) {
            return;
        }
        let held = of_budget.entry(entry.attempt).or_default().entry(counter.window.clone()).or_default();
        held.note(entry, amount, sequence, now);
    }

    /// Hears what a counter said with a try to reserve of this request that it has just heard of.
    pub fn note_total(&mut self, counter: &Counter, entry: &Entry, total: i64, now: Timestamp) {
        let windows = self.reserved.get_mut(&counter.budget).and_then(|of| of.get_mut(&entry.attempt));
        if let Some(held) = windows.and_then(|windows| windows.get_mut(&counter.window))
            && let Some(tried) = entry.tried.as_ref().filter(|_| entry.kind == EntryKind::Reserve)
            && let Some(limit) = entry.limit
            && held.tries.iter().any(|(known, _)| known == tried)
        {
            let known = Try { total, limit, stored_ms: now.timestamp_millis(), is_taken: false };
            held.known.insert(tried.clone(), known);
        }
    }

    /// What is known of tries that are not over, by the try.
    pub fn tries(&self) -> BTreeMap<String, Try> {
        let windows = self.reserved.values().flat_map(BTreeMap::values).flat_map(BTreeMap::values);
        windows.flat_map(|held| held.known.clone()).collect()
    }

    /// What stands in the counters for it, and what should, in those of the budgets that there are. `opened` says up to which usage event a budget's opening
    /// entry goes; nothing is charged to a budget that has none without a reservation.
    pub fn lines(&self, budgets: &Budgets, opened: impl Fn(&str) -> Option<Sequence>) -> Vec<Line> {
        let mut lines = Vec::new();
        for (name, reservations) in &self.reserved {
            // What a budget is for that is not there is not known, and so neither what is too much in it nor what too little.
            if budgets.named(name).is_none() {
                continue;
            }
            let mut starts: Vec<u32> = reservations.keys().copied().filter(|start| *start > 0).collect();
            starts.push(u32::MAX);
            for bounds in starts.windows(2) {
                let &[start, end] = bounds else { continue };
                let Some(windows) = reservations.get(&start) else { continue };
                let is_over = self.is_closed || self.requeued >= start || self.was_called_before(end);
                for (window, held) in windows {
                    let is_here = |used| charged(windows, self.called_ms(used, start, end)) == Some(window);
                    let cost = self.cost(budgets, name, start, end, held.unit, is_here);
                    lines.push(Line {
                        counter: Counter { budget: name.clone(), window: window.clone() },
                        unit: held.unit,
                        attempt: start,
                        sum: held.sum,
                        cost: is_over.then_some(cost),
                        tries: held.tries.clone(),
                        is_cut: held.is_cut,
                    });
                }
            }
        }
        for (counter, (unit, cost)) in self.unreserved(budgets, opened) {
            let windows = self.reserved.get(&counter.budget).and_then(|of| of.get(&0));
            let sum = windows.and_then(|windows| windows.get(&counter.window)).map_or(0, |held| held.sum);
            lines.push(Line {
                counter,
                unit,
                attempt: 0,
                sum,
                cost: Some(cost),
                tries: Vec::new(),
                is_cut: false,
            });
        }
        lines
    }

    /// Whether a later attempt was reserved for, and the one before it is heard of. Its usage event was stored before that
    /// reservation, and can be read after it: until then, what was reserved is all that stands for its call.
    fn was_called_before(&self, start: u32) -> bool {
        let before = start.saturating_sub(1);
        let is_known = self.attempts.keys().any(|(_, number)| *number == before);
        start < u32::MAX && (is_known || before == 0 || self.attempts.len() >= KEPT_MAX)
    }

    /// When the first of these attempts of one use of the identity began.
    fn called_ms(&self, used: Option<i64>, start: u32, end: u32) -> Option<i64> {
        let used = used?;
        let of_use = self.attempts.range((used, start)..(used, end));
        of_use.map(|(_, paid)| paid.time_ms).filter(|time_ms| *time_ms > 0).min()
    }

    /// The last use of the identity that has this attempt; a correction does not say of which it is.
    fn used_last(&self, number: u32) -> Option<i64> {
        self.attempts.keys().rev().find(|(_, known)| *known == number).map(|(used, _)| *used)
    }

    /// What the attempts from `start` up to `end` that the budget is for come to, of those uses of the identity that are
    /// charged here.
    fn cost(
        &self,
        budgets: &Budgets,
        name: &str,
        start: u32,
        end: u32,
        unit: Unit,
        is_here: impl Fn(Option<i64>) -> bool,
    ) -> i64 {
        let budget = budgets.named(name);
        let is_charged =
            |paid: &Paid| budget.is_some_and(|budget| budget.scope.has_target(&paid.provider, &paid.model));
        let of_attempts = self
            .attempts
            .iter()
            .filter(|((used, number), paid)| {
                (start..end).contains(number) && is_charged(paid) && is_here(Some(*used))
            })
            .map(|(_, paid)| paid.amount(unit));
        let of_corrections = self
            .corrections
            .values()
            // They are of money only.
            .filter(|(number, _)| unit == Unit::NanoUsd && (start..end).contains(number))
            .filter(|(number, _)| is_here(self.used_last(*number)))
            .map(|(_, cost)| *cost);
        of_attempts.chain(of_corrections).fold(0, i64::saturating_add)
    }

    fn unreserved(
        &self,
        budgets: &Budgets,
        opened: impl Fn(&str) -> Option<Sequence>,
    ) -> BTreeMap<Counter, (Unit, i64)> {
        let mut charges = BTreeMap::new();
        // What was written for them before, and may have to be taken back.
        for (name, reservations) in &self.reserved {
            if budgets.named(name).and_then(|budget| budget.measure.unit()).is_none() {
                continue;
            }
            for (window, held) in reservations.get(&0).into_iter().flatten() {
                charges.insert(Counter { budget: name.clone(), window: window.clone() }, (held.unit, 0_i64));
            }
        }
        for ((_, number), paid) in &self.attempts {
            for counter in &paid.charges {
                let first =
                    self.reserved.get(&counter.budget).and_then(|of| of.keys().find(|start| **start > 0));
                let is_reserved = first.is_some_and(|first| first <= number);
                let is_younger = opened(&counter.budget).is_some_and(|opened| paid.sequence > opened);
                let unit = budgets.named(&counter.budget).and_then(|budget| budget.measure.unit());
                if let Some(unit) = unit.filter(|_| !is_reserved && is_younger) {
                    let (_, sum) = charges.entry(counter.clone()).or_insert((unit, 0));
                    *sum = sum.saturating_add(paid.amount(unit));
                }
            }
        }
        charges
    }
}

/// The use of the identity that a call belongs to, and its number.
fn key(event: &UsageEvent) -> (i64, u32) {
    (event.accepted_at.map_or(0, |time| time.timestamp_micros()), event.attempt)
}

mod open;
#[cfg(test)]
mod tests;
