//! How a call fails: the classes, and the one rule of each.
//!
//! | class | again where | how often while others are answered | fault of | paid | target's health |
//! |---|---|---|---|---|---|
//! | throttled | same target after the pause asked for, or another | always | nobody: flow control | no | paused, not failing |
//! | overloaded | same, then others | 8 | provider | no | failing |
//! | out of credit, unauthorized | another key, then other targets | 3 | operator | no | failing, once no key is left |
//! | timed out | same, then others | 3 | provider | perhaps: estimated | failing |
//! | not connected | same, then others | 8 | provider | no | failing |
//! | connection lost | same, then others | 5 | provider | perhaps: estimated | failing |
//! | malformed, truncated | same, then others | 3 | provider | perhaps: estimated | failing |
//! | unknown model | the next target | 1 | operator | no | none |
//! | context too long | the targets for it | 1 | client | no | alive |
//! | content policy | the targets for it | 1 | client | no | alive |
//! | rejected | nowhere | 1 | client | no | alive |
//!
//! Failures count only while the target answers others: what fails because its provider is down waits, and is not
//! given up before its deadline. What follows a failure is in [`crate::retry`].

use tollgate_protocol::ErrorCode;

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
pub enum Remedy {
    /// The same target, later; or another one.
    TryAgain,
    /// Only another target.
    NextTarget,
    /// Only a target that is configured for this kind of failure.
    TypedTarget,
    /// Nothing: the request itself is the cause.
    Nothing,
}

/// What a failure says about its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answers, whatever it thinks of this request.
    Alive,
    /// It fails.
    Failing,
    /// It asks for a pause.
    Paused,
    /// Nothing.
    Unknown,
}

/// The rule of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What helps.
    pub remedy: Remedy,
    /// So many failures of one target that are held against the request are enough; `None`: none ever is.
    pub tries_max: Option<u32>,
    /// Whether the provider may have worked, and charged, without our knowing how much.
    pub cost_is_unknown: bool,
    /// What it says about the target.
    pub health: Health,
    /// Whether another key of the provider may help.
    pub is_of_key: bool,
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
        self.rule().cost_is_unknown
    }

    /// The rule of the class.
    pub fn rule(self) -> Rule {
        let failing = |tries_max, cost_is_unknown| Rule {
            remedy: Remedy::TryAgain,
            tries_max: Some(tries_max),
            cost_is_unknown,
            health: Health::Failing,
            is_of_key: false,
        };
        let final_with = |remedy, health| Rule {
            remedy,
            tries_max: Some(1),
            cost_is_unknown: false,
            health,
            is_of_key: false,
        };
        match self {
            Self::Throttled { .. } => {
                Rule { tries_max: None, health: Health::Paused, is_of_key: true, ..failing(0, false) }
            }
            Self::Overloaded | Self::NotConnected => failing(8, false),
            Self::OutOfCredit | Self::Unauthorized => Rule { is_of_key: true, ..failing(3, false) },
            Self::ConnectionLost => failing(5, true),
            Self::TimedOut | Self::Malformed | Self::Truncated => failing(3, true),
            Self::UnknownModel => final_with(Remedy::NextTarget, Health::Unknown),
            Self::ContextTooLong | Self::ContentPolicy => final_with(Remedy::TypedTarget, Health::Alive),
            Self::Rejected => final_with(Remedy::Nothing, Health::Alive),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the documentation, as far as it can be read by a program.
    #[test]
    fn every_class_has_its_rule() {
        for class in Class::ALL {
            let Rule { remedy, tries_max, cost_is_unknown, health, is_of_key } = class.rule();
            match class {
                Class::Throttled { .. } => {
                    assert_eq!((remedy, tries_max, health), (Remedy::TryAgain, None, Health::Paused));
                }
                Class::Rejected | Class::ContextTooLong | Class::ContentPolicy => {
                    assert_eq!((tries_max, health), (Some(1), Health::Alive), "{class:?}");
                }
                Class::UnknownModel => {
                    assert_eq!((remedy, health), (Remedy::NextTarget, Health::Unknown));
                }
                _ => {
                    assert_eq!((remedy, health), (Remedy::TryAgain, Health::Failing), "{class:?}");
                    assert!(tries_max.is_some_and(|tries| tries >= 3), "{class:?}");
                }
            }
            let is_key = matches!(class, Class::Throttled { .. } | Class::OutOfCredit | Class::Unauthorized);
            assert_eq!(is_of_key, is_key, "{class:?}");
            let is_unsure = matches!(
                class,
                Class::TimedOut | Class::ConnectionLost | Class::Malformed | Class::Truncated
            );
            assert_eq!(cost_is_unknown, is_unsure, "{class:?}");
        }
    }
}
