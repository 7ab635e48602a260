//! The closed list of error codes. `docs/errors.md` is checked against it by a test.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($( $(#[$doc:meta])* $name:ident = $text:literal, $status:literal, $retryable:literal; )*) => {
        /// Why a request did not succeed. Stable: codes are added, never renamed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum ErrorCode { $( $(#[$doc])* $name, )* }

        impl ErrorCode {
            /// Every code, in the order of the documentation.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )* ];

            /// The text on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$name => $text, )* }
            }

            /// The HTTP status that says the same.
            pub fn http_status(self) -> u16 {
                match self { $( Self::$name => $status, )* }
            }

            /// Whether the same request, sent again unchanged under a new identity, can succeed.
            pub fn retryable(self) -> bool {
                match self { $( Self::$name => $retryable, )* }
            }
        }
    };
}

codes! {
    /// The payload cannot be read: not JSON or MessagePack, not UTF-8, trailing bytes, not an object.
    InvalidEnvelope = "invalid_envelope", 400, false;
    /// A field has a wrong type or a value that is not allowed.
    InvalidField = "invalid_field", 400, false;
    /// A field that the request needs is absent or empty.
    MissingField = "missing_field", 400, false;
    /// Both an envelope's `body` and a bare body's `messages`, `input` or `prompt` are present.
    AmbiguousBody = "ambiguous_body", 400, false;
    /// `team`, `group` or `id` is not of the allowed form.
    InvalidIdentity = "invalid_identity", 400, false;
    /// The deadline is in the past, farther away than allowed, or given twice.
    InvalidDeadline = "invalid_deadline", 400, false;
    /// `reply_to` is not an inbox.
    InvalidReplyTo = "invalid_reply_to", 400, false;
    /// The content type is neither JSON nor MessagePack.
    UnsupportedEncoding = "unsupported_encoding", 415, false;
    /// The endpoint is unknown, or not served yet.
    UnsupportedEndpoint = "unsupported_endpoint", 400, false;
    /// The contract has this field; this version does not act on it and will not pretend to.
    UnsupportedFeature = "unsupported_feature", 400, false;
    /// Arrays and objects are nested deeper than the limit.
    TooDeep = "too_deep", 400, false;
    /// The request body is larger than the limit.
    RequestTooLarge = "request_too_large", 413, false;
    /// The team is not configured.
    UnknownTeam = "unknown_team", 403, false;
    /// No such model is configured.
    UnknownModel = "unknown_model", 404, false;
    /// The team may not use this model.
    ModelNotAllowed = "model_not_allowed", 403, false;
    /// This identity was already used for another body; this one was not run.
    DuplicateId = "duplicate_id", 409, false;
    /// The request is still on its way; ask again with the same id for the same answer.
    StillRunning = "still_running", 409, true;
    /// The team's queue for this priority is full.
    QueueFull = "queue_full", 429, true;
    /// The broker cannot take the request now: its store does not answer.
    BrokerUnavailable = "broker_unavailable", 503, true;
    /// The budget is spent, and says that requests are rejected then.
    BudgetExceeded = "budget_exceeded", 429, false;
    /// What the request can cost at most is more than the whole budget.
    BudgetTooSmall = "budget_too_small", 400, false;
    /// A limit has no room now, and the request or the limit says that it is rejected then.
    RateLimited = "rate_limited", 429, true;
    /// The deadline passed before an answer was there.
    DeadlineExceeded = "deadline_exceeded", 504, true;
    /// The request was cancelled.
    Cancelled = "cancelled", 499, false;
    /// The provider refused the request as invalid.
    ProviderRejected = "provider_rejected", 400, false;
    /// The provider does not know the model.
    ProviderUnknownModel = "provider_unknown_model", 404, false;
    /// The input is longer than the model's context.
    ContextTooLong = "context_too_long", 400, false;
    /// The provider's content policy refused the request or the answer.
    ContentPolicy = "content_policy", 400, false;
    /// The provider did not accept our credentials.
    ProviderUnauthorized = "provider_unauthorized", 502, false;
    /// Our account with the provider has no credit left.
    ProviderOutOfCredit = "provider_out_of_credit", 502, true;
    /// The provider limits our rate.
    ProviderThrottled = "provider_throttled", 429, true;
    /// The provider answered that it is overloaded or broken (5xx).
    ProviderOverloaded = "provider_overloaded", 503, true;
    /// The provider could not be reached, or the connection broke.
    ProviderUnavailable = "provider_unavailable", 502, true;
    /// The provider did not answer in time.
    ProviderTimeout = "provider_timeout", 504, true;
    /// The provider's answer is not what its format promises.
    ProviderMalformed = "provider_malformed", 502, true;
    /// The provider's answer ended in the middle.
    ProviderTruncated = "provider_truncated", 502, true;
    /// The answer is larger than a message may be. It was paid for.
    ResponseTooLarge = "response_too_large", 502, false;
    /// A worker was lost during the call, too often for this request.
    AttemptLost = "attempt_lost", 502, true;
    /// A defect of Tollgate.
    Internal = "internal", 500, true;
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_serde_writes() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_string(code).unwrap(), format!("\"{}\"", code.as_str()));
        }
    }

    #[test]
    fn every_code_is_documented() {
        let page = include_str!("../../../docs/errors.md");
        for code in ErrorCode::ALL {
            let row = format!(
                "| `{code}` | {} | {} |",
                code.http_status(),
                if code.retryable() { "yes" } else { "no" }
            );
            assert!(page.contains(&row), "docs/errors.md lacks the row {row}");
        }
        let rows = page.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, ErrorCode::ALL.len(), "docs/errors.md has rows for codes that do not exist");
    }
}
