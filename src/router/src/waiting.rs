//! What a router puts elsewhere before it goes on: requests that are held or parked, bodies that are put aside.

use std::time::Duration;

use tollgate_bus::blob::INLINE_BYTES_MAX;
use tollgate_policy::claim::Stop;
use tollgate_policy::route::awaits_known;
use tollgate_protocol::job::Job;
use tollgate_telemetry as telemetry;

use crate::Context;
use crate::holding::Holding;

/// How soon a held request is looked at again that waits for nothing that is configured.
const HELD_AGAIN: Duration = Duration::from_secs(1);

impl Context {
    /// No target is up: it waits until one is.
    pub(crate) async fn hold(&self, message: Holding, job: &Job) {
        if tollgate_bus::now() >= job.deadline {
            let stop = Stop::Expired { deadline: job.deadline, grace_ms: crate::stop::GRACE_MS };
            self.stop(message, job, stop).await;
            return;
        }
        // Held already, and released too soon. With targets that were found since, it is held anew.
        if self.bus.subjects().parse_retry_hold(&message.subject).is_some()
            && Job::decode(&message.payload).is_ok_and(|stored| stored.targets == job.targets)
        {
            let hot = self.hot();
            let is_released_right = awaits_known(job, |target| hot.catalog.prices.contains_key(target));
            let again = if is_released_right { Duration::ZERO } else { HELD_AGAIN };
            return message.hand_back(again).await;
        }
        match self.bus.hold(job, &message.source).await {
            Ok(()) => {
                telemetry::count_handover(telemetry::Next::Hold);
                tollgate_bus::point("router.hold.stored");
                message.ack().await;
            }
            Err(error) => {
                tracing::warn!(%error, request = %job.identity, "a request cannot be held, the message will come again");
                message.hand_back(Duration::from_secs(1)).await;
            }
        }
    }

    /// A large body is put aside, so that only its place is carried along.
    pub(crate) async fn put_aside(&self, message: Holding, mut job: Job) -> Option<(Holding, Job)> {
        if job.body.len() <= INLINE_BYTES_MAX {
            return Some((message, job));
        }
        match self.bus.put_aside(&mut job).await {
            Ok(()) => Some((message, job)),
            Err(error) => {
                tracing::warn!(error, request = %job.identity, "a large body cannot be put aside, the message will come again");
                message.hand_back(Duration::from_secs(1)).await;
                None
            }
        }
    }

    /// It may not be called before `time`.
    pub(crate) async fn wait_until(&self, message: Holding, job: Job, time: tollgate_protocol::Timestamp) {
        let Some((message, job)) = self.put_aside(message, job).await else { return };
        match self.bus.park(&job, &message.source, time.min(job.deadline)).await {
            Ok(()) => {
                telemetry::count_handover(telemetry::Next::Park);
                tollgate_bus::point("router.park.stored");
                message.ack().await;
            }
            Err(error) => {
                tracing::warn!(%error, request = %job.identity, "a request cannot be parked, the message will come again");
                message.hand_back(Duration::from_secs(1)).await;
            }
        }
    }
}
