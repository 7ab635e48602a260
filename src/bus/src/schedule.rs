//! Waiting in the retry stream: for a time, as a schedule that the server delivers to the routers; or for a target,
//! until the routers release it.

use bytes::Bytes;
use tollgate_protocol::Timestamp;
use tollgate_protocol::job::Job;
use tollgate_protocol::record::Source;

use crate::publish::PublishError;
use crate::retry::Patience;
use crate::{Bus, headers};

/// Shortest and longest wait before looking again, in milliseconds.
const LOOK_AGAIN_MS: (i64, i64) = (200, 5_000);

impl Bus {
    /// Stores a request until `at`, when the server gives it to the routers. `from` is the message that it is handed
    /// over from: writing it twice leaves one schedule.
    pub async fn park(&self, job: &Job, from: &Source, at: Timestamp) -> Result<(), PublishError> {
        let token = format!("{}-{}", from.stream, from.sequence);
        let subject = self.subjects().retry_at(&job.identity, &token);
        let map = headers::headers([
            (
                "Nats-Schedule",
                format!("@at {}", at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)).as_str(),
            ),
            ("Nats-Schedule-Target", self.subjects().retry_due(job.priority, &job.identity.team).as_str()),
        ]);
        // The same subject replaces the same schedule, so that doing it twice is doing it once.
        self.publish(&subject, map, None, encoded(job)?, Patience::NORMAL).await.map(|_| ())
    }

    /// Stores a request until a target of it is up. `from` is the message that it is handed over from.
    pub async fn hold(&self, job: &Job, from: &Source) -> Result<(), PublishError> {
        let subject = self.subjects().retry_hold(job.priority, &job.identity.team);
        self.requeue(&subject, job, from).await
    }

    /// Gives a request to the routers at once.
    pub async fn give_back(&self, job: &Job, from: &Source) -> Result<(), PublishError> {
        let subject = self.subjects().retry_due(job.priority, &job.identity.team);
        self.requeue(&subject, job, from).await
    }

    async fn requeue(&self, subject: &str, job: &Job, from: &Source) -> Result<(), PublishError> {
        // Of its input and of what the record says, not of the request: one that waits for the second time must not be
        // taken for a repeat, nor one that was called for the copy that was passed on before the call.
        let id = format!("{}/{from}/{}", job.identity, job.run);
        let map = async_nats::HeaderMap::new();
        self.publish(subject, map, Some(&id), encoded(job)?, Patience::NORMAL).await.map(|_| ())
    }

    /// Schedules a copy of a running request, whose sender waits for a reply, for the routers to look at
    /// again: after a quarter of the time it has waited already, at the latest at its deadline. `now` is the
    /// server's time, as the message in hand tells it: the server is who looks at the clock.
    pub async fn look_again(&self, job: &Job, from: &Source, now: Timestamp) -> Result<(), PublishError> {
        let waited = (now - job.accepted_at).num_milliseconds();
        let wait = chrono::TimeDelta::milliseconds((waited / 4).clamp(LOOK_AGAIN_MS.0, LOOK_AGAIN_MS.1));
        self.park(job, from, (now + wait).min(job.deadline)).await
    }
}

fn encoded(job: &Job) -> Result<Bytes, PublishError> {
    job.encode().map_err(|error| PublishError::Refused { code: 0, description: error.to_string() })
}
