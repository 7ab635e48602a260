//! Integer money.
//!
//! An amount is a whole number of nano-dollars (10⁻⁹ USD) in 64 signed bits: ±9.2 thousand million
//! dollars. A price is nano-dollars per million tokens. The cost of a call is one 128-bit sum over its
//! token kinds, divided by a million and rounded half up, **once**, so that nothing is lost to
//! intermediate rounding and every part of Tollgate gets the same number from the same counts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::TokenUsage;

const NANOS_PER_USD: u64 = 1_000_000_000;
const TOKENS_PER_PRICE: u128 = 1_000_000;

/// Most that one call is taken to cost: a million dollars. Counters of budgets are sums of such amounts in 64 bits, so that
/// thousands of the dearest calls fit into one.
pub const COST_MAX: NanoUsd = NanoUsd(1_000_000_000_000_000);

/// A signed amount of money in nano-dollars.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct NanoUsd(pub i64);

impl NanoUsd {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Adds, saturating at the ends of the range.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Subtracts, saturating at the ends of the range.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl std::iter::Sum for NanoUsd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Self::plus)
    }
}

/// Dollars with all nine decimals that matter and no trailing zeros beyond cents: `$0.000123`.
impl std::fmt::Display for NanoUsd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let nanos = self.0.unsigned_abs();
        let mut decimals = format!("{:09}", nanos % NANOS_PER_USD);
        while decimals.len() > 2 && decimals.ends_with('0') {
            decimals.pop();
        }
        f.pad(&format!("{sign}${}.{decimals}", nanos / NANOS_PER_USD))
    }
}

/// A decimal dollar amount could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not digits with at most one point.
    #[error("expected a decimal number of dollars such as \"0.15\"")]
    NotDecimal,
    /// More than nine decimals.
    #[error("more than nine decimals: nano-dollars are the smallest unit")]
    TooFine,
    /// Beyond 64 bits.
    #[error("larger than 9223372036 dollars")]
    TooLarge,
}

/// Reads a decimal string of dollars, exactly. Signs and exponents are refused.
pub fn parse_usd(text: &str) -> Result<NanoUsd, ParseError> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(decimals) || text.ends_with('.') {
        return Err(ParseError::NotDecimal);
    }
    let decimals = decimals.trim_end_matches('0');
    if decimals.len() > 9 {
        return Err(ParseError::TooFine);
    }
    let whole: i64 = whole.parse().map_err(|_| ParseError::TooLarge)?;
    let nanos: i64 = format!("{decimals:0<9}").parse().map_err(|_| ParseError::NotDecimal)?;
    whole
        .checked_mul(NANOS_PER_USD as i64)
        .and_then(|amount| amount.checked_add(nanos))
        .map(NanoUsd)
        .ok_or(ParseError::TooLarge)
}

/// What a model costs, in nano-dollars per million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Price {
    /// Input tokens that were not cached.
    pub input: u64,
    /// Input tokens that were cached.
    pub cached_input: u64,
    /// Output tokens.
    pub output: u64,
}

impl Price {
    /// The cost of a call; see the module's rule for rounding; [`COST_MAX`] at most.
    pub fn cost(&self, usage: &TokenUsage) -> NanoUsd {
        let cached = usage.cached_input_tokens.min(usage.input_tokens);
        let product = |tokens: u64, price: u64| u128::from(tokens) * u128::from(price);
        let sum = product(usage.input_tokens - cached, self.input)
            .saturating_add(product(cached, self.cached_input))
            .saturating_add(product(usage.output_tokens, self.output));
        let nanos = sum.saturating_add(TOKENS_PER_PRICE / 2) / TOKENS_PER_PRICE;
        NanoUsd(i64::try_from(nanos).unwrap_or(i64::MAX)).min(COST_MAX)
    }

    /// Names this price in usage events, so that a cost can be recomputed from the event alone.
    pub fn version(&self) -> String {
        format!("{}/{}/{}", self.input, self.cached_input, self.output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::CALL_TOKENS_MAX;
    use proptest::prelude::*;

    #[test]
    fn dollars_are_read_exactly() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("0.15", Ok(150_000_000)),
            ("1.000000001", Ok(1_000_000_001)),
            ("9223372036.854775807", Ok(i64::MAX)),
            ("0.1000000000000", Ok(100_000_000)),
            ("0.0000000001", Err(ParseError::TooFine)),
            ("9223372036.854775808", Err(ParseError::TooLarge)),
            ("", Err(ParseError::NotDecimal)),
            (".5", Err(ParseError::NotDecimal)),
            ("5.", Err(ParseError::NotDecimal)),
            ("-1", Err(ParseError::NotDecimal)),
            ("1e3", Err(ParseError::NotDecimal)),
            ("٣", Err(ParseError::NotDecimal)),
        ] {
            assert_eq!(parse_usd(text), expected.map(NanoUsd), "{text}");
        }
    }

    #[test]
    fn cost_is_rounded_once_half_up() {
        let price = Price { input: 150_000_000, cached_input: 75_000_000, output: 600_000_000 };
        let cost = |input, cached, output| {
            price.cost(&TokenUsage {
                input_tokens: input,
                cached_input_tokens: cached,
                output_tokens: output,
                reasoning_tokens: 0,
            })
        };
        assert_eq!(cost(1_000_000, 0, 0), NanoUsd(150_000_000));
        assert_eq!(cost(10, 4, 3), NanoUsd(6 * 150 + 4 * 75 + 3 * 600));
        let tiny = Price { input: 250_000, cached_input: 250_000, output: 250_000 };
        let two = TokenUsage { input_tokens: 1, output_tokens: 1, ..TokenUsage::default() };
        assert_eq!(tiny.cost(&two), NanoUsd(1), "0.25 + 0.25 is rounded as one half, not as two quarters");
        let one = TokenUsage { input_tokens: 1, ..TokenUsage::default() };
        assert_eq!(tiny.cost(&one), NanoUsd(0));
    }

    #[test]
    fn a_thousand_of_the_dearest_calls_fit_into_a_sum() {
        let price = Price { input: u64::MAX, cached_input: u64::MAX, output: u64::MAX };
        for tokens in [CALL_TOKENS_MAX, u64::MAX] {
            let usage = TokenUsage { input_tokens: tokens, output_tokens: tokens, ..TokenUsage::default() };
            assert_eq!(price.cost(&usage), COST_MAX);
            assert!(COST_MAX.0.checked_mul(1_000).is_some());
        }
    }

    #[test]
    fn dollars_are_shown_without_noise() {
        assert_eq!(NanoUsd(0).to_string(), "$0.00");
        assert_eq!(NanoUsd(1_500_000_000).to_string(), "$1.50");
        assert_eq!(NanoUsd(-123_000).to_string(), "-$0.000123");
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(nanos in 0..=i64::MAX) {
            let shown = NanoUsd(nanos).to_string();
            prop_assert_eq!(parse_usd(&shown[1..]), Ok(NanoUsd(nanos)));
        }

        #[test]
        fn cost_never_panics_and_never_falls_with_more_tokens(
            input: u64, cached: u64, output: u64, more in 0_u64..1000, a: u64, b: u64, c: u64,
        ) {
            let price = Price { input: a, cached_input: b, output: c };
            let usage = TokenUsage { input_tokens: input, cached_input_tokens: cached, output_tokens: output, reasoning_tokens: 0 };
            let dearer = TokenUsage { output_tokens: output.saturating_add(more), ..usage };
            prop_assert!(price.cost(&usage) <= price.cost(&dearer));
        }
    }
}
