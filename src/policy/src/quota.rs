//! What a provider says is left of its own limits, and how far apart calls are when nothing is.
//!
//! OpenAI and Anthropic tell with each answer how many requests and tokens an account has left, and when it is full again.
//! Their buckets fill all the time, so an empty one does not mean to wait until it is full: what one call needs is there
//! after that part of it. While something is short, calls of this process keep that distance. Nobody is promised a time
//! ahead: who waits asks again when an answer says something else, so what was said before holds up nobody.

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

/// Whoever waits for his time is so late for it at most.
const LATE: TimeDelta = TimeDelta::milliseconds(50);

/// The distance that calls keep. By default they keep none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quota {
    gap_ms: u64,
    /// From when on the distance counts: when the last call began, or it was said that there has to be one. `None`: there
    /// is none.
    since: Option<Timestamp>,
    /// So many may begin without it, by the last answer.
    spare: u64,
}

impl Quota {
    /// Hears what is left after a call that used so many tokens; no distance is longer than `gap_ms_max`. It begins when
    /// nothing is left, and ends when there is enough for all calls at once: with less, they would be refused together.
    pub fn note(&mut self, left: &[Left], tokens: u64, now: Timestamp, gap_ms_max: u64, calls_max: u32) {
        let need = |left: &Left| if left.is_of_tokens { tokens.max(1) } else { 1 };
        let room = |left: &Left| left.remaining / need(left);
        let Some(spare) = left.iter().map(room).min() else { return };
        let gap = |left: &Left| {
            let part = u128::from(left.full_in_ms) * u128::from(need(left)) / u128::from(left.limit.max(1));
            u64::try_from(part).unwrap_or(u64::MAX).clamp(1, left.full_in_ms.max(1))
        };
        let short = left.iter().filter(|left| room(left) < u64::from(calls_max.max(1)));
        self.spare = spare;
        self.gap_ms = short.map(gap).max().unwrap_or(0).min(gap_ms_max);
        if self.gap_ms == 0 {
            self.since = None;
        } else if spare == 0 {
            // One whose time has just come keeps it. If nobody waited, nothing is made up for.
            let is_kept = |since: &Timestamp| self.after(*since) > now - LATE;
            self.since = self.since.filter(is_kept).or(Some(now));
        } else {
            // What has come since is in it.
            self.since = self.since.map(|_| now);
        }
    }

    /// Begins a call now; `Err`: not before that time, unless an answer says something else until then.
    pub fn begin(&mut self, now: Timestamp) -> Result<(), Timestamp> {
        let Some(since) = self.since else { return Ok(()) };
        let at = self.after(since);
        if at > now {
            self.spare = self.spare.checked_sub(1).ok_or(at)?;
        }
        self.since = Some(now);
        Ok(())
    }

    fn after(&self, since: Timestamp) -> Timestamp {
        let gap = TimeDelta::milliseconds(i64::try_from(self.gap_ms).unwrap_or(i64::MAX / 4));
        since.checked_add_signed(gap).unwrap_or(Timestamp::MAX_UTC)
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

    const MAX: u64 = 300_000;
    const CALLS: u32 = 32;

    #[test]
    fn calls_keep_the_distance_in_which_one_becomes_free() {
        let mut quota = Quota::default();
        assert_eq!((quota.begin(at(0)), quota.begin(at(0))), (Ok(()), Ok(())));
        let short = [left(false, 600, 0, 60_000), left(true, 100_000, 99_000, 6_000)];
        quota.note(&short, 500, at(0), MAX, CALLS);
        assert_eq!((quota.begin(at(99)), quota.begin(at(100))), (Err(at(100)), Ok(())));
        assert_eq!((quota.begin(at(100)), quota.begin(at(201))), (Err(at(200)), Ok(())));
        quota.note(&short, 500, at(250), MAX, CALLS);
        assert_eq!(quota.begin(at(250)), Err(at(301)), "the same again moves nothing");
        quota.note(&short, 500, at(310), MAX, CALLS);
        assert_eq!(quota.begin(at(310)), Ok(()), "who was about to begin is not sent back");
        assert_eq!(
            (quota.begin(at(1_000)), quota.begin(at(1_000))),
            (Ok(()), Err(at(1_100))),
            "not made up for"
        );
        quota.note(&short, 500, at(2_000), MAX, CALLS);
        assert_eq!(quota.begin(at(2_000)), Err(at(2_100)));
        quota.note(&[], 500, at(2_010), MAX, CALLS);
        assert_eq!(quota.begin(at(2_010)), Err(at(2_100)), "an answer that says nothing changes nothing");
        quota.note(&[left(false, 600, 32, 56_800)], 500, at(2_020), MAX, CALLS);
        assert_eq!(quota.begin(at(2_020)), Ok(()));
        assert_eq!(quota.begin(at(2_020)), Ok(()));
    }

    /// However many wait, the next answer that knows better counts for all of them.
    #[test]
    fn a_later_answer_replaces_what_one_said_before() {
        let mut quota = Quota::default();
        let far = [left(false, 1, 0, 300_000)];
        quota.note(&far, 1, at(0), MAX, CALLS);
        for _ in 0..10 {
            assert_eq!(quota.begin(at(10)), Err(at(300_000)), "nobody who asks makes it later for others");
        }
        quota.note(&[left(false, 600, 0, 60_000)], 1, at(500), MAX, CALLS);
        assert_eq!((quota.begin(at(500)), quota.begin(at(600))), (Err(at(600)), Ok(())));
        quota.note(&far, 1, at(700), MAX, CALLS);
        assert_eq!(quota.begin(at(700)), Err(at(300_600)), "from the last that began");
        quota.note(&[left(false, 600, 2, 59_800)], 1, at(800), MAX, CALLS);
        let begun = [(); 3].map(|()| quota.begin(at(800)));
        assert_eq!(begun, [Ok(()), Ok(()), Err(at(899))], "as many as are left, not all who wait");
        quota.note(&[left(false, 600, 400, 20_000), left(true, 10_000, 10_000, 0)], 100, at(900), MAX, CALLS);
        assert!((0..100).all(|_| quota.begin(at(900)).is_ok()), "plenty");
    }

    #[test]
    fn tokens_are_short_when_less_is_left_than_such_a_call_uses() {
        for (remaining, tokens, gap) in
            [(1_000, 1_000, 0), (999, 1_000, 6_000), (0, 10_000, 60_000), (0, 0, 6)]
        {
            let mut quota = Quota::default();
            quota.note(&[left(true, 10_000, remaining, 60_000)], tokens, at(0), MAX, CALLS);
            let begun = if gap == 0 { Ok(()) } else { Err(at(gap)) };
            assert_eq!(quota.begin(at(0)), begun, "{remaining} of 10000 left, {tokens} used");
        }
    }

    #[test]
    fn no_answer_stops_calls_for_long() {
        let mut quota = Quota::default();
        quota.note(&[left(true, 1, 0, u64::MAX)], u64::MAX, at(0), 5_000, CALLS);
        assert_eq!((quota.begin(at(0)), quota.begin(at(5_000))), (Err(at(5_000)), Ok(())));
        quota.note(&[left(false, 0, 0, 0)], 1, at(5_000), 5_000, CALLS);
        assert_eq!((quota.begin(at(5_000)), quota.begin(at(5_001))), (Err(at(5_001)), Ok(())));
    }
}
