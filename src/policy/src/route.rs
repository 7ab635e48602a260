//! Where a request goes now, of all targets that it may go to.

use std::ops::Range;

use tollgate_protocol::job::{Job, Target};
use tollgate_protocol::response::Attempt;

use crate::health::Availability;
use crate::retry::{Standing, is_spent};

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To this target.
    To(usize),
    /// To this target, if it may be one of the calls that show whether it is up again.
    Probe(usize),
    /// Nowhere now: it waits until a target of it is up.
    Hold,
    /// Nowhere: none of its targets is configured any more.
    Gone,
}

/// Chooses a target for a request: the one it is addressed to if that is up, else the first that is; else the first
/// that may be probed. `availability` of a target that is not configured is `None`.
pub fn route(job: &Job, availability: impl Fn(&Target) -> Option<Availability>) -> Route {
    let order = std::iter::once(job.target).chain(job.candidates());
    let known: Vec<(usize, Availability)> = order
        .filter(|index| job.candidates().contains(index))
        .filter_map(|index| Some((index, availability(job.targets.get(index)?)?)))
        .collect();
    if known.is_empty() {
        return Route::Gone;
    }
    let open: Vec<_> =
        known.iter().copied().filter(|(index, _)| !spent(&job.history, &job.targets[*index])).collect();
    // What has failed everywhere for good was to end before; rather once more than never.
    let open = if open.is_empty() { known } else { open };
    let first = |wanted: fn(&Availability) -> bool| {
        open.iter().find(|(_, available)| wanted(available)).map(|(index, _)| *index)
    };
    match (
        first(|available| matches!(available, Availability::Up)),
        first(|available| matches!(available, Availability::Probe)),
    ) {
        (Some(index), _) => Route::To(index),
        (None, Some(index)) => Route::Probe(index),
        (None, None) => Route::Hold,
    }
}

/// The targets that a held request waits for.
pub fn awaited(job: &Job) -> Vec<Target> {
    let candidates: Range<usize> = job.candidates();
    let all: Vec<&Target> = candidates.filter_map(|index| job.targets.get(index)).collect();
    let open: Vec<Target> =
        all.iter().filter(|target| !spent(&job.history, target)).map(|target| (*target).clone()).collect();
    if open.is_empty() { all.into_iter().cloned().collect() } else { open }
}

/// Whether a held request waits for a target that is configured. Of one that does not, the targets cannot say when it may
/// go: it is looked at again after a while.
pub fn awaits_known(job: &Job, is_known: impl Fn(&Target) -> bool) -> bool {
    awaited(job).iter().any(is_known)
}

/// Whether a request may still go to the target that was chosen for it, as that stands now. A probe has its permit, or takes
/// one when it goes: while it waits for something of its own, others make better use of it.
pub fn still_goes(available: Option<Availability>, is_probe: bool, has_permit: bool) -> bool {
    match available {
        Some(Availability::Up) => true,
        Some(Availability::Probe) => is_probe,
        Some(Availability::Down { .. }) | None => has_permit,
    }
}

fn spent(history: &[Attempt], target: &Target) -> bool {
    is_spent(history, &Standing { provider: &target.provider, model: &target.model, is_up: true })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::tests::{at, job};
    use crate::failure::Class;
    use crate::health::Why;
    use tollgate_protocol::response::Outcome;
    use tollgate_protocol::{NanoUsd, TokenUsage};

    const DOWN: Option<Availability> = Some(Availability::Down { why: Why::Paused, until: None });

    fn target(model: &str) -> Target {
        Target { provider: "p".into(), model: model.into() }
    }

    /// What it waits for is gone, what it does not wait for is paused: its release and its choice see different targets.
    #[test]
    fn a_request_that_awaits_only_what_is_gone_is_looked_at_after_a_while() {
        let mut job = job(vec![target("y"), target("x")]);
        job.history = vec![Attempt {
            provider: "p".into(),
            model: "y".into(),
            number: 1,
            started_at: at(0),
            duration_ms: 5,
            outcome: Outcome::Failed,
            code: Some(Class::UnknownModel.code()),
            cost_nano_usd: NanoUsd::ZERO,
            usage: TokenUsage::default(),
            price_version: String::new(),
            estimated: false,
            served_model: None,
            excused: false,
        }];
        assert_eq!(awaited(&job), [target("x")]);
        let before = |of: &Target| (of.model == "x" || of.model == "y").then_some(DOWN).flatten();
        let after = |of: &Target| (of.model == "y").then_some(DOWN).flatten();
        assert_eq!((route(&job, before), route(&job, after)), (Route::Hold, Route::Hold));
        assert!(awaits_known(&job, |of| before(of).is_some()), "its release sees what the choice sees");
        assert!(!awaits_known(&job, |of| after(of).is_some()));
    }

    #[test]
    fn a_probe_goes_with_its_permit_or_where_one_is_to_be_had() {
        let goes = |available| {
            [(false, false), (true, false), (true, true)]
                .map(|(is_probe, has)| still_goes(available, is_probe, has))
        };
        assert_eq!(goes(Some(Availability::Up)), [true; 3]);
        assert_eq!(goes(Some(Availability::Probe)), [false, true, true]);
        assert_eq!(goes(DOWN), [false, false, true], "all permits of the stage are given, one of them to it");
        assert_eq!(goes(None), [false, false, true]);
    }
}
