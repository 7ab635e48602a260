//! What an envelope asks of the broker besides the call.

use super::*;
use crate::ErrorCode::*;

#[test]
fn options() {
    let models = |count: usize| format!(r#","fallbacks":[{}]"#, vec![r#""m""#; count].join(","));
    check(vec![
        Row("cache false", &[], envelope(r#","cache":false"#), Accepted(|_| {})),
        Row("cache true", &[], envelope(r#","cache":true"#), Rejected(UnsupportedFeature, "cache")),
        Row(
            "cache of an object",
            &[],
            envelope(r#","cache":{"ttl_s":5}"#),
            Rejected(UnsupportedFeature, "cache"),
        ),
        Row(
            "not_before",
            &[],
            envelope(r#","ttl_ms":3600000,"not_before":"2026-03-01T12:30:00Z""#),
            Accepted(|request| {
                assert_eq!(request.not_before, Some("2026-03-01T12:30:00Z".parse().unwrap()));
            }),
        ),
        Row(
            "not_before without a zone",
            &[],
            envelope(r#","not_before":"2026-03-01T12:30:00""#),
            Rejected(InvalidField, "not_before"),
        ),
        Row(
            "not_before of a number",
            &[],
            envelope(r#","not_before":7"#),
            Rejected(InvalidField, "not_before"),
        ),
        Row(
            "not_before at the deadline",
            &[],
            envelope(r#","deadline":"2026-03-01T12:30:00Z","not_before":"2026-03-01T12:30:00Z""#),
            Rejected(InvalidField, "not_before"),
        ),
        Row(
            "callback",
            &[],
            envelope(r#","callback":"https://example.com""#),
            Rejected(UnsupportedFeature, "callback"),
        ),
        Row(
            "max_cost_usd",
            &[],
            envelope(r#","max_cost_usd":"0.01""#),
            Rejected(UnsupportedFeature, "max_cost_usd"),
        ),
        Row(
            "negative max_cost_usd",
            &[],
            envelope(r#","max_cost_usd":"-1""#),
            Rejected(InvalidField, "max_cost_usd"),
        ),
        Row(
            "too fine a max_cost_usd",
            &[],
            envelope(r#","max_cost_usd":"0.0000000001""#),
            Rejected(InvalidField, "max_cost_usd"),
        ),
        Row(
            "on_limit wait",
            &[],
            envelope(r#","on_limit":"wait""#),
            Accepted(|request| assert_eq!(request.on_limit, OnLimit::Wait)),
        ),
        Row(
            "on_limit reject",
            &[],
            envelope(r#","on_limit":"reject""#),
            Accepted(|request| assert_eq!(request.on_limit, OnLimit::Reject)),
        ),
        Row(
            "on_limit in upper case",
            &[],
            envelope(r#","on_limit":"Reject""#),
            Rejected(InvalidField, "on_limit"),
        ),
        Row(
            "8 fallbacks",
            &[],
            envelope(&models(8)),
            Accepted(|request| assert_eq!(request.fallbacks, ["m"; 8])),
        ),
        Row("9 fallbacks", &[], envelope(&models(9)), Rejected(InvalidField, "fallbacks")),
        Row("no fallbacks", &[], envelope(&models(0)), Accepted(|_| {})),
        Row("an empty fallback", &[], envelope(r#","fallbacks":[""]"#), Rejected(InvalidField, "fallbacks")),
        Row(
            "a long fallback",
            &[],
            envelope(&format!(r#","fallbacks":["{}"]"#, "m".repeat(257))),
            Rejected(InvalidField, "fallbacks"),
        ),
        Row(
            "a fallback with a line break",
            &[],
            envelope(r#","fallbacks":["a\nb"]"#),
            Rejected(InvalidField, "fallbacks"),
        ),
        Row(
            "a fallback of null",
            &[],
            envelope(r#","fallbacks":[null]"#),
            Rejected(InvalidField, "fallbacks"),
        ),
    ]);
}

#[test]
fn a_cost_is_explained_once() {
    let text = problem(decode_json(envelope(r#","max_cost_usd":"-1""#))).message;
    assert_eq!(text, r#"max_cost_usd: expected a decimal number of dollars such as "0.15""#);
}

#[test]
fn trace_context_is_passed_on_if_it_can_be_one() {
    let context = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let long = "x".repeat(129);
    for (text, kept) in [(context, true), ("a b", false), ("ü", false), (&long, false)] {
        let decoded = request(decode_as("research", &[(header::TRACEPARENT, text)], &envelope("")));
        assert_eq!(decoded.head.traceparent.as_deref(), kept.then_some(text));
    }
}
