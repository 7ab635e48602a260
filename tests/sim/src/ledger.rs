//! The ledger, as far as it writes: it settles budgets, and publishes the usage of requests that no call ended. In the
//! order of steps of `src/ledger/src/run/`. Its book is on disk: what is read is stored in one transaction.

pub mod book;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use tollgate_policy::budget::{Budgets, Measure};
use tollgate_protocol::budget::{Counter, Entry, EntryKind, OpenAnswer, OpenQuestion, Unit};
use tollgate_protocol::usage::{Kind, UsageEvent};

use crate::net::{Proc, Process, subjects};
use crate::plan::{MS, SECOND};
use crate::roles;
use crate::router::add;
use crate::worker::publish_usage;
use crate::world::{Body, World};
use book::{Due, StoredEntry};

const BATCH: usize = 100;
const LOOK_MS: u64 = 60;

/// The ledger's process.
pub struct Ledger {
    process: Proc,
    changed: RefCell<BTreeSet<Counter>>,
}

impl Ledger {
    /// Starts it.
    pub fn boot(world: &Rc<World>) {
        let process = Process::start(world, roles::Kind::Ledger);
        world.book.borrow_mut().restart();
        let ledger = Rc::new(Self { process: Rc::clone(&process), changed: RefCell::default() });
        world.present.borrow_mut().ledger = Some(Rc::downgrade(&ledger));
        let on = Rc::clone(&ledger);
        let unpaid = move |message: crate::net::Held| {
            let process = Rc::clone(&on.process);
            on.process.spawn(async move {
                let event = match &message.body {
                    Body::Answer(_, answer) => answer.unpaid.clone(),
                    _ => None,
                };
                let is_done = match event {
                    Some(event) => publish_usage(&process, event).await.is_ok(),
                    None => true,
                };
                if is_done { message.ack().await } else { message.hand_back(SECOND).await }
            });
        };
        let pulling =
            Rc::clone(&process).pull("LLM_RECORD".into(), "unpaid", "llm.res".into(), || 16, unpaid);
        process.spawn(pulling);
        process.spawn(async move { ledger.follow().await });
    }

    /// What is reserved for a request and not over; nothing, if this process does not answer.
    pub fn answer(&self, question: &OpenQuestion) -> Option<OpenAnswer> {
        let world = &self.process.world;
        world.is_running(self.process.pid).then(|| world.book.borrow().answer(question))
    }

    async fn follow(self: Rc<Self>) {
        let world = Rc::clone(&self.process.world);
        if world.plan.budgets.is_empty() {
            return;
        }
        // It writes once it has read everything, its own entries of before among it.
        let (mut has_read, mut was_active) = (false, false);
        loop {
            self.process.sleep(LOOK_MS * MS).await;
            let (entries_at, usage_at) = world.book.borrow().cursors();
            let read = self.process.io(move |world| {
                let server = world.server.borrow();
                let entries = server.scan("LLM_BUDGET", ">", entries_at + 1, BATCH);
                let usage = server.scan("LLM_USAGE", ">", usage_at + 1, BATCH);
                (entries, usage)
            });
            let Some((entries, usage)) = read.await else { continue };
            has_read |= entries.len() < BATCH && usage.len() < BATCH;
            let entries: Vec<StoredEntry> = entries.into_iter().filter_map(StoredEntry::read).collect();
            let usage: Vec<_> = usage
                .into_iter()
                .filter_map(|stored| match stored.payload {
                    Body::Usage(event) => Some((stored.sequence, event)),
                    _ => None,
                })
                .collect();
            let (due, changed) = world.book.borrow_mut().read(&entries, &usage);
            self.changed.borrow_mut().extend(changed);
            if has_read {
                let due = if was_active {
                    let again = world.book.borrow_mut().due_again();
                    due.into_iter().chain(again).collect()
                } else {
                    due.iter().for_each(|due| world.book.borrow_mut().not_mine(due));
                    self.changed.borrow_mut().extend(world.book.borrow().counters());
                    world.book.borrow_mut().all_due()
                };
                was_active = true;
                self.write(due);
                self.open_budgets().await;
                self.tell().await;
            } else {
                due.iter().for_each(|due| world.book.borrow_mut().not_mine(due));
            }
        }
    }

