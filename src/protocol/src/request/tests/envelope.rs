//! The top of an envelope: which fields there are, how often, and of which type.

use super::*;
use crate::ErrorCode::*;

#[test]
fn every_field_has_one_type() {
    check(vec![
        Row("id", &[], br#"{"id":7,"body":{}}"#.into(), Unaddressed(InvalidIdentity, "id")),
        Row("group", &[], br#"{"group":["g"],"body":{}}"#.into(), Unaddressed(InvalidIdentity, "group")),
        Row("endpoint", &[], envelope(r#","endpoint":1"#), Rejected(InvalidField, "endpoint")),
        Row("project", &[], envelope(r#","project":{}"#), Rejected(InvalidField, "project")),
        Row("user", &[], envelope(r#","user":false"#), Rejected(InvalidField, "user")),
        Row("task", &[], envelope(r#","task":[]"#), Rejected(InvalidField, "task")),
        Row("tags", &[], envelope(r#","tags":["a"]"#), Rejected(InvalidField, "tags")),
        Row("a tag", &[], envelope(r#","tags":{"a":1}"#), Rejected(InvalidField, "tags")),
        Row("a tag of null", &[], envelope(r#","tags":{"a":null}"#), Rejected(InvalidField, "tags")),
        Row("deadline", &[], envelope(r#","deadline":1767225600"#), Rejected(InvalidDeadline, "deadline")),
        Row("ttl_ms", &[], envelope(r#","ttl_ms":"60000""#), Rejected(InvalidDeadline, "ttl_ms")),
        Row("reply_to", &[], envelope(r#","reply_to":1"#), Rejected(InvalidReplyTo, "reply_to")),
        Row("fallbacks", &[], envelope(r#","fallbacks":"large""#), Rejected(InvalidField, "fallbacks")),
        Row("a fallback", &[], envelope(r#","fallbacks":[1]"#), Rejected(InvalidField, "fallbacks")),
        Row("max_cost_usd", &[], envelope(r#","max_cost_usd":0.5"#), Rejected(InvalidField, "max_cost_usd")),
        Row("on_limit", &[], envelope(r#","on_limit":true"#), Rejected(InvalidField, "on_limit")),
        Row("body as text", &[], around(r#""{}""#), Rejected(InvalidField, "body")),
        Row("body as a list", &[], around("[]"), Rejected(InvalidField, "body")),
        Row("body as a number", &[], around("1"), Rejected(InvalidField, "body")),
    ]);
}

#[test]
fn null_is_absent() {
    let nothing = "id group endpoint project user task tags deadline ttl_ms not_before reply_to callback \
                   fallbacks cache max_cost_usd on_limit messages input prompt stream seq";
    let fields: String = nothing.split_whitespace().map(|field| format!(r#","{field}":null"#)).collect();
    let with_nulls = request(decode_json(format!(r#"{{"body":{BODY}{fields}}}"#)));
    let without = request(decode_json(format!(r#"{{"body":{BODY}}}"#)));
    assert_eq!(Request { head: without.head.clone(), ..with_nulls.clone() }, without);
    assert_eq!(Head { digest: without.head.digest, ..with_nulls.head }, without.head);
    assert_eq!(without.head.identity.to_string(), "research._.seq-7");
    let bare = BODY.replacen('{', r#"{"body":null,"#, 1);
    assert!(request(decode_json(&bare)).head.bare, "a body of null makes no envelope");
}

#[test]
fn which_fields_and_how_often() {
    check(vec![
        Row("nothing", &[], b"{}".into(), Unaddressed(MissingField, "body")),
        Row("no body", &[], br#"{"id":"q1"}"#.into(), Rejected(MissingField, "body")),
        Row("a body of null", &[], around("null"), Rejected(MissingField, "body")),
        Row("body and messages", &[], envelope(r#","messages":[]"#), Rejected(AmbiguousBody, "body")),
        Row("body and input", &[], envelope(r#","input":"x""#), Rejected(AmbiguousBody, "body")),
        Row("body and prompt", &[], envelope(r#","prompt":"x""#), Rejected(AmbiguousBody, "body")),
        Row("id twice", &[], envelope(r#","id":"q2""#), Unaddressed(InvalidEnvelope, "id")),
        Row(
            "id twice, once escaped",
            &[],
            envelope(r#","\u0069d":"q2""#),
            Unaddressed(InvalidEnvelope, "id"),
        ),
        Row("body twice", &[], envelope(r#","body":{}"#), Unaddressed(InvalidEnvelope, "body")),
        Row("null twice", &[], envelope(r#","user":null,"user":null"#), Unaddressed(InvalidEnvelope, "user")),
        Row(
            "unknown fields",
            &[],
            envelope(r#","colour":1,"colour":{"a":[]},"x-y":null"#),
            Accepted(|request| {
                assert_eq!(request.body.as_str(), BODY);
            }),
        ),
        Row(
            "unserved endpoint",
            &[],
            envelope(r#","endpoint":"embeddings""#),
            Rejected(UnsupportedEndpoint, "endpoint"),
        ),
        Row(
            "unknown endpoint",
            &[],
            envelope(r#","endpoint":"chat""#),
            Rejected(UnsupportedEndpoint, "endpoint"),
        ),
        Row("empty endpoint", &[], envelope(r#","endpoint":"""#), Rejected(UnsupportedEndpoint, "endpoint")),
        Row("served endpoint", &[], envelope(r#","endpoint":"chat.completions""#), Accepted(|_| {})),
        Row(
            "the header's endpoint is for bare bodies",
            &[(header::ENDPOINT, "embeddings")],
            envelope(""),
            Accepted(|_| {}),
        ),
    ]);
}

#[test]
fn the_head_of_a_rejection_says_what_could_be_read() {
    let payload = envelope(r#","user":"ada","endpoint":"embeddings","ttl_ms":5000,"reply_to":"_INBOX.a""#);
    let Decoded::Rejected(head, problem) = decode_json(payload) else { panic!() };
    assert_eq!(problem.code, UnsupportedEndpoint);
    assert_eq!(head.identity.to_string(), "research.g1.q1");
    assert_eq!((head.requested_model.as_str(), head.endpoint), ("small", Endpoint::Embeddings));
    assert_eq!(head.meta.user.as_deref(), Some("ada"));
    assert_eq!(head.reply_to.as_deref(), Some("_INBOX.a"));
    assert_eq!(head.deadline, instant("2026-03-01T12:00:05Z"));
}
