//! A worker, in the order of steps of `workers/src/runner/`: claim, call, write the end, usage, acknowledge.

mod finish;
mod job;
mod waiting;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use tollgate_policy::health::Window;
use tollgate_policy::retry_budget::RetryBudget;
use tollgate_protocol::Identity;
use tollgate_protocol::job::Target;

use crate::exec::Slot;
use crate::health::Health;
use crate::net::{Proc, Process};
use crate::plan::MS;
use crate::roles::Kind;
use crate::world::{World, dispatch_stream};

pub(crate) use finish::{bury, publish_usage};
pub(crate) use waiting::requeue;

/// What somebody says who is asked about an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has it in its hands.
    Holding,
    /// It has not.
    NotMine,
}

/// An attempt.
pub type Question = (Identity, u32);

/// How often an attempt is in hand, who is to be told to end it, and whether it was told.
type Registered = (usize, Vec<Slot<()>>, bool);

/// A worker process.
pub struct Worker {
    process: Proc,
    /// What it knows of the targets.
    pub health: Health,
    /// Attempts in hand: how often, and who is to be told to end them.
    registry: RefCell<HashMap<Question, Registered>>,
    windows: RefCell<BTreeMap<Target, Window>>,
    retries: RefCell<BTreeMap<String, RetryBudget>>,
    busy: RefCell<BTreeMap<String, Rc<Cell<usize>>>>,
}

impl Worker {
    /// Starts one.
    pub fn boot(world: &Rc<World>, slot: usize) {
        let process = Process::start(world, Kind::Worker(slot));
        let worker = Rc::new(Self {
            health: Health::new(&process),
            registry: RefCell::default(),
            windows: RefCell::default(),
            retries: RefCell::default(),
            busy: RefCell::default(),
            process: Rc::clone(&process),
        });
        world.present.borrow_mut().workers.insert(process.name.clone(), Rc::downgrade(&worker));
        for provider in &world.plan.providers {
            let busy = Rc::new(Cell::new(0));
            worker.busy.borrow_mut().insert(provider.name.clone(), Rc::clone(&busy));
            let places = provider.max_in_flight as usize;
            let (name, on, room) = (provider.name.clone(), Rc::clone(&worker), Rc::clone(&busy));
            let prefix = format!("llm.dispatch.{name}");
            let pulling = Rc::clone(&process).pull(
                dispatch_stream(&name),
                "workers",
                prefix,
                move || places.saturating_sub(room.get()),
                move |message| {
                    busy.set(busy.get() + 1);
                    let (worker, busy, provider) = (Rc::clone(&on), Rc::clone(&busy), name.clone());
                    on.process.spawn(async move {
                        job::work(&worker, &provider, message).await;
                        busy.set(busy.get() - 1);
                        worker.free(&provider);
                    });
                },
            );
            process.spawn(pulling);
        }
        // The registry keeps the worker alive as long as its process.
        let keep = Rc::clone(&worker);
        process.spawn(async move {
            crate::exec::never().await;
            drop(keep);
        });
    }

    /// Says that there is a free place.
    fn free(&self, provider: &str) {
        let world = &self.process.world;
        let routers: Vec<_> = world.present.borrow().routers.values().cloned().collect();
        for router in routers {
            let provider = provider.to_owned();
            self.process.send(move |_| {
                if let Some(router) = router.upgrade() {
                    router.freed(&provider);
                }
            });
        }
    }

    fn take(self: &Rc<Self>, question: Question) -> InHand {
        self.registry.borrow_mut().entry(question.clone()).or_default().0 += 1;
        InHand { worker: Rc::clone(self), question }
    }

    /// Whether an attempt is in hand; ends it, if it is told to.
    pub fn asked(&self, question: &Question, abort: bool) -> Answer {
        let mut registry = self.registry.borrow_mut();
        let Some((_, listening, is_aborted)) = registry.get_mut(question) else { return Answer::NotMine };
        if abort {
            *is_aborted = true;
            listening.drain(..).for_each(|slot| slot.put(()));
        }
        Answer::Holding
    }
}

/// An attempt is in hand until this is dropped.
struct InHand {
    worker: Rc<Worker>,
    question: Question,
}

impl InHand {
    fn is_aborted(&self) -> bool {
        self.worker.registry.borrow().get(&self.question).is_some_and(|(_, _, is_aborted)| *is_aborted)
    }

    async fn aborted(&self) {
        if self.is_aborted() {
            return;
        }
        let slot = self.worker.process.world.exec.slot();
        if let Some((_, listening, _)) = self.worker.registry.borrow_mut().get_mut(&self.question) {
            listening.push(slot.clone());
        }
        slot.get().await;
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        let mut registry = self.worker.registry.borrow_mut();
        if let Some((count, ..)) = registry.get_mut(&self.question) {
            *count -= 1;
            if *count == 0 {
                registry.remove(&self.question);
            }
        }
    }
}

/// Asks the owner of an attempt. `None`: nobody answered.
pub async fn ask_owner(process: &Proc, owner: &str, question: &Question, abort: bool) -> Option<Answer> {
    let (owner, question) = (owner.to_owned(), question.clone());
    let asked = process
        .io(move |world| {
            let worker = world.present.borrow().workers.get(&owner).cloned();
            let Some(worker) = worker.and_then(|worker| worker.upgrade()) else { return Err(()) };
            // One that is stopped does not answer.
            Ok(world.is_running(worker.process.pid).then(|| worker.asked(&question, abort)))
        })
        .await;
    match asked {
        Some(Ok(answer)) => answer,
        // Nobody listens.
        Some(Err(())) => {
            process.sleep(250 * MS).await;
            None
        }
        None => None,
    }
}
