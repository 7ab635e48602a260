//! Reserving in budgets: the last thing before a request is dispatched. As `src/router/src/budget.rs`.

use std::rc::Rc;

use tollgate_model::{Ack, Micros, Publish};
use tollgate_policy::budget::{Budget, Orphan, Reserve, Verdict, is_full, is_spent, judge, orphan};
use tollgate_protocol::budget::{Counter, Entry, EntryKind, OpenAnswer, OpenQuestion, Spent, Unit, end_id};
use tollgate_protocol::{Identity, Sequence, Timestamp};

use super::{Item, Router};
use crate::bug::Bug;
use crate::net::{NORMAL, NotStored, Proc, subjects};
use crate::plan::{MS, SECOND};
use crate::world::Body;

const RETRY: Micros = 200 * MS;
const RETRY_SPENT: Micros = 5 * SECOND;
const LEDGER_WAIT: Micros = SECOND;
const LEDGER_LOOK: Micros = 50 * MS;
const LOOKS_MAX: u32 = 8;
const LOOK_AGAIN: Micros = 15 * MS;

/// A reservation that holds.
#[derive(Clone, Debug)]
pub(super) struct Reserved {
    counter: Counter,
    amount: i64,
    tried: Option<String>,
}

impl Reserved {
    /// It is not taken back any more.
    pub(super) fn keep(&mut self) {
        self.tried = None;
    }
}

/// What a try to reserve came to.
pub(super) enum Reserving {
    /// It is reserved.
    Done,
    /// This budget has no room now.
    Wait(usize, Micros),
    /// Of this limit it is not known.
    Unknown(usize, Micros),
    /// Its turn comes then, and what is reserved for it is kept.
    Turn(Micros),
    /// This limit has no turn left before then.
    NoTurn(usize, Micros),
    /// This budget is spent; so much of it.
    Spent(usize, i64),
    /// This budget never has room for so much.
    TooSmall(usize, i64),
}

enum Tried {
    Holds(Reserved),
    TakenBack(Verdict, Option<Sequence>),
}

/// Adds to a counter. Repeated under the same id it is added once; then the total is read back.
pub(crate) async fn add(
    process: &Proc,
    counter: &Counter,
    entry: Entry,
    amount: i64,
    id: &str,
) -> Result<(Sequence, i64), NotStored> {
    let ack = publish_entry(process, counter, entry, amount, id).await?;
    let sequence = ack.sequence;
    match ack.total {
        Some(total) => Ok((sequence, total)),
        None => Ok((sequence, total(process, counter).await?.unwrap_or(amount))),
    }
}

async fn publish_entry(
    process: &Proc,
    counter: &Counter,
    entry: Entry,
    amount: i64,
    id: &str,
) -> Result<Ack, NotStored> {
    let subject = subjects().budget(counter);
    let budget = process.world.plan.budgets.named(&counter.budget);
    let unit = budget.and_then(|budget| budget.measure.unit()).unwrap_or(entry.unit);
    let entry = Entry { unit, ..entry };
    let publish =
        Publish { increment: Some(amount), ..Publish::new(&*subject, Body::Entry(entry.into())).id(id) };
    process.publish(publish, NORMAL).await
}

async fn total(process: &Proc, counter: &Counter) -> Result<Option<i64>, NotStored> {
    let subject = subjects().budget(counter);
    let read = process.io(move |world| world.server.borrow().last("LLM_BUDGET", &subject)?.total);
    read.await.ok_or(NotStored::NoAnswer)
}

fn entry(kind: EntryKind, identity: &Identity, attempt: u32, tried: &str) -> Entry {
    Entry {
        // That of its counter, once it is added.
        unit: Unit::NanoUsd,
        takes: None,
        corrects: None,
        kind,
        account: identity.to_string(),
        attempt,
        tried: Some(tried.to_owned()),
        usage_sequence: None,
        limit: None,
    }
}

impl Router {
    fn spent(&self, counter: &Counter) -> Option<Spent> {
        self.spent.borrow().spent.get(counter).cloned()
    }

    fn is_open(&self, budget: &str) -> bool {
        self.spent.borrow().spent.keys().any(|counter| counter.budget == budget)
    }

