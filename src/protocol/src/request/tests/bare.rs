//! Bare bodies: the endpoint's own JSON as the payload, everything else in headers.

use super::*;
use crate::ErrorCode::*;

const ALL: HeaderList<'static> = &[
    (header::CONTENT_TYPE, "application/json"),
    (header::ID, "q-1"),
    (header::GROUP, "batch"),
    (header::ENDPOINT, "chat.completions"),
    (header::PROJECT, "apollo"),
    (header::USER, "ada"),
    (header::TASK, "summaries"),
    (header::TAGS, "application=mail, use_case=triage,"),
    (header::TTL_MS, "5000"),
    (header::REPLY_TO, "_INBOX.a.b"),
    (header::TRACEPARENT, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
];

#[test]
fn headers_say_everything_an_envelope_says() {
    let request = request(decode_as("research", ALL, BODY.as_bytes()));
    assert!(request.head.bare);
    assert_eq!(request.head.identity.to_string(), "research.batch.q-1");
    let meta = &request.head.meta;
    assert_eq!(
        [&meta.project, &meta.user, &meta.task].map(|label| label.as_deref()),
        [Some("apollo"), Some("ada"), Some("summaries")]
    );
    assert_eq!(
        meta.tags.iter().map(|(name, value)| format!("{name}:{value}")).collect::<Vec<_>>(),
        ["application:mail", "use_case:triage"]
    );
    assert_eq!(request.head.deadline, instant("2026-03-01T12:00:05Z"));
    assert_eq!(request.head.reply_to.as_deref(), Some("_INBOX.a.b"));
    assert_eq!(request.body.as_str(), BODY);
}

#[test]
fn the_body_stays_as_it_is() {
    let body = r#"{"model":"small","messages":[{}],"user":"u-1","id":5,"group":"_","tags":7,"deadline":"x","metadata":{"a":1.0}}"#;
    let request = request(decode_json(format!("  {body}\n")));
    assert_eq!(request.body.as_str(), body, "fields that an envelope has belong to the provider here");
    assert_eq!(request.head.meta, crate::Meta::default());
    assert_eq!(request.head.identity.to_string(), "research._.seq-7");
}

#[test]
fn bare_bodies() {
    let with = |more: &str| Vec::from(format!(r#"{{"model":"small","messages":[{{"role":"user"}}]{more}}}"#));
    check(vec![
        Row("bad id", &[(header::ID, "a.b")], BODY.into(), Unaddressed(InvalidIdentity, "id")),
        Row("empty id", &[(header::ID, "")], BODY.into(), Unaddressed(InvalidIdentity, "id")),
        Row("the broker's id", &[(header::ID, "seq-1")], BODY.into(), Unaddressed(InvalidIdentity, "id")),
        Row("bad group", &[(header::GROUP, "_")], BODY.into(), Unaddressed(InvalidIdentity, "group")),
        Row(
            "unknown endpoint",
            &[(header::ENDPOINT, "x")],
            BODY.into(),
            Unaddressed(UnsupportedEndpoint, "endpoint"),
        ),
        Row(
            "unserved endpoint",
            &[(header::ENDPOINT, "rerank")],
            BODY.into(),
            Unaddressed(UnsupportedEndpoint, "endpoint"),
        ),
        Row(
            "input",
            &[(header::ENDPOINT, "embeddings")],
            br#"{"model":"small","input":"x"}"#.into(),
            Unaddressed(UnsupportedEndpoint, "endpoint"),
        ),
        Row(
            "input, no endpoint",
            &[],
            br#"{"model":"small","input":"x"}"#.into(),
            Unaddressed(MissingField, "messages"),
        ),
        Row(
            "prompt, no endpoint",
            &[],
            br#"{"model":"small","prompt":"x"}"#.into(),
            Unaddressed(MissingField, "messages"),
        ),
        Row("no model", &[], br#"{"messages":[{}]}"#.into(), Unaddressed(MissingField, "model")),
        Row(
            "a bad field, named as its sender knows it",
            &[],
            with(r#","max_tokens":-1"#),
            Unaddressed(InvalidField, "max_tokens"),
        ),
        Row("model twice", &[], with(r#","model":"b""#), Unaddressed(InvalidField, "model")),
        Row("messages twice", &[], with(r#","messages":[]"#), Unaddressed(InvalidEnvelope, "messages")),
        Row("stream", &[], with(r#","stream":true"#), Unaddressed(UnsupportedFeature, "stream")),
        Row("tags without =", &[(header::TAGS, "a")], BODY.into(), Unaddressed(InvalidField, "tags")),
        Row("a tag twice", &[(header::TAGS, "a=1,a=2")], BODY.into(), Unaddressed(InvalidField, "tags")),
        Row("an empty tag", &[(header::TAGS, "a=")], BODY.into(), Unaddressed(InvalidField, "tags")),
        Row(
            "a tag with =",
            &[(header::TAGS, "a=b=c")],
            BODY.into(),
            Accepted(|request| {
                assert_eq!(request.head.meta.tags["a"], "b=c");
            }),
        ),
        Row("no tags", &[(header::TAGS, "")], BODY.into(), Accepted(|_| {})),
        Row("an empty user", &[(header::USER, "")], BODY.into(), Unaddressed(InvalidField, "user")),
        Row(
            "a bad deadline",
            &[(header::DEADLINE, "soon")],
            BODY.into(),
            Unaddressed(InvalidDeadline, "deadline"),
        ),
        Row(
            "a bad inbox",
            &[(header::REPLY_TO, "llm.req.x.high")],
            BODY.into(),
            Unaddressed(InvalidReplyTo, "reply_to"),
        ),
        Row(
            "127 levels",
            &[],
            with(&format!(r#","x":{}"#, nested(126))),
            Accepted(|request| {
                serde_json::from_str::<serde_json::Value>(request.body.as_str()).unwrap();
            }),
        ),
        Row("128 levels", &[], with(&format!(r#","x":{}"#, nested(127))), Unaddressed(TooDeep, "")),
    ]);
}
