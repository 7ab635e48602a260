//! Choosing a target: what the configuration and the shared health say, put before the policy.

use tollgate_policy::catalog::known;
use tollgate_policy::health::Availability;
use tollgate_policy::hot::Hot;
use tollgate_policy::route::{Route, route};
use tollgate_protocol::job::{Job, Target};
use tollgate_protocol::response::Status;
use tollgate_protocol::{ErrorCode, Problem};

use crate::Context;

impl Context {
    /// Whether a target can be called now; `None` if it is not configured.
    pub(crate) fn availability(&self, hot: &Hot, target: &Target) -> Option<Availability> {
        hot.catalog
            .prices
            .contains_key(target)
            .then(|| self.health.availability(&target.provider, &target.model, tollgate_bus::now()))
    }

    /// Where a request goes now. One whose targets are all gone from the configuration gets those that the model it
    /// asked for has today; one whose team is gone goes nowhere.
    pub(crate) fn route(&self, hot: &Hot, job: &mut Job) -> Result<Route, (Status, Problem)> {
        known(&hot.teams, &job.identity.team).map_err(|problem| (Status::Rejected, problem))?;
        let availability = |target: &Target| self.availability(hot, target);
        let found = route(job, availability);
        if found != Route::Gone {
            return Ok(found);
        }
        let team = &job.identity.team;
        let resolved =
            hot.catalog.resolve_all(&hot.teams, team, &job.requested_model, &[]).map_err(|_| {
                let message = "no target of the model is configured any more";
                (Status::Failed, Problem::at(ErrorCode::UnknownModel, "body.model", message))
            })?;
        (job.targets, job.typed) = resolved;
        job.target = 0;
        Ok(route(job, availability))
    }
}
