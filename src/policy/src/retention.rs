//! How long the server keeps what is written to a request's record.

use tollgate_protocol::Timestamp;

/// From the configuration, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// A response is kept this long after the answer.
    pub response_ms: u64,
    /// Everything is kept at least this long after the deadline, so that no late copy of a request can find
    /// an empty record and run again.
    pub after_deadline_ms: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { response_ms: 24 * 60 * 60 * 1000, after_deadline_ms: 60 * 60 * 1000 }
    }
}

impl Retention {
    /// Time to live of a record entry, claim or response, in whole seconds, at least one. A claim is kept
    /// as long as a response: it is the only trace of a call whose worker was killed, and everything may
    /// stand still for longer than a deadline.
    pub fn seconds(&self, deadline: Timestamp, now: Timestamp) -> u64 {
        let left = u64::try_from((deadline - now).num_milliseconds()).unwrap_or(0);
        left.saturating_add(self.after_deadline_ms).max(self.response_ms).div_ceil(1_000).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    #[test]
    fn a_response_outlives_its_deadline() {
        let now = Timestamp::from_timestamp_millis(1_790_000_000_000).unwrap();
        let retention = Retention::default();
        let day = 24 * 3_600;
        assert_eq!(retention.seconds(now + TimeDelta::minutes(1), now), day);
        assert_eq!(retention.seconds(now + TimeDelta::days(7), now), 7 * day + 3_600);
        assert_eq!(retention.seconds(now - TimeDelta::days(1), now), day);
        let short = Retention { response_ms: 1, after_deadline_ms: 0 };
        assert_eq!(short.seconds(now, now), 1);
    }
}
