//! Looking again later: a message that the server stores now and delivers to the routers at a time.

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
    /// Schedules a copy of a running request, whose sender waits for a reply, for the routers to look at
    /// again: after a quarter of the time it has waited already, at the latest at its deadline. `now` is the
    /// server's time, as the message in hand tells it: the server is who looks at the clock.
    pub async fn look_again(&self, job: &Job, from: &Source, now: Timestamp) -> Result<(), PublishError> {
        let waited = (now - job.accepted_at).num_milliseconds();
        let wait = chrono::TimeDelta::milliseconds((waited / 4).clamp(LOOK_AGAIN_MS.0, LOOK_AGAIN_MS.1));
        let at = (now + wait).min(job.deadline);
        let payload: Bytes = job
            .encode()
            .map_err(|error| PublishError::Refused { code: 0, description: error.to_string() })?;
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
        self.publish(&subject, map, None, payload, Patience::NORMAL).await.map(|_| ())
    }
}
