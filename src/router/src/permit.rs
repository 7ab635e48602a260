//! Permits to call a target that is not known to be up, in a router's hands.
//!
//! A permit goes with its message. Whatever becomes of that (it waits, ends, is taken back, goes elsewhere), a permit that
//! no dispatched message carries is given back: or nobody could call the target before its stage is over.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tollgate_policy::health::Probe;
use tollgate_protocol::job::Target;

use crate::Context;

/// How long a message in hand may keep a permit. Who is not dispatched by then waits for something.
const KEPT: Duration = Duration::from_secs(2);

/// How long a router that stops tries to give one back.
const LAST: Duration = Duration::from_secs(2);

/// A permit that was not used.
pub(crate) type Unused = (Target, Probe);

/// A permit in hand, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    of: Option<Unused>,
    since: Instant,
    back: mpsc::UnboundedSender<Unused>,
}

impl Permit {
    fn new(target: &Target, probe: Probe, back: &mpsc::UnboundedSender<Unused>) -> Self {
        Self { of: Some((target.clone(), probe)), since: Instant::now(), back: back.clone() }
    }

    /// What it permits to call.
    pub(crate) fn target(&self) -> Option<&Target> {
        self.of.as_ref().map(|(target, _)| target)
    }

    /// The stage of recovery that it is of.
    pub(crate) fn stage(&self) -> Option<u64> {
        self.of.as_ref().map(|(_, probe)| probe.stage)
    }

    /// Whether it was kept for so long that somebody else would have used it.
    pub(crate) fn is_idle(&self) -> bool {
        self.since.elapsed() >= KEPT
    }

    /// A message that is stored carries it on.
    pub(crate) fn used(mut self) {
        self.of = None;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(unused) = self.of.take() {
            // With nobody left who gives it back it ends with its stage, as if this process had died.
            let _ = self.back.send(unused);
        }
    }
}

impl Context {
    /// Takes a permit. `None`: there is none now.
    pub(crate) async fn permit(&self, target: &Target) -> Option<Permit> {
        let probe = self.health.grant(&target.provider, &target.model, tollgate_bus::now()).await?;
        Some(Permit::new(target, probe, &self.unused))
    }

    /// Gives back what was not used until `stop`, and then what is left.
    pub(crate) async fn give_back(
        &self,
        mut unused: mpsc::UnboundedReceiver<Unused>,
        stop: CancellationToken,
    ) {
        loop {
            let next = tokio::select! {
                biased;
                next = unused.recv() => next,
                () = stop.cancelled() => None,
            };
            let Some((target, probe)) = next else { return };
            tokio::select! {
                () = self.health.give_back(&target, probe, tollgate_bus::now()) => {}
                // A bucket that does not answer then keeps no process from ending.
                () = over(&stop) => return,
            }
        }
    }
}

async fn over(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(LAST).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_comes_back_unless_a_message_carries_it_on() {
        let (back, mut unused) = mpsc::unbounded_channel();
        let target = Target { provider: "p".into(), model: "m".into() };
        let permit = Permit::new(&target, Probe { stage: 7 }, &back);
        assert_eq!((permit.target(), permit.stage(), permit.is_idle()), (Some(&target), Some(7), false));
        permit.used();
        assert!(unused.try_recv().is_err());
        drop(Permit::new(&target, Probe { stage: 8 }, &back));
        assert_eq!(unused.try_recv(), Ok((target, Probe { stage: 8 })));
    }
}
