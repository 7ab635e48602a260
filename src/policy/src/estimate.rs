//! What a call is taken to use before it is known: for fair order, and for the ledger if it is lost.

use tollgate_protocol::record::Estimate;
use tollgate_protocol::{NanoUsd, Price, TokenUsage};

/// UTF-8 bytes of JSON per token: English text has about four, markup and quoting more tokens.
const BYTES_PER_TOKEN: u64 = 4;
/// Output tokens of a body that sets no limit.
const OUTPUT_TOKENS_DEFAULT: u64 = 512;

/// Most output tokens that an estimate believes: more than any model gives. A client may ask for any number,
/// and what it asks for must not upset the order of others or the money of a lost attempt.
const OUTPUT_TOKENS_MAX: u64 = 1_000_000;

/// Tokens of a body, before any provider has counted them.
pub fn tokens(body_bytes: usize, output_tokens_max: Option<u64>) -> TokenUsage {
    TokenUsage {
        input_tokens: (body_bytes as u64).div_ceil(BYTES_PER_TOKEN),
        output_tokens: output_tokens_max.unwrap_or(OUTPUT_TOKENS_DEFAULT).min(OUTPUT_TOKENS_MAX),
        ..TokenUsage::default()
    }
}

/// The same, when it is known how long such answers are.
pub fn tokens_expected(body_bytes: usize, output_tokens: u64) -> u64 {
    tokens(body_bytes, Some(output_tokens)).input_tokens.saturating_add(output_tokens.min(OUTPUT_TOKENS_MAX))
}

/// What a call costs at most. Every token of a body stands for at least one byte of it, and what a provider adds around a
/// message is less than the JSON around it; an answer has no more tokens than the body allows. Pictures and sound that are
/// named by an address are not in the body: for them there is no such bound.
pub fn bound(body_bytes: usize, output_tokens_max: Option<u64>, price: &Price) -> NanoUsd {
    // Nothing is taken as cached: a cache can be empty.
    let dearest = Price { input: price.input.max(price.cached_input), ..*price };
    dearest.cost(&TokenUsage {
        input_tokens: body_bytes as u64,
        output_tokens: output_tokens_max.unwrap_or(OUTPUT_TOKENS_MAX),
        ..TokenUsage::default()
    })
}

/// What is reserved for a call whose cost is estimated: with the length that such answers have, if it is known, and never
/// more than what it costs at most.
pub fn reserved(
    body_bytes: usize,
    output_tokens_max: Option<u64>,
    expected_output: Option<u64>,
    price: &Price,
) -> NanoUsd {
    let most = output_tokens_max.unwrap_or(OUTPUT_TOKENS_MAX);
    let usage = tokens(body_bytes, Some(expected_output.unwrap_or(most).min(most)));
    price.cost(&usage).min(bound(body_bytes, output_tokens_max, price))
}

/// The same in tokens.
pub fn reserved_tokens(
    body_bytes: usize,
    output_tokens_max: Option<u64>,
    expected_output: Option<u64>,
) -> u64 {
    let most = output_tokens_max.unwrap_or(OUTPUT_TOKENS_MAX);
    let usage = tokens(body_bytes, Some(expected_output.unwrap_or(most).min(most)));
    usage.input_tokens.saturating_add(usage.output_tokens)
}

/// Tokens and cost of one attempt.
pub fn attempt(body_bytes: usize, output_tokens_max: Option<u64>, price: &Price) -> Estimate {
    let usage = tokens(body_bytes, output_tokens_max);
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
        assert_eq!(tokens(400, None).output_tokens, OUTPUT_TOKENS_DEFAULT);
        assert_eq!(
            tokens(400, Some(7)),
            TokenUsage { input_tokens: 100, output_tokens: 7, ..Default::default() }
        );
        assert_eq!(tokens(0, Some(u64::MAX)).output_tokens, OUTPUT_TOKENS_MAX);
    }
}
