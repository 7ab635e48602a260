//! The health of all targets, as one process knows it: documents that are changed by compare-and-swap.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use tollgate_policy::health::{Availability, Probe, ProviderHealth, TargetHealth, availability};
use tollgate_policy::retry::Standing;
use tollgate_protocol::job::Target;
use tollgate_protocol::{ErrorCode, Timestamp};

use crate::net::Proc;
use crate::world::{Documents, World};

const TRIES_MAX: usize = 8;

/// What a process knows.
pub struct Health {
    process: Proc,
    known: RefCell<Documents>,
}

/// How a permitted call ended.
#[derive(Clone, Copy)]
pub struct Ended {
    /// Whether the target answered.
    pub is_answered: bool,
    /// What it failed with.
    pub code: Option<ErrorCode>,
    /// The provider's places.
    pub max_in_flight: u32,
}

impl Health {
    /// What is known when it starts.
    pub fn new(process: &Proc) -> Self {
        let known = RefCell::new(process.world.documents.borrow().clone());
        Self { process: Rc::clone(process), known }
    }

    /// A document has changed.
    pub fn note(&self, documents: &Documents) {
        let mut known = self.known.borrow_mut();
        for (name, (health, revision)) in &documents.providers {
            if known.providers.get(name).is_none_or(|(_, last)| last < revision) {
                known.providers.insert(name.clone(), (health.clone(), *revision));
            }
        }
        for (target, (health, revision)) in &documents.targets {
            if known.targets.get(target).is_none_or(|(_, last)| last < revision) {
                known.targets.insert(target.clone(), (health.clone(), *revision));
            }
        }
    }

    /// Whether a target can be called.
    pub fn availability(&self, target: &Target, now: Timestamp) -> Availability {
        let known = self.known.borrow();
        let provider = known.providers.get(&target.provider).map(|(health, _)| health);
        availability(provider, known.targets.get(target).map(|(health, _)| health), now)
    }

    /// Whether a call may be made now.
    pub fn may_call(&self, target: &Target, probe: Option<Probe>, now: Timestamp) -> bool {
        if self.availability(target, now) == Availability::Up {
            return true;
        }
        let known = self.known.borrow();
        let provider = known.providers.get(&target.provider).map(|(health, _)| health);
        let of = known.targets.get(target).map(|(health, _)| health);
        availability(provider, None, now) == Availability::Up
            && probe.is_some_and(|probe| of.is_some_and(|health| health.is_current(probe)))
    }

    /// Targets as they stand now.
    pub fn standings<'a>(&self, targets: &'a [Target], now: Timestamp) -> Vec<Standing<'a>> {
        let standing = |target: &'a Target| Standing {
            provider: &target.provider,
            model: &target.model,
            is_up: self.availability(target, now) == Availability::Up,
        };
        targets.iter().map(standing).collect()
    }

    /// Takes a permit.
    pub async fn grant(&self, target: &Target) -> Option<Probe> {
        let mut permit = None;
        let now = self.process.now();
        let change = |health: &TargetHealth| {
            let (next, probe) = health.grant(now)?;
            permit = Some(probe);
            Some(next)
        };
        let is_written = self.change(target, change).await;
        permit.filter(|_| is_written)
    }

    /// A permit was not used.
    pub async fn give_back(&self, target: &Target, probe: Probe) {
        self.change(target, |health| health.give_back(probe)).await;
    }

    /// A permitted call has ended.
    pub async fn probed(&self, target: &Target, probe: Probe, ended: Ended) {
        let (now, chance) = (self.process.now(), self.process.chance());
        let Ended { is_answered, code, max_in_flight } = ended;
        self.change(target, |health| health.probed(probe, is_answered, code, now, chance, max_in_flight))
            .await;
    }

    /// Too many calls failed.
    pub async fn trip(&self, target: &Target, code: ErrorCode) {
        let (now, chance) = (self.process.now(), self.process.chance());
        self.change(target, |health| health.trip(code, now, chance)).await;
    }

    async fn change(
        &self,
        target: &Target,
        mut change: impl FnMut(&TargetHealth) -> Option<TargetHealth>,
    ) -> bool {
        for _ in 0..TRIES_MAX {
            let known = self.known.borrow().targets.get(target).cloned();
            let new = || (TargetHealth::unknown(&target.provider, &target.model, self.process.now()), 0);
            let (health, revision) = known.unwrap_or_else(new);
            let Some(next) = change(&health) else { return false };
            let (key, written) = (target.clone(), next.clone());
            let swapped = self.process.io(move |world| {
                let mut documents = world.documents.borrow_mut();
                let last = documents.targets.get(&key).map_or(0, |(_, last)| *last);
                if last == revision {
                    documents.targets.insert(key, (written, revision + 1));
                }
                let all = documents.clone();
                drop(documents);
                tell(world);
                (last == revision, all)
            });
            let Some((is_written, documents)) = swapped.await else { return false };
            self.note(&documents);
            if is_written {
                return true;
            }
        }
        false
    }

    /// A provider asked not to be called before `until`.
    pub async fn throttle(&self, provider: &str, until: Timestamp) {
        for _ in 0..TRIES_MAX {
            let known = self.known.borrow().providers.get(provider).cloned();
            let (health, revision) = known.unwrap_or_else(|| (ProviderHealth::default(), 0));
            let Some(next) = health.throttle(until) else { return };
            let key = provider.to_owned();
            let swapped = self.process.io(move |world| {
                let mut documents = world.documents.borrow_mut();
                let last = documents.providers.get(&key).map_or(0, |(_, last)| *last);
                if last == revision {
                    documents.providers.insert(key, (next, revision + 1));
                }
                let all = documents.clone();
                drop(documents);
                tell(world);
                (last == revision, all)
            });
            let Some((is_written, documents)) = swapped.await else { return };
            self.note(&documents);
            if is_written {
                return;
            }
        }
    }
}

/// Everybody who watches the documents hears of a change, each in its time.
pub fn tell(world: &Rc<World>) {
    let present = world.present.borrow();
    for router in present.routers.values() {
        let router = Weak::clone(router);
        let there = Rc::clone(world);
        world.exec.after(world.latency(), move || {
            if let Some(router) = router.upgrade() {
                router.told(&there.documents.borrow());
            }
        });
    }
    for worker in present.workers.values() {
        let worker = Weak::clone(worker);
        let there = Rc::clone(world);
        world.exec.after(world.latency(), move || {
            if let Some(worker) = worker.upgrade() {
                worker.health.note(&there.documents.borrow());
            }
        });
    }
}