    fn write(self: &Rc<Self>, due: Vec<Due>) {
        for due in due {
            let ledger = Rc::clone(self);
            self.process.spawn(async move {
                let entry = Entry {
                    kind: EntryKind::Settle,
                    account: due.account.clone(),
                    attempt: due.attempt,
                    tried: due.tried.clone(),
                    takes: None,
                    corrects: None,
                    unit: Unit::NanoUsd,
                    usage_sequence: None,
                    limit: None,
                };
                if add(&ledger.process, &due.counter, entry, due.amount, &due.id).await.is_err() {
                    ledger.process.world.book.borrow_mut().failed(&due);
                }
            });
        }
    }

    /// Tells what is spent.
    async fn tell(&self) {
        let changed = std::mem::take(&mut *self.changed.borrow_mut());
        if changed.is_empty() {
            return;
        }
        let spent: BTreeMap<_, _> = {
            let book = self.process.world.book.borrow();
            changed.iter().map(|counter| (counter.clone(), book.spent(counter))).collect()
        };
        let told = self.process.io(move |world| {
            world.documents.borrow_mut().spent.extend(spent.clone());
            crate::health::tell(world);
        });
        if told.await.is_none() {
            self.changed.borrow_mut().extend(changed);
        }
    }

    /// Begins the counters of budgets that are new with what was spent before.
    async fn open_budgets(&self) {
        let unopened = self.process.world.book.borrow().unopened();
        for name in unopened {
            let budgets = self.process.world.plan.budgets.clone();
            let Some(budget) = budgets.named(&name) else { continue };
            let (_, up_to) = self.process.world.book.borrow().cursors();
            let (counter, start) =
                (budget.counter(self.process.now()), budget.window(self.process.now()).start);
            let only = Budgets([budget.clone()].into());
            let events = self
                .process
                .io(move |world| world.server.borrow().scan("LLM_USAGE", ">", 1, usize::MAX))
                .await;
            let mut costs: BTreeMap<String, (Kind, i64)> = BTreeMap::new();
            for stored in events.unwrap_or_default() {
                let Body::Usage(event) = &stored.payload else { continue };
                let is_before = start.is_some_and(|start| event.time < start);
                if stored.sequence > up_to || is_before || only.of_event(event).next().is_none() {
                    continue;
                }
                let known = costs.get(&event.counted_id()).map(|(kind, _)| *kind);
                if known.is_none() || known == Some(Kind::Lost) && event.kind == Kind::Attempt {
                    let amount = match budget.measure {
                        Measure::Money => event.cost_nano_usd.0,
                        Measure::Tokens => i64::try_from(event.usage.total_tokens()).unwrap_or(i64::MAX),
                        Measure::InFlight | Measure::Rate | Measure::Repeats => 0,
                    };
                    costs.insert(event.counted_id(), (event.kind, amount));
                }
            }
            let amount = costs.values().map(|(_, cost)| *cost).sum();
            let entry = Entry {
                kind: EntryKind::Open,
                account: String::new(),
                attempt: 0,
                tried: None,
                takes: None,
                corrects: None,
                unit: Unit::NanoUsd,
                usage_sequence: Some(up_to),
                limit: None,
            };
            let id = format!("open/{counter}");
            // Read back, or tried again.
            let _ = add(&self.process, &counter, entry, amount, &id).await;
        }
    }
}

/// The counter of a subject.
pub fn counter_of(subject: &str) -> Option<Counter> {
    subjects().parse_budget(subject)
}

/// Two events of one call: whether the second one counts.
pub fn beats(known: &UsageEvent, event: &UsageEvent) -> bool {
    known.kind == Kind::Lost && event.kind == Kind::Attempt
}