    /// Reserves what a request needs, in every budget or in none, and then waits for its turn.
    pub(super) async fn reserve(self: &Rc<Self>, item: &mut Item) -> Reserving {
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
        let now = self.now();
        let budgets = self.process.world.plan.budgets.clone();
        let mut held = Vec::new();
        for need in item.amounts.clone() {
            let settled = budgets.0.get(need.budget).filter(|budget| budget.measure.unit().is_some());
            let Some(budget) = settled else { continue };
            let refused = match self.reserve_in(budget, need.amount, item, now).await {
                Ok(reserved) => {
                    held.push(reserved);
                    continue;
                }
                Err(Verdict::Spent) => {
                    let spent = self.spent(&budget.counter(now)).map_or(0, |spent| spent.spent_nano_usd);
                    Reserving::Spent(need.budget, spent)
                }
                Err(Verdict::TooSmall) => Reserving::TooSmall(need.budget, need.amount),
                Err(_) => Reserving::Wait(need.budget, self.process.world.exec.now() + RETRY),
            };
            self.take_back(&item.job.identity, item.attempt, held).await;
            return refused;
        }
        item.reserved = Some(held);
        Reserving::Done
    }

    async fn reserve_in(
        &self,
        budget: &Budget,
        amount: i64,
        item: &Item,
        now: Timestamp,
    ) -> Result<Reserved, Verdict> {
        if !self.is_open(&budget.name) {
            return Err(Verdict::Wait);
        }
        let counter = budget.counter(now);
        if budget.reserve == Reserve::Strict && amount > budget.limit {
            return Err(Verdict::TooSmall);
        }
        if self.spent(&counter).is_some_and(|spent| is_spent(budget, amount, &spent)) {
            return Err(Verdict::Spent);
        }
        let (verdict, taken_back) = match self.try_to_add(budget, &counter, amount, item).await? {
            Tried::Holds(held) => return Ok(held),
            Tried::TakenBack(Verdict::Less(left), _) => {
                return match self.try_to_add(budget, &counter, left, item).await? {
                    Tried::Holds(held) => Ok(held),
                    Tried::TakenBack(..) => Err(Verdict::Wait),
                };
            }
            Tried::TakenBack(verdict @ (Verdict::TooSmall | Verdict::Spent), _) => return Err(verdict),
            Tried::TakenBack(verdict, None) => return Err(verdict),
            Tried::TakenBack(verdict, Some(taken_back)) => (verdict, taken_back),
        };
        let identity = &item.job.identity;
        let answer = self.open(identity, item.attempt, taken_back).await;
        let tries = answer.as_ref().map(|answer| answer.tries.clone()).unwrap_or_default();
        let of_counter = answer.into_iter().flat_map(|answer| answer.open).filter(|(of, ..)| *of == counter);
        let open: Vec<(String, i64)> = of_counter.map(|(_, tried, amount)| (tried, amount)).collect();
        let orphan = |tried: &String| orphan(tries.get(tried), now);
        let (refused, open): (Vec<_>, Vec<_>) =
            open.into_iter().partition(|(tried, _)| orphan(tried) == Orphan::Refused);
        if !refused.is_empty() {
            let ended = refused.into_iter().map(|(tried, amount)| Reserved {
                counter: counter.clone(),
                amount,
                tried: Some(tried),
            });
            self.take_back(identity, item.attempt, ended.collect()).await;
        }
        let sum = |open: &[(String, i64)]| open.iter().map(|(_, amount)| *amount).sum::<i64>();
        let held: Vec<_> = open.iter().filter(|(tried, _)| orphan(tried) == Orphan::Holds).cloned().collect();
        let is_enough = !held.is_empty() && sum(&held) >= amount;
        let open = if is_enough { held } else { open };
        // Only what then holds: what does not is left to whoever takes it back.
        let more = (amount - sum(&open)).max(0);
        if open.is_empty() || !(is_enough || self.fits(&counter, more, budget.limit).await) {
            return Err(verdict);
        }
        let (mut taken, mut after) = (0_i64, None);
        for (tried, reserved) in open {
            if self.process.world.has(Bug::TriesNotTakenOver) {
                let now_total = total(&self.process, &counter).await.ok().flatten();
                (taken, after) = (taken + reserved, now_total);
            } else if let Some(now_total) = self.take_over(&counter, &tried, item).await? {
                (taken, after) = (taken + reserved, Some(now_total));
            }
        }
        let Some(after) = after.filter(|_| taken > 0) else { return Err(verdict) };
        let missing = amount - taken;
        if missing <= 0 {
            let holds = is_enough || after <= budget.limit || self.fits(&counter, 0, budget.limit).await;
            return if holds { Ok(Reserved { counter, amount: 0, tried: None }) } else { Err(verdict) };
        }
        match self.try_to_add(budget, &counter, missing, item).await? {
            Tried::Holds(held) => Ok(held),
            Tried::TakenBack(..) => Err(verdict),
        }
    }

