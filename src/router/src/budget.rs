//! Reserving in budgets: the last thing before a request is dispatched.
//!
//! What is reserved stays in the counter until the ledger settles it. A try that does not hold is taken back by whoever
//! made it; one whose router died is found by the ledger, which is asked for it before a request waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tollgate_bus::retry::Patience;
use tollgate_policy::budget::{Budget, Orphan, Reserve, Verdict, is_spent, judge, orphan};
use tollgate_protocol::budget::{Counter, Entry, EntryKind, OpenAnswer, OpenQuestion, Try, Unit, end_id};
use tollgate_protocol::{Identity, Sequence, Timestamp};

use crate::Context;
use crate::intake::Item;

/// How long one entry is tried before the request waits.
const PATIENCE: Patience = Patience(Duration::from_secs(5));
/// How soon a full budget is tried again without a word of the ledger.
const RETRY: Duration = Duration::from_millis(200);
/// How soon a spent one is, at the latest: its limit may be another by then.
const RETRY_SPENT: Duration = Duration::from_secs(5);
/// How long the ledger may take to have read what this router wrote, and to say so.
const LEDGER_WAIT: Duration = Duration::from_secs(1);
const LEDGER_LOOK: Duration = Duration::from_millis(50);
/// How often a counter is looked at for a moment at which it is within its limit, and at what distance.
const LOOKS_MAX: u32 = 8;
const LOOK_AGAIN: Duration = Duration::from_millis(15);

/// A reservation that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    counter: Counter,
    amount: i64,
    unit: Unit,
    /// Its id; none if another router wrote it.
    tried: Option<String>,
}

impl Held {
    /// It may be relied on by now: nobody takes it back but the ledger.
    pub(crate) fn keep(&mut self) {
        self.tried = None;
    }
}

/// What a try to reserve came to.
#[derive(Debug)]
pub(crate) enum Reserving {
    /// It is reserved.
    Done,
    /// This budget has no room now; it is tried again then.
    Wait(usize, Instant),
    /// Of this budget it is not known; it is tried again then.
    Unknown(usize, Instant),
    /// Its turn comes later, and what is reserved for it is kept; it is tried again then.
    Turn(Instant),
    /// This limit has no turn left before then.
    NoTurn(usize, Instant),
    /// This budget is spent; so much of it.
    Spent(usize, i64),
    /// This budget never has room for so much.
    TooSmall(usize, i64),
}

/// Why a budget did not take a reservation.
enum Refusal {
    /// Judged so.
    Judged(Verdict),
    /// Its counter does not answer, or the ledger has not opened it.
    Unknown,
}

impl Context {
    /// Reserves what a request needs, in every budget or in none, and then waits for its turn.
    pub(crate) async fn reserve(&self, item: &mut Item) -> Reserving {
        if item.amounts.is_empty() {
            return Reserving::Done;
        }
        if item.reserved.is_none() {
            match self.reserve_all(item).await {
                Reserving::Done => {}
                refused => return refused,
            }
        }
        self.take_turns(item).await
    }

    async fn reserve_all(&self, item: &mut Item) -> Reserving {
        let now = tollgate_bus::now();
        let hot = Arc::clone(&item.hot);
        let mut held = Vec::new();
        for need in item.amounts.clone() {
            let Some(budget) = hot.budgets.0.get(need.budget) else { continue };
            let Some(unit) = budget.measure.unit() else { continue };
            let refused = match self.reserve_in(budget, unit, need.amount, item, now).await {
                Ok(reserved) => {
                    item.passed.push(need.budget);
                    held.push(reserved);
                    continue;
                }
                Err(Refusal::Judged(Verdict::Spent)) => {
                    let counter = budget.counter(now);
                    let spent = self.spending.spent(&counter).map_or(0, |spent| spent.spent_nano_usd);
                    Reserving::Spent(need.budget, spent)
                }
                Err(Refusal::Judged(Verdict::TooSmall)) => Reserving::TooSmall(need.budget, need.amount),
                Err(Refusal::Judged(_)) => Reserving::Wait(need.budget, Instant::now() + RETRY),
                Err(Refusal::Unknown) => Reserving::Unknown(need.budget, Instant::now() + RETRY),
            };
            self.take_back(&item.identity, item.attempt, held).await;
            return refused;
        }
        tollgate_bus::point("router.reserved");
        item.reserved = Some(held);
        Reserving::Done
    }

