//! Which of a provider's keys is used.
//!
//! The first that is usable, not each in turn: limits and prompt caches of providers belong to keys, and stay
//! predictable so. A key that was refused or throttled rests; when all rest, the provider is the one that pauses.

use chrono::TimeDelta;
use tollgate_protocol::Timestamp;

use crate::failure::Class;

/// How long a key rests that was refused, or has no credit left, in milliseconds; twice as long each time it is again.
const REFUSED_MS: (u64, u64) = (60_000, 600_000);
/// How long a key rests that was throttled without a word of how long, in milliseconds.
const THROTTLED_MS: u64 = 1_000;

#[derive(Clone, Debug, Default)]
struct Key {
    rests_until: Option<Timestamp>,
    /// Refusals in a row.
    refusals: u32,
}

impl Key {
    fn is_resting(&self, now: Timestamp) -> bool {
        self.rests_until.is_some_and(|until| until > now)
    }
}

/// The keys of one provider, as one process has seen them work.
#[derive(Clone, Debug)]
pub struct KeyRing(Vec<Key>);

impl KeyRing {
    /// So many keys; a provider without a key has one that is nothing.
    pub fn new(count: usize) -> Self {
        Self(vec![Key::default(); count.max(1)])
    }

    /// The key to use now; `Err`: when the first one can be used again.
    pub fn pick(&self, now: Timestamp) -> Result<usize, Timestamp> {
        match self.0.iter().position(|key| !key.is_resting(now)) {
            Some(key) => Ok(key),
            None => Err(self.0.iter().filter_map(|key| key.rests_until).min().unwrap_or(now)),
        }
    }

    /// A call with this key was answered. A key that rests goes on resting: the call was under way before.
    pub fn answered(&mut self, key: usize, now: Timestamp) {
        if let Some(key) = self.0.get_mut(key)
            && !key.is_resting(now)
        {
            *key = Key::default();
        }
    }

    /// A call with this key failed. The only key of a provider never rests for a refusal: whether its provider is to be
    /// called is for the breaker to say.
    pub fn failed(&mut self, key: usize, class: Class, now: Timestamp, retry_after_ms_max: u64) {
        let is_only = self.0.len() == 1;
        let Some(key) = self.0.get_mut(key) else { return };
        let rest_ms = match class {
            Class::Throttled { .. } if is_only => return,
            Class::Throttled { retry_after_ms } => {
                retry_after_ms.unwrap_or(THROTTLED_MS).min(retry_after_ms_max)
            }
            Class::OutOfCredit | Class::Unauthorized if !is_only => {
                // What was under way when the first was refused says nothing new.
                if !key.is_resting(now) || key.refusals == 0 {
                    key.refusals = key.refusals.saturating_add(1);
                }
                (REFUSED_MS.0 << (key.refusals - 1).min(8)).min(REFUSED_MS.1)
            }
            _ => return,
        };
        let rest = TimeDelta::milliseconds(i64::try_from(rest_ms).unwrap_or(i64::MAX / 4));
        let until = now.checked_add_signed(rest).unwrap_or(Timestamp::MAX_UTC);
        key.rests_until = Some(key.rests_until.map_or(until, |known| known.max(until)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAP: u64 = 300_000;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_timestamp_millis(1_790_000_000_000 + ms).unwrap()
    }

    fn throttled(retry_after_ms: Option<u64>) -> Class {
        Class::Throttled { retry_after_ms }
    }

    #[test]
    fn the_first_usable_key_is_used_and_what_was_refused_rests() {
        let mut keys = KeyRing::new(3);
        assert_eq!(keys.pick(at(0)), Ok(0));
        keys.failed(0, Class::Unauthorized, at(0), CAP);
        keys.failed(1, throttled(Some(5_000)), at(0), CAP);
        assert_eq!(keys.pick(at(0)), Ok(2));
        assert_eq!(keys.pick(at(5_000)), Ok(1));
        keys.failed(2, Class::OutOfCredit, at(0), CAP);
        assert_eq!(keys.pick(at(0)), Err(at(5_000)));
        assert_eq!(keys.pick(at(60_000)), Ok(0), "it may have been put right");
        keys.failed(0, Class::Unauthorized, at(60_000), CAP);
        keys.failed(1, Class::Unauthorized, at(60_000), CAP);
        keys.failed(2, Class::Unauthorized, at(60_000), CAP);
        assert_eq!(keys.pick(at(60_000)), Err(at(120_000)));
        keys.failed(0, Class::Unauthorized, at(120_000), CAP);
        assert_eq!(keys.pick(at(120_000)), Ok(1));
        keys.answered(0, at(360_000));
        keys.failed(0, Class::Unauthorized, at(360_000), CAP);
        assert_eq!(keys.0[0].rests_until, Some(at(420_000)), "an answer ends the doubling");
    }

    #[test]
    fn calls_under_way_when_a_key_was_refused_change_nothing() {
        let mut keys = KeyRing::new(2);
        for ms in [0, 10, 20, 30] {
            keys.failed(0, Class::Unauthorized, at(ms), CAP);
        }
        assert_eq!(keys.0[0].rests_until, Some(at(60_030)), "one refusal, not four");
        keys.failed(1, throttled(Some(5_000)), at(0), CAP);
        keys.answered(1, at(100));
        assert_eq!(keys.pick(at(4_999)), Err(at(5_000)), "a late answer does not end the pause asked for");
    }

    #[test]
    fn no_rest_is_longer_than_the_cap() {
        let mut keys = KeyRing::new(2);
        keys.failed(0, throttled(Some(u64::MAX)), at(0), CAP);
        keys.failed(1, throttled(None), at(0), CAP);
        assert_eq!(keys.pick(at(0)), Err(at(1_000)));
        assert_eq!(keys.pick(at(1_000)), Ok(1));
        keys.failed(1, throttled(Some(u64::MAX)), at(1_000), CAP);
        assert_eq!(keys.pick(at(1_000)), Err(at(300_000)));
    }

    #[test]
    fn the_only_key_is_left_to_the_breaker() {
        let mut keys = KeyRing::new(0);
        for class in Class::ALL {
            keys.failed(0, class, at(0), CAP);
        }
        assert_eq!(keys.pick(at(0)), Ok(0));
    }
}