    /// Whether nothing changes by trying.
    pub(super) fn is_full(&self, budget: &Budget) -> bool {
        self.spent(&budget.counter(self.now())).is_some_and(|spent| is_full(budget, &spent))
    }

    /// Whether a counter has room for so much more at some moment.
    async fn fits(&self, counter: &Counter, more: i64, limit: i64) -> bool {
        for look in 0..LOOKS_MAX {
            if look > 0 {
                self.process.sleep(LOOK_AGAIN).await;
            }
            let total = total(&self.process, counter).await.ok().flatten();
            if total.is_some_and(|total| total + more <= limit) {
                return true;
            }
        }
        false
    }

    /// Makes another router's try one's own, so that it is not taken back. Returns the counter's total; `None` if the try
    /// was ended before.
    async fn take_over(&self, counter: &Counter, tried: &str, item: &Item) -> Result<Option<i64>, Verdict> {
        let id = format!("take-{}", self.process.world.number());
        let mut take = entry(EntryKind::Take, &item.job.identity, item.attempt, &id);
        take.takes = Some(tried.to_owned());
        let added = publish_entry(&self.process, counter, take, 0, &end_id(tried)).await;
        added.map(|ack| ack.total).map_err(|_| Verdict::Wait)
    }

    /// Adds, and takes back what does not hold.
    async fn try_to_add(
        &self,
        budget: &Budget,
        counter: &Counter,
        amount: i64,
        item: &Item,
    ) -> Result<Tried, Verdict> {
        let id = format!("try-{}", self.process.world.number());
        let identity = &item.job.identity;
        let mut reserve = entry(EntryKind::Reserve, identity, item.attempt, &id);
        reserve.limit = Some(budget.limit);
        let Ok((_, total)) = add(&self.process, counter, reserve, amount, &id).await else {
            return Err(Verdict::Wait);
        };
        let verdict = judge(budget, amount, total, self.spent(counter).as_ref());
        let held = Reserved { counter: counter.clone(), amount, tried: Some(id) };
        if verdict == Verdict::Reserved {
            return Ok(Tried::Holds(held));
        }
        Ok(Tried::TakenBack(verdict, self.take_back(identity, item.attempt, vec![held]).await))
    }

    /// Takes reservations back. What cannot be is an orphan. Returns the last entry.
    pub(super) async fn take_back(
        &self,
        identity: &Identity,
        attempt: u32,
        held: Vec<Reserved>,
    ) -> Option<Sequence> {
        let (mut last, mut is_whole) = (None, true);
        for Reserved { counter, amount, tried } in held {
            let Some(tried) = tried else { continue };
            let undo = entry(EntryKind::Undo, identity, attempt, &tried);
            match add(&self.process, &counter, undo, -amount, &end_id(&tried)).await {
                Ok((sequence, _)) => last = Some(sequence),
                Err(_) => is_whole = false,
            }
        }
        last.filter(|_| is_whole)
    }

    /// What the ledger knows to be reserved for an attempt, once it has read up to an entry.
    async fn open(&self, identity: &Identity, attempt: u32, after: Sequence) -> Option<OpenAnswer> {
        let until = self.process.world.exec.now() + LEDGER_WAIT;
        while self.process.world.exec.now() < until {
            let question = OpenQuestion { account: identity.to_string(), attempt, others: Vec::new() };
            let asked = self.process.io(move |world| {
                let ledger = world.present.borrow().ledger.clone()?.upgrade()?;
                ledger.answer(&question)
            });
            let answer = asked.await??;
            if answer.sequence >= after {
                return Some(answer);
            }
            self.process.sleep(LEDGER_LOOK).await;
        }
        None
    }

    /// When a spent budget is looked at again.
    pub(super) fn after_spent(&self, budget: usize) -> Micros {
        let now = self.now();
        let end = self.process.world.plan.budgets.0.get(budget).and_then(|budget| budget.window(now).end);
        let left =
            end.and_then(|end| u64::try_from((end - now).num_microseconds()?).ok()).unwrap_or(RETRY_SPENT);
        self.process.world.exec.now() + left.min(RETRY_SPENT)
    }
}