    async fn reserve_in(
        &self,
        budget: &Budget,
        unit: Unit,
        amount: i64,
        item: &Item,
        now: Timestamp,
    ) -> Result<Held, Refusal> {
        let judged = |verdict| Err(Refusal::Judged(verdict));
        // What was spent before the ledger knew the budget is not in its counter yet.
        if !self.spending.is_open(&budget.name) {
            return Err(Refusal::Unknown);
        }
        let counter = budget.counter(now);
        if budget.reserve == Reserve::Strict && amount > budget.limit {
            return judged(Verdict::TooSmall);
        }
        if self.spending.spent(&counter).is_some_and(|spent| is_spent(budget, amount, &spent)) {
            return judged(Verdict::Spent);
        }
        let (verdict, taken_back) = match self.try_to_add(budget, &counter, unit, amount, item).await? {
            Tried::Holds(held) => return Ok(held),
            Tried::TakenBack(Verdict::Less(left), _) => {
                return match self.try_to_add(budget, &counter, unit, left, item).await? {
                    Tried::Holds(held) => Ok(held),
                    Tried::TakenBack(..) => judged(Verdict::Wait),
                };
            }
            Tried::TakenBack(verdict @ (Verdict::TooSmall | Verdict::Spent), _) => return judged(verdict),
            // What was not taken back is not to be mistaken for what another router reserved.
            Tried::TakenBack(verdict, None) => return judged(verdict),
            Tried::TakenBack(verdict, Some(taken_back)) => (verdict, taken_back),
        };
        // A router that died may have reserved for it: that is as good as one's own. Nothing that comes with a message says
        // whether one had it: a server that was killed delivers it as if for the first time. It may be alive as well, with the
        // same request in its hands, and about to take its try back: what is relied on here is made one's own first.
        let open = self.open(&item.identity, item.attempt, &counter, taken_back).await.unwrap_or_default();
        let (refused, open): (Vec<_>, Vec<_>) =
            open.into_iter().partition(|(.., known)| orphan(known.as_ref(), now) == Orphan::Refused);
        if !refused.is_empty() {
            let ended = refused.into_iter().map(|(tried, amount, _)| Held {
                counter: counter.clone(),
                amount,
                unit,
                tried: Some(tried),
            });
            self.take_back(&item.identity, item.attempt, ended.collect()).await;
        }
        let sum = |open: &[(String, i64, Option<Try>)]| {
            open.iter().fold(0_i64, |sum, (_, amount, _)| sum.saturating_add(*amount))
        };
        let holds = |(.., known): &(String, i64, Option<Try>)| orphan(known.as_ref(), now) == Orphan::Holds;
        let held: Vec<_> = open.iter().filter(|open| holds(open)).cloned().collect();
        let is_enough = !held.is_empty() && sum(&held) >= amount;
        let open = if is_enough { held } else { open };
        // Only what then holds: what does not is left to whoever takes it back, or it would be in the way until its request ends.
        let more = amount.saturating_sub(sum(&open)).max(0);
        if open.is_empty() || !(is_enough || self.fits(&counter, more, budget.limit).await) {
            return judged(verdict);
        }
        let (mut taken, mut total) = (0_i64, None);
        for (tried, reserved, _) in open {
            if let Some(now_total) = self.take_over(&counter, unit, &tried, item).await? {
                taken = taken.saturating_add(reserved);
                total = Some(now_total);
            }
        }
        let Some(total) = total.filter(|_| taken > 0) else { return judged(verdict) };
        let missing = amount.saturating_sub(taken);
        if missing <= 0 {
            // Its router may have died before it took back what the limit refused: it holds only if the total does. If not,
            // it stays, since its router may have found that it holds and be dispatching it.
            let holds = is_enough || total <= budget.limit || self.fits(&counter, 0, budget.limit).await;
            return if holds { Ok(Held { counter, amount: 0, unit, tried: None }) } else { judged(verdict) };
        }
        match self.try_to_add(budget, &counter, unit, missing, item).await? {
            Tried::Holds(held) => Ok(held),
            Tried::TakenBack(..) => judged(verdict),
        }
    }

