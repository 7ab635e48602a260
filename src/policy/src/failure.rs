//! How a call fails, and what that means for the request. Every class has one rule, here.

use tollgate_protocol::ErrorCode;
use tollgate_protocol::record::Next;

/// Most calls of one target for one request before the next target is tried.
pub const TRIES_PER_TARGET: u32 = 3;
/// Longest delay of a retry by redelivery: the message keeps its place meanwhile.
pub const RETRY_DELAY_MS_MAX: u64 = 250;
const RETRY_DELAY_MS_BASE: u64 = 50;
/// Most lost attempts of one request: something about it may be what kills its workers.
pub const LOST_MAX: usize = 5;

/// What went wrong with a call. A closed list: a provider's codec maps everything onto it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// 429, with the provider's wish in milliseconds if it has one.
    Throttled {
        /// From `retry-after-ms` or `Retry-After`.
        retry_after_ms: Option<u64>,
    },
    /// 5xx, 529.
    Overloaded,
    /// 402, or OpenAI's 429 `insufficient_quota`.
    OutOfCredit,
    /// 401, 403.
    Unauthorized,
    /// No answer in time.
    TimedOut,
    /// The connection was not made, or broke before the request was sent.
    NotConnected,
    /// The connection broke after the request was sent.
    ConnectionLost,
    /// 400, 422 and the like: this model refuses this request.
    Rejected,
    /// 404: the provider does not know the model.
    UnknownModel,
    /// The input is longer than the context.
    ContextTooLong,
    /// A policy of the provider forbids it.
    ContentPolicy,
    /// The answer is not what its format promises.
    Malformed,
    /// The answer ends in the middle.
    Truncated,
}

/// What helps against a class of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remedy {
    /// The same target, soon; then the next one.
    TryAgain,
    /// Only another target.
    NextTarget,
    /// Nothing: the request itself is the cause.
    Nothing,
}

impl Class {
    /// Every class, for tables.
    pub const ALL: [Self; 13] = [
        Self::Throttled { retry_after_ms: None },
        Self::Overloaded,
        Self::OutOfCredit,
        Self::Unauthorized,
        Self::TimedOut,
        Self::NotConnected,
        Self::ConnectionLost,
        Self::Rejected,
        Self::UnknownModel,
        Self::ContextTooLong,
        Self::ContentPolicy,
        Self::Malformed,
        Self::Truncated,
    ];

    /// The code that a response carries if this failure is the last word.
    pub fn code(self) -> ErrorCode {
        match self {
            Self::Throttled { .. } => ErrorCode::ProviderThrottled,
            Self::Overloaded => ErrorCode::ProviderOverloaded,
            Self::OutOfCredit => ErrorCode::ProviderOutOfCredit,
            Self::Unauthorized => ErrorCode::ProviderUnauthorized,
            Self::TimedOut => ErrorCode::ProviderTimeout,
            Self::NotConnected | Self::ConnectionLost => ErrorCode::ProviderUnavailable,
            Self::Rejected => ErrorCode::ProviderRejected,
            Self::UnknownModel => ErrorCode::ProviderUnknownModel,
            Self::ContextTooLong => ErrorCode::ContextTooLong,
            Self::ContentPolicy => ErrorCode::ContentPolicy,
            Self::Malformed => ErrorCode::ProviderMalformed,
            Self::Truncated => ErrorCode::ProviderTruncated,
        }
    }

    /// Whether the provider may have worked, and charged, without our knowing how much.
    pub fn cost_is_unknown(self) -> bool {
        matches!(self, Self::TimedOut | Self::ConnectionLost | Self::Malformed | Self::Truncated)
    }

    fn remedy(self) -> Remedy {
        match self {
            Self::Throttled { .. }
            | Self::Overloaded
            | Self::TimedOut
            | Self::NotConnected
            | Self::ConnectionLost
            | Self::Malformed
            | Self::Truncated => Remedy::TryAgain,
            Self::OutOfCredit | Self::Unauthorized | Self::UnknownModel => Remedy::NextTarget,
            Self::Rejected | Self::ContextTooLong | Self::ContentPolicy => Remedy::Nothing,
        }
    }
}

/// Where a request stands when a call of it failed.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// Index of the target that failed.
    pub target: usize,
    /// How many targets there are.
    pub targets: usize,
    /// Calls of this target in a row, the failed one included.
    pub tries: u32,
    /// Milliseconds until the deadline.
    pub left_ms: u64,
}

