//! Token counts of one call.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most tokens of a kind that one call is believed to have: a thousand times what any model takes or gives.
pub const CALL_TOKENS_MAX: u64 = 1_000_000_000;

/// What a provider counted. `cached_input_tokens` are part of `input_tokens`, `reasoning_tokens` of
/// `output_tokens`, as in OpenAI's `usage`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenUsage {
    /// All input tokens, cached ones included.
    pub input_tokens: u64,
    /// Input tokens that were read from the provider's cache.
    #[serde(default)]
    pub cached_input_tokens: u64,
    /// All output tokens, reasoning included.
    pub output_tokens: u64,
    /// Output tokens that were spent on reasoning.
    #[serde(default)]
    pub reasoning_tokens: u64,
}

impl TokenUsage {
    /// Whether one call can have so many, of every kind up to [`CALL_TOKENS_MAX`].
    pub fn is_believable(self) -> bool {
        let Self { input_tokens, cached_input_tokens, output_tokens, reasoning_tokens } = self;
        let counts = [input_tokens, cached_input_tokens, output_tokens, reasoning_tokens];
        counts.iter().all(|count| *count <= CALL_TOKENS_MAX)
    }

    /// Input and output together.
    pub fn total_tokens(self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }

    /// Adds two counts, saturating.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens.saturating_add(other.input_tokens),
            cached_input_tokens: self.cached_input_tokens.saturating_add(other.cached_input_tokens),
            output_tokens: self.output_tokens.saturating_add(other.output_tokens),
            reasoning_tokens: self.reasoning_tokens.saturating_add(other.reasoning_tokens),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_believed_up_to_the_bound() {
        let of = |[input_tokens, cached_input_tokens, output_tokens, reasoning_tokens]: [u64; 4]| {
            TokenUsage { input_tokens, cached_input_tokens, output_tokens, reasoning_tokens }
        };
        assert!(of([CALL_TOKENS_MAX; 4]).is_believable());
        for kind in 0..4 {
            let mut counts = [1; 4];
            counts[kind] = CALL_TOKENS_MAX + 1;
            assert!(!of(counts).is_believable(), "{counts:?}");
        }
    }
}
