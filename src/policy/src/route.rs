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

fn spent(history: &[Attempt], target: &Target) -> bool {
    is_spent(history, &Standing { provider: &target.provider, model: &target.model, is_up: true })
}
