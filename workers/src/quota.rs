//! What a provider says in headers is left of its limits.
//!
//! OpenAI: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, the reset as a duration such as `6m0s` or `120ms`
//! (<https://platform.openai.com/docs/guides/rate-limits>). Anthropic:
//! `anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,remaining,reset}`, the reset as RFC 3339
//! (<https://docs.anthropic.com/en/api/rate-limits>). Both resets are when the limit is full again.

use reqwest::header::HeaderMap;
use tollgate_policy::quota::Left;
use tollgate_protocol::Timestamp;

const OPENAI: [(&str, bool); 2] = [("requests", false), ("tokens", true)];
const ANTHROPIC: [(&str, bool); 4] =
    [("requests", false), ("tokens", true), ("input-tokens", true), ("output-tokens", true)];

/// What is left; a limit of which anything is absent or unreadable is none.
pub(crate) fn left(headers: &HeaderMap, now: Timestamp) -> Vec<Left> {
    let text = |name: String| headers.get(name)?.to_str().ok().map(str::trim);
    let number = |name: String| text(name)?.parse::<u64>().ok();
    let openai = OPENAI.iter().filter_map(|(what, is_of_tokens)| {
        Some(Left {
            is_of_tokens: *is_of_tokens,
            limit: number(format!("x-ratelimit-limit-{what}"))?,
            remaining: number(format!("x-ratelimit-remaining-{what}"))?,
            full_in_ms: duration_ms(text(format!("x-ratelimit-reset-{what}"))?)?,
        })
    });
    let anthropic = ANTHROPIC.iter().filter_map(|(what, is_of_tokens)| {
        let reset = text(format!("anthropic-ratelimit-{what}-reset"))?;
        let reset = chrono::DateTime::parse_from_rfc3339(reset).ok()?.to_utc();
        Some(Left {
            is_of_tokens: *is_of_tokens,
            limit: number(format!("anthropic-ratelimit-{what}-limit"))?,
            remaining: number(format!("anthropic-ratelimit-{what}-remaining"))?,
            full_in_ms: u64::try_from((reset - now).num_milliseconds()).unwrap_or(0),
        })
    });
    openai.chain(anthropic).collect()
}

/// `1h2m3.5s`, `6m0s`, `120ms`, in milliseconds, rounded up.
fn duration_ms(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut sum = 0.0_f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest.get(..digits)?.parse().ok()?;
        let unit = rest.get(digits..)?;
        let (factor, length) = if unit.starts_with("ms") {
            (1.0, 2)
        } else if unit.starts_with('s') {
            (1_000.0, 1)
        } else if unit.starts_with('m') {
            (60_000.0, 1)
        } else if unit.starts_with('h') {
            (3_600_000.0, 1)
        } else {
            return None;
        };
        sum += value * factor;
        rest = unit.get(length..)?;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to a day")]
    let milliseconds = sum.clamp(0.0, 86_400_000.0).ceil() as u64;
    Some(milliseconds)
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn durations_are_read_as_openai_writes_them() {
        for (text, expected) in [
            ("1s", Some(1_000)),
            ("6m0s", Some(360_000)),
            ("120ms", Some(120)),
            ("1h2m3.5s", Some(3_723_500)),
            ("0s", Some(0)),
            ("9999999h", Some(86_400_000)),
            ("", None),
            ("12", None),
            ("soon", None),
            ("1.2.3s", None),
            ("-1s", None),
        ] {
            assert_eq!(duration_ms(text), expected, "{text}");
        }
    }

    #[test]
    fn both_kinds_of_headers_are_read_and_halves_are_none() {
        let now = Timestamp::from_timestamp(1_790_000_000, 0).unwrap();
        let later = (now + chrono::TimeDelta::seconds(30)).to_rfc3339();
        let headers: HeaderMap = [
            ("x-ratelimit-limit-requests", "600"),
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "100ms"),
            ("x-ratelimit-limit-tokens", "1000"),
            ("x-ratelimit-remaining-tokens", "nothing"),
            ("x-ratelimit-reset-tokens", "1s"),
            ("anthropic-ratelimit-input-tokens-limit", "50000"),
            ("anthropic-ratelimit-input-tokens-remaining", "7"),
            ("anthropic-ratelimit-input-tokens-reset", later.as_str()),
            ("anthropic-ratelimit-requests-remaining", "0"),
        ]
        .into_iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
        .collect();
        let expected = [
            Left { is_of_tokens: false, limit: 600, remaining: 0, full_in_ms: 100 },
            Left { is_of_tokens: true, limit: 50_000, remaining: 7, full_in_ms: 30_000 },
        ];
        assert_eq!(left(&headers, now), expected);
    }
}
