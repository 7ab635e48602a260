//! Permits to call a target that is not known to be up, in a router's hands. As `src/router/src/permit.rs`.

use std::rc::{Rc, Weak};

use tollgate_model::Micros;
use tollgate_policy::health::{Availability, Probe};
use tollgate_protocol::job::Target;

use super::{Item, Router};
use crate::plan::SECOND;

const KEPT: Micros = 2 * SECOND;

/// A permit in hand, given back when it is dropped.
pub struct Permit {
    of: Option<(Target, Probe)>,
    since: Micros,
    router: Weak<Router>,
}

impl Permit {
    /// What it permits to call.
    pub(super) fn target(&self) -> Option<&Target> {
        self.of.as_ref().map(|(target, _)| target)
    }

    /// The stage of recovery that it is of.
    pub(super) fn stage(&self) -> Option<u64> {
        self.of.as_ref().map(|(_, probe)| probe.stage)
    }

    /// Whether it was kept for so long that somebody else would have used it.
    pub(super) fn is_idle(&self) -> bool {
        let now = self.router.upgrade().map(|router| router.process.world.exec.now());
        now.is_some_and(|now| now >= self.since + KEPT)
    }

    /// A message that is stored carries it on.
    pub(super) fn used(mut self) {
        self.of = None;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let (Some((target, probe)), Some(router)) = (self.of.take(), self.router.upgrade()) {
            let process = Rc::clone(&router.process);
            process.spawn(async move { router.health.give_back(&target, probe).await });
        }
    }
}

impl Item {
    /// Takes the permit that it goes with, or gives it back while it waits.
    pub(super) fn set_permit(&mut self, permit: Option<Permit>) {
        if let Some(router) = self.message.permit.as_ref().and_then(|permit| permit.router.upgrade()) {
            router.process.world.checks.borrow_mut().saw("permit given back");
        }
        self.job.probe = permit.as_ref().and_then(Permit::stage);
        self.message.permit = permit;
    }
}

impl Router {
    /// Takes a permit. `None`: there is none now.
    pub(super) async fn permit(self: &Rc<Self>, target: &Target) -> Option<Permit> {
        let probe = self.health.grant(target).await?;
        let since = self.process.world.exec.now();
        Some(Permit { of: Some((target.clone(), probe)), since, router: Rc::downgrade(self) })
    }

    /// Gives back what was kept for so long that somebody else would have used it.
    pub(super) fn give_back_idle(&self) {
        let idle = |item: &Item| item.message.permit.as_ref().is_some_and(Permit::is_idle);
        let mut queue = self.queue.borrow_mut();
        // Teams come in any order, and a seed is always to do the same.
        let mut idle: Vec<_> = queue.iter_mut().map(|(_, item)| item).filter(|item| idle(item)).collect();
        idle.sort_by_key(|item| item.job.sequence);
        idle.into_iter().for_each(|item| item.set_permit(None));
    }

    /// Whether one of the calls of a recovery can be made now. It may have given its permit back while it waited.
    pub(super) async fn may_probe(self: &Rc<Self>, item: &mut Item) -> bool {
        if item.message.permit.is_some() || self.availability(&item.target) == Some(Availability::Up) {
            return true;
        }
        let permit = self.permit(&item.target).await;
        item.set_permit(permit);
        item.message.permit.is_some()
    }
}
