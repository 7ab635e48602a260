//! Choosing a target: what the configuration and the shared health say, put before the policy.

use tollgate_policy::health::Availability;
use tollgate_policy::route::{Route, route};
use tollgate_protocol::job::{Job, Target};
use tollgate_protocol::{ErrorCode, Problem};

use crate::Context;

impl Context {
    /// Whether a target can be called now; `None` if it is not configured.
    pub(crate) fn availability(&self, target: &Target) -> Option<Availability> {
        self.settings
            .catalog
            .prices
            .contains_key(target)
            .then(|| self.health.availability(&target.provider, &target.model, tollgate_bus::now()))
    }

    /// Where a request goes now. One whose targets are all gone from the configuration gets those that the model it
    /// asked for has today.
    pub(crate) fn route(&self, job: &mut Job) -> Result<Route, Problem> {
        let availability = |target: &Target| self.availability(target);
        let found = route(job, availability);
        if found != Route::Gone {
            return Ok(found);
        }
        let team = &job.identity.team;
        let resolved = self
            .settings
            .catalog
            .resolve_all(&self.settings.teams, team, &job.requested_model, &[])
            .map_err(|_| {
                let message = "no target of the model is configured any more";
                Problem::at(ErrorCode::UnknownModel, "body.model", message)
            })?;
        (job.targets, job.typed) = resolved;
        job.target = 0;
        Ok(route(job, availability))
    }
}
