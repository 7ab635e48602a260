//! What a call is taken to use before it is known: for fair order, and for the ledger if it is lost.
//!
//! How many tokens its input has says [`crate::inputs`]; how long its answer will be, [`crate::outputs`].

use tollgate_protocol::record::Estimate;
use tollgate_protocol::{NanoUsd, Price, TokenUsage};

/// UTF-8 bytes of JSON per token of an answer that its provider did not count.
const BYTES_PER_TOKEN: u64 = 4;
/// Output tokens of a body that sets no limit.
const OUTPUT_TOKENS_DEFAULT: u64 = 512;

/// Most output tokens that an estimate believes: more than any model gives. A client may ask for any number,
/// and what it asks for must not upset the order of others or the money of a lost attempt.
const OUTPUT_TOKENS_MAX: u64 = 1_000_000;

/// Tokens of a call, before any provider has counted them.
pub fn tokens(input_tokens: u64, output_tokens_max: Option<u64>) -> TokenUsage {
    TokenUsage {
        input_tokens,
        output_tokens: output_tokens_max.unwrap_or(OUTPUT_TOKENS_DEFAULT).min(OUTPUT_TOKENS_MAX),
        ..TokenUsage::default()
    }
}

/// All of them together; `expected` is how long such answers are, if that is known.
pub fn tokens_expected(input_tokens: u64, output_tokens_max: Option<u64>, expected: Option<u64>) -> u64 {
    let usage = tokens(input_tokens, expected.or(output_tokens_max));
    usage.input_tokens.saturating_add(usage.output_tokens)
}

/// Tokens of a call that was answered, and whose provider did not count: no more of them than were asked for.
pub fn tokens_of_answer(
    input_tokens: u64,
    output_tokens_max: Option<u64>,
    answer_bytes: usize,
) -> TokenUsage {
    let most = output_tokens_max.unwrap_or(OUTPUT_TOKENS_MAX).min(OUTPUT_TOKENS_MAX);
    let output_tokens = (answer_bytes as u64).div_ceil(BYTES_PER_TOKEN).min(most);
    TokenUsage { input_tokens, output_tokens, ..TokenUsage::default() }
}

/// The most output tokens that a body allows, over all the answers that it asks for, as far as that follows from it.
pub fn allowed(output_tokens_max: Option<u64>, choices: u64) -> Option<u64> {
    let of_many = || (choices > 1).then(|| choices.saturating_mul(OUTPUT_TOKENS_MAX));
    output_tokens_max.or_else(of_many)
}

/// What a call costs at most; `allowed` is the most output tokens. Every token of a body stands for at least one byte of it, and what a provider adds around a
/// message is less than the JSON around it; an answer has no more tokens than the body allows. Pictures and sound that are
/// named by an address are not in the body: for them there is no such bound.
pub fn bound(body_bytes: usize, allowed: Option<u64>, price: &Price) -> NanoUsd {
    // Nothing is taken as cached: a cache can be empty.
    let dearest = Price { input: price.input.max(price.cached_input), ..*price };
    dearest.cost(&TokenUsage {
        input_tokens: body_bytes as u64,
        output_tokens: allowed.unwrap_or(OUTPUT_TOKENS_MAX),
        ..TokenUsage::default()
    })
}

/// What is reserved for a call whose usage is estimated: with the length that such answers have, if it is known.
pub fn reserved(
    input_tokens: u64,
    output_tokens_max: Option<u64>,
    expected_output: Option<u64>,
) -> TokenUsage {
    let most = output_tokens_max.unwrap_or(OUTPUT_TOKENS_MAX);
    tokens(input_tokens, Some(expected_output.unwrap_or(most).min(most)))
}

/// Tokens and cost of one attempt.
pub fn attempt(input_tokens: u64, output_tokens_max: Option<u64>, price: &Price) -> Estimate {
    let usage = tokens(input_tokens, output_tokens_max);
    Estimate {
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
        cost_nano_usd: price.cost(&usage),
        price_version: price.version(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_wish_of_a_client_is_believed_without_limit() {
        assert_eq!(tokens(100, None).output_tokens, OUTPUT_TOKENS_DEFAULT);
        assert_eq!(
            tokens(100, Some(7)),
            TokenUsage { input_tokens: 100, output_tokens: 7, ..Default::default() }
        );
        assert_eq!(tokens(0, Some(u64::MAX)).output_tokens, OUTPUT_TOKENS_MAX);
        assert_eq!(tokens_expected(u64::MAX, None, Some(1)), u64::MAX);
        assert_eq!(tokens_expected(100, Some(50), Some(7)), 107);
        assert_eq!(tokens_expected(100, Some(50), None), 150);
        let price = Price { input: 0, cached_input: 0, output: 1_000_000 };
        let most = |max, choices| bound(0, allowed(max, choices), &price).0;
        let million = OUTPUT_TOKENS_MAX as i64;
        assert_eq!(
            (most(None, 1), most(None, 3), most(Some(7), 3)),
            (million, 3 * million, 7),
            "over all answers"
        );
        let answered = |most, bytes| tokens_of_answer(100, most, bytes).output_tokens;
        assert_eq!((answered(Some(10), 340), answered(None, 340), answered(Some(10), 8)), (10, 85, 2));
    }
}