/// What follows a failed call. `None`: it was the last one, the request fails.
///
/// `chance` is a random number; the delay is full jitter, `U(0, min(cap, base · 2ⁿ))`, so that requests that
/// failed together do not come back together.
pub fn after(class: Class, situation: Situation, chance: u64) -> Option<Next> {
    let next_target = || {
        let target = situation.target + 1;
        (target < situation.targets).then_some(Next::Fallback { target })
    };
    let next = match class.remedy() {
        Remedy::Nothing => None,
        Remedy::NextTarget => next_target(),
        Remedy::TryAgain if situation.tries >= TRIES_PER_TARGET => next_target(),
        Remedy::TryAgain => match delay_ms(class, situation.tries, chance) {
            Some(delay_ms) => Some(Next::Retry { delay_ms }),
            // It asks for a longer pause than a message may keep its place for.
            None => next_target(),
        },
    };
    match next {
        Some(Next::Retry { delay_ms }) if delay_ms >= situation.left_ms => {
            next_target().filter(|_| situation.left_ms > 0)
        }
        next => next,
    }
}

fn delay_ms(class: Class, tries: u32, chance: u64) -> Option<u64> {
    let ceiling = (RETRY_DELAY_MS_BASE << tries.min(16)).min(RETRY_DELAY_MS_MAX);
    let jitter = chance % (ceiling + 1);
    match class {
        Class::Throttled { retry_after_ms: Some(wish) } if wish > RETRY_DELAY_MS_MAX => None,
        Class::Throttled { retry_after_ms: Some(wish) } => Some(wish.max(jitter)),
        _ => Some(jitter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn situation(target: usize, tries: u32) -> Situation {
        Situation { target, targets: 2, tries, left_ms: 60_000 }
    }

    #[test]
    fn every_class_has_its_rule() {
        let retry = Some(Next::Retry { delay_ms: 7 });
        let fallback = Some(Next::Fallback { target: 1 });
        for class in Class::ALL {
            let (first, third, last_target) = match class.remedy() {
                Remedy::TryAgain => (retry.clone(), fallback.clone(), None),
                Remedy::NextTarget => (fallback.clone(), fallback.clone(), None),
                Remedy::Nothing => (None, None, None),
            };
            assert_eq!(after(class, situation(0, 1), 7), first, "{class:?}, first try");
            assert_eq!(after(class, situation(0, 3), 7), third, "{class:?}, third try");
            assert_eq!(after(class, situation(1, 3), 7), last_target, "{class:?}, last target");
        }
    }

    #[test]
    fn a_provider_is_not_called_before_the_pause_it_asks_for() {
        let throttled = |wish| Class::Throttled { retry_after_ms: Some(wish) };
        assert_eq!(after(throttled(200), situation(0, 1), 0), Some(Next::Retry { delay_ms: 200 }));
        assert_eq!(after(throttled(1_000), situation(0, 1), 0), Some(Next::Fallback { target: 1 }));
        assert_eq!(after(throttled(u64::MAX), situation(1, 1), 0), None);
    }

    #[test]
    fn a_retry_that_cannot_come_before_the_deadline_is_not_begun() {
        let late = Situation { left_ms: 5, ..situation(0, 1) };
        assert_eq!(
            after(Class::Overloaded, late, 99),
            Some(Next::Fallback { target: 1 }),
            "but another target may be in time"
        );
        assert_eq!(after(Class::Overloaded, Situation { target: 1, ..late }, 99), None);
        assert_eq!(after(Class::Overloaded, Situation { left_ms: 0, ..late }, 99), None);
    }

    proptest! {
        #[test]
        fn a_retry_keeps_its_place_for_a_quarter_of_a_second_at_most(
            which in 0..Class::ALL.len(), wish: Option<u64>, target in 0_usize..4, targets in 1_usize..5,
            tries in 1_u32..100, left_ms: u64, chance: u64,
        ) {
            let class = match Class::ALL[which] {
                Class::Throttled { .. } => Class::Throttled { retry_after_ms: wish },
                other => other,
            };
            match after(class, Situation { target, targets, tries, left_ms }, chance) {
                Some(Next::Retry { delay_ms }) => {
                    prop_assert!(delay_ms <= RETRY_DELAY_MS_MAX);
                    prop_assert!(tries < TRIES_PER_TARGET);
                    prop_assert!(delay_ms < left_ms);
                }
                Some(Next::Fallback { target: next }) => prop_assert!(next == target + 1 && next < targets),
                None => {}
            }
        }
    }
}
