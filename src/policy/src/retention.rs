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
    /// Time to live of a run record, in whole seconds, at least one.
    pub fn run_seconds(&self, deadline: Timestamp, now: Timestamp) -> u64 {
        let left = u64::try_from((deadline - now).num_milliseconds()).unwrap_or(0);
        left.saturating_add(self.after_deadline_ms).div_ceil(1_000).max(1)
    }

    /// Time to live of a response, in whole seconds, at least one.
    pub fn response_seconds(&self, deadline: Timestamp, now: Timestamp) -> u64 {
        self.run_seconds(deadline, now).max(self.response_ms.div_ceil(1_000))
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
        assert_eq!(retention.response_seconds(now + TimeDelta::minutes(1), now), day);
        assert_eq!(retention.response_seconds(now + TimeDelta::days(7), now), 7 * day + 3_600);
        assert_eq!(retention.run_seconds(now + TimeDelta::minutes(1), now), 3_660);
        assert_eq!(retention.run_seconds(now - TimeDelta::days(1), now), 3_600);
    }
}
