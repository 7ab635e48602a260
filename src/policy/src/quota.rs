//! What a provider says is left of its own limits, and how far apart calls are when nothing is.
//!
//! OpenAI and Anthropic tell with each answer how many requests and tokens an account has left, and when it is full again.
//! Their buckets fill all the time, so an empty one does not mean to wait until it is full: what one call needs is there
//! after that part of it. While something is short, calls of this process keep that distance; the first answer that says
//! otherwise ends it.

use chrono::TimeDelta;
use tollgate_protocol::Timestamp;

/// What is left of one of an account's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Whether it counts tokens; else requests.
    pub is_of_tokens: bool,
    /// What it has when it is full.
    pub limit: u64,
    /// What is left.
    pub remaining: u64,
    /// How long until it is full, in milliseconds.
    pub full_in_ms: u64,
}

/// The distance that calls keep. By default they keep none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quota {
    gap_ms: u64,
    next: Option<Timestamp>,
}

impl Quota {
    /// Hears what is left after a call that used so many tokens; no distance is longer than `gap_ms_max`.
    pub fn note(&mut self, left: &[Left], tokens: u64, now: Timestamp, gap_ms_max: u64) {
        if left.is_empty() {
            return;
        }
        let gap = |left: &Left| {
            let need = if left.is_of_tokens { tokens } else { 1 };
            if left.remaining >= need.max(1) {
                return 0;
            }
            let part = u128::from(left.full_in_ms) * u128::from(need.max(1)) / u128::from(left.limit.max(1));
            u64::try_from(part).unwrap_or(u64::MAX).clamp(1, left.full_in_ms.max(1))
        };
        self.gap_ms = left.iter().map(gap).max().unwrap_or(0).min(gap_ms_max);
        self.next = (self.gap_ms > 0).then(|| self.next.map_or(now, |next| next.max(now)));
    }

    /// When the next call may begin. Each who asks has a time of his own.
    pub fn turn(&mut self, now: Timestamp) -> Timestamp {
        let Some(next) = self.next else { return now };
        let gap = TimeDelta::milliseconds(i64::try_from(self.gap_ms).unwrap_or(i64::MAX / 4));
        let at = next.max(now).checked_add_signed(gap).unwrap_or(Timestamp::MAX_UTC);
        self.next = Some(at);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_timestamp_millis(1_790_000_000_000 + ms).unwrap()
    }

    fn left(is_of_tokens: bool, limit: u64, remaining: u64, full_in_ms: u64) -> Left {
        Left { is_of_tokens, limit, remaining, full_in_ms }
    }

    #[test]
    fn calls_keep_the_distance_in_which_one_becomes_free() {
        let mut quota = Quota::default();
        assert_eq!((quota.turn(at(0)), quota.turn(at(0))), (at(0), at(0)));
        quota.note(&[left(false, 600, 0, 60_000), left(true, 10_000, 9_000, 6_000)], 500, at(0), 300_000);
        assert_eq!((quota.turn(at(0)), quota.turn(at(0)), quota.turn(at(0))), (at(100), at(200), at(300)));
        assert_eq!(quota.turn(at(1_000)), at(1_100), "what was not used is not made up for");
        quota.note(&[], 500, at(1_100), 300_000);
        assert_eq!(quota.turn(at(1_100)), at(1_200), "an answer that says nothing changes nothing");
        quota.note(&[left(false, 600, 5, 59_500)], 500, at(1_200), 300_000);
        assert_eq!(quota.turn(at(1_200)), at(1_200));
    }

    #[test]
    fn tokens_are_short_when_less_is_left_than_such_a_call_uses() {
        for (remaining, tokens, gap) in
            [(1_000, 1_000, 0), (999, 1_000, 6_000), (0, 10_000, 60_000), (0, 0, 6)]
        {
            let mut quota = Quota::default();
            quota.note(&[left(true, 10_000, remaining, 60_000)], tokens, at(0), 300_000);
            assert_eq!(quota.turn(at(0)), at(gap), "{remaining} of 10000 left, {tokens} used");
        }
    }

    #[test]
    fn no_answer_stops_calls_for_long() {
        let mut quota = Quota::default();
        quota.note(&[left(true, 1, 0, u64::MAX)], u64::MAX, at(0), 5_000);
        assert_eq!(quota.turn(at(0)), at(5_000));
        quota.note(&[left(false, 0, 0, 0)], 1, at(0), 5_000);
        assert_eq!(quota.turn(at(0)), at(5_001));
    }
}
