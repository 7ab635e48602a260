//! Requests that their clients take back: `llm.cancel.<team>.<group>.<id>`.
//!
//! A running call is ended by the worker that makes it. Whatever else has the request, in this router's hands or in
//! another's, in the index or in a schedule, is looked for, and whoever has it ends it. A cancellation is done with
//! once the request is answered; the record lets one of all that end it win.

use std::time::Duration;

use tollgate_bus::owner::{Answer, Question};
use tollgate_bus::pull::Held;
use tollgate_bus::retry::Patience;
use tollgate_bus::topology;
use tollgate_policy::claim::Stop;
use tollgate_protocol::Identity;
use tollgate_protocol::job::Job;
use tollgate_protocol::record::Last;
use tollgate_telemetry as telemetry;

use crate::Context;
use crate::holding::Holding;

/// How long a cancellation of a request that nobody knows is kept: the request may be on its way still.
const UNKNOWN_MS_MAX: i64 = 60_000;
/// Shortest and longest wait before looking again, in milliseconds.
const LOOK_AGAIN_MS: (i64, i64) = (100, 2_000);

impl Context {
    /// Does what can be done now about a cancellation.
    pub(crate) async fn cancel(&self, message: Held) {
        let Some(identity) = self.bus.subjects().parse_cancel(&message.subject) else {
            tracing::warn!(message = %message.source, "a cancellation names no request: dropped");
            return message.ack().await;
        };
        let age = tollgate_bus::now() - message.stored_at;
        let last = match self.bus.last_record(&identity, Patience::NORMAL).await {
            Ok(last) => last,
            Err(error) => {
                tracing::warn!(%error, request = %identity, "the record cannot be read, the cancellation will come again");
                return message.hand_back(Duration::from_secs(1)).await;
            }
        };
        let is_unknown = matches!(last, Last::None | Last::Foreign { .. });
        match last {
            Last::Answered { .. } => {
                telemetry::count_cancellation("done");
                return message.ack().await;
            }
            Last::Started { started, .. } => {
                let question = Question { identity: identity.clone(), attempt: started.attempt };
                let answer = self.bus.abort_attempt(&started.owner, &question).await;
                // Whoever has its message waits for the lease of a worker that does not answer.
                if answer != Some(Answer::Holding) {
                    self.look_for(&identity).await;
                }
            }
            Last::None | Last::Foreign { .. } | Last::Ended { .. } => self.look_for(&identity).await,
        }
        // While no router was there, nobody looked.
        let looked_for = tollgate_bus::now() - message.stored_at.max(self.started_at);
        if is_unknown && looked_for.num_milliseconds() > UNKNOWN_MS_MAX {
            tracing::debug!(request = %identity, "a cancellation of a request that nobody knows is dropped");
            telemetry::count_cancellation("unknown");
            return message.ack().await;
        }
        let wait = (age.num_milliseconds() / 2).clamp(LOOK_AGAIN_MS.0, LOOK_AGAIN_MS.1);
        message.hand_back(Duration::from_millis(u64::try_from(wait).unwrap_or_default())).await;
    }

    /// Asks all routers, and looks among the schedules.
    async fn look_for(&self, identity: &Identity) {
        let question = self.bus.subjects().router_question();
        if let Err(error) = self.bus.client().publish(question, identity.to_string().into()).await {
            tracing::debug!(%error, "the routers were not asked about a request");
        }
        let retry = self.bus.subjects().stream(topology::RETRY);
        let found = match self.bus.last_stored(&retry, &self.bus.subjects().retry_at_all(identity)).await {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, request = %identity, "the schedules cannot be read, the cancellation will come again");
                return;
            }
        };
        match Job::decode(&found.payload) {
            Ok(job) if job.identity == *identity => {
                let message = Holding::found(&self.bus, found, self.back.clone());
                self.stop(message, &job, Stop::Cancelled).await;
            }
            _ => tracing::error!(message = %found.source, "a schedule cannot be read by this version"),
        }
    }
}