    /// Whether a counter has room for so much more at some moment. Tries that are about to be taken back stand in it as well:
    /// where many routers try again and again it is above its limit most of the time, and one moment at which it is not
    /// shows that what stands in it then is within the limit.
    async fn fits(&self, counter: &Counter, more: i64, limit: i64) -> bool {
        for look in 0..LOOKS_MAX {
            if look > 0 {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            let total = self.bus.total(counter).await.ok().flatten();
            if total.is_some_and(|total| total.saturating_add(more) <= limit) {
                return true;
            }
        }
        false
    }

    /// Makes another router's try one's own, so that it is not taken back. Returns the counter's total; `None` if the try
    /// was ended before.
    async fn take_over(
        &self,
        counter: &Counter,
        unit: Unit,
        tried: &str,
        item: &Item,
    ) -> Result<Option<i64>, Refusal> {
        let id = uuid::Uuid::now_v7().to_string();
        let mut entry = entry(EntryKind::Take, unit, &item.identity, item.attempt, &id);
        entry.takes = Some(tried.to_owned());
        match self.bus.add_once(counter, &entry, 0, &end_id(tried), PATIENCE).await {
            Ok(total) => Ok(total),
            Err(error) => {
                tracing::warn!(%error, %counter, "a budget's counter does not answer, trying again");
                Err(Refusal::Unknown)
            }
        }
    }

    /// Adds, and takes back what does not hold.
    async fn try_to_add(
        &self,
        budget: &Budget,
        counter: &Counter,
        unit: Unit,
        amount: i64,
        item: &Item,
    ) -> Result<Tried, Refusal> {
        let id = uuid::Uuid::now_v7().to_string();
        let mut entry = entry(EntryKind::Reserve, unit, &item.identity, item.attempt, &id);
        entry.limit = Some(budget.limit);
        let (_, total) = match self.bus.add(counter, &entry, amount, &id, PATIENCE).await {
            Ok(added) => added,
            Err(error) => {
                tracing::warn!(%error, %counter, "a budget's counter does not answer, trying again");
                return Err(Refusal::Unknown);
            }
        };
        tollgate_bus::point("router.reserve.stored");
        let verdict = judge(budget, amount, total, self.spending.spent(counter).as_ref());
        let held = Held { counter: counter.clone(), amount, unit, tried: Some(id) };
        if verdict == Verdict::Reserved {
            return Ok(Tried::Holds(held));
        }
        Ok(Tried::TakenBack(verdict, self.take_back(&item.identity, item.attempt, vec![held]).await))
    }

    /// Takes reservations back. What cannot be is an orphan, as if this router had died. Returns the last entry.
    pub(crate) async fn take_back(
        &self,
        identity: &Identity,
        attempt: u32,
        held: Vec<Held>,
    ) -> Option<Sequence> {
        let (mut last, mut is_whole) = (None, true);
        for Held { counter, amount, unit, tried } in held {
            let Some(tried) = tried else { continue };
            let entry = entry(EntryKind::Undo, unit, identity, attempt, &tried);
            // The ledger may find it to be over, too.
            match self.bus.add(&counter, &entry, -amount, &end_id(&tried), PATIENCE).await {
                Ok((sequence, _)) => last = Some(sequence),
                Err(error) => {
                    tracing::warn!(%error, %counter, request = %identity, "a reservation was not taken back");
                    is_whole = false;
                }
            }
        }
        last.filter(|_| is_whole)
    }

    /// Hands back what was not dispatched, without what is reserved for it.
    pub(crate) async fn let_go(&self, mut item: Item) {
        if let Some(held) = item.reserved.take() {
            self.take_back(&item.identity, item.attempt, held).await;
        }
        item.message.hand_back(Duration::ZERO).await;
    }

    /// What the ledger knows to be reserved for an attempt, once it has read up to an entry: each try with what is known
    /// of it.
    async fn open(
        &self,
        identity: &Identity,
        attempt: u32,
        counter: &Counter,
        after: Sequence,
    ) -> Option<Vec<(String, i64, Option<Try>)>> {
        let subject = self.bus.subjects().control("budget", "open");
        let question = OpenQuestion { account: identity.to_string(), attempt, others: Vec::new() };
        let payload = bytes::Bytes::from(serde_json::to_vec(&question).ok()?);
        let until = Instant::now() + LEDGER_WAIT;
        while Instant::now() < until {
            let asked = self.bus.client().request(subject.clone(), payload.clone());
            let answer = tokio::time::timeout(LEDGER_WAIT, asked).await.ok()?.ok()?;
            let answer: OpenAnswer = serde_json::from_slice(&answer.payload).ok()?;
            if answer.sequence >= after {
                let of_counter = answer.open.into_iter().filter(|(of, ..)| of == counter);
                let with_known = |(_, tried, amount)| {
                    let known = answer.tries.get(&tried).copied();
                    (tried, amount, known)
                };
                return Some(of_counter.map(with_known).collect());
            }
            tokio::time::sleep(LEDGER_LOOK).await;
        }
        None
    }

    /// Which of some requests the ledger knows something to be reserved for, and in which counter; `None` if it does not say.
    pub(crate) async fn reserved_for(&self, requests: &[(Identity, u32)]) -> Option<Vec<(String, Counter)>> {
        let subject = self.bus.subjects().control("budget", "open");
        let others = requests.iter().map(|(identity, attempt)| (identity.to_string(), *attempt)).collect();
        let question = OpenQuestion { account: String::new(), attempt: 0, others };
        let payload = serde_json::to_vec(&question).ok()?;
        let asked = self.bus.client().request(subject, payload.into());
        let answer = tokio::time::timeout(LEDGER_WAIT, asked).await.ok()?.ok()?;
        serde_json::from_slice::<OpenAnswer>(&answer.payload).ok().map(|answer| answer.others)
    }

    /// When a spent budget is looked at again.
    pub(crate) fn after_spent(&self, budget: Option<&Budget>) -> Instant {
        let now = tollgate_bus::now();
        let end = budget.and_then(|budget| budget.window(now).end);
        let left = end.and_then(|end| (end - now).to_std().ok()).unwrap_or(RETRY_SPENT);
        Instant::now() + left.min(RETRY_SPENT)
    }
}

/// A try that was made.
enum Tried {
    Holds(Held),
    /// Why, and the entry that takes it back, if that is known to be stored.
    TakenBack(Verdict, Option<Sequence>),
}

fn entry(kind: EntryKind, unit: Unit, identity: &Identity, attempt: u32, tried: &str) -> Entry {
    Entry {
        kind,
        unit,
        account: identity.to_string(),
        attempt,
        tried: Some(tried.to_owned()),
        takes: None,
        usage_sequence: None,
        corrects: None,
        limit: None,
    }
}
