//! MessagePack: the same envelopes, and what only MessagePack can get wrong.

use super::*;
use crate::ErrorCode::*;

/// An envelope whose body has one more field, `x`, of these bytes.
fn with_value(value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x82];
    text(&mut bytes, "id");
    text(&mut bytes, "q1");
    text(&mut bytes, "body");
    bytes.push(0x83);
    text(&mut bytes, "model");
    text(&mut bytes, "small");
    text(&mut bytes, "messages");
    bytes.extend([0x91, 0x80]);
    text(&mut bytes, "x");
    bytes.extend(value);
    bytes
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(0xa0 | u8::try_from(text.len()).unwrap());
    bytes.extend(text.as_bytes());
}

fn deep(levels: usize) -> Vec<u8> {
    let mut value = vec![0x91; levels - 1];
    value.push(0x90);
    with_value(&value)
}

#[test]
fn what_json_cannot_say_is_refused() {
    let bad = || Unaddressed(InvalidEnvelope, "");
    check(vec![
        Row("empty", MSGPACK, vec![], bad()),
        Row("nil", MSGPACK, vec![0xc0], bad()),
        Row("an array", MSGPACK, vec![0x90], bad()),
        Row("JSON", MSGPACK, envelope(""), bad()),
        Row("trailing bytes", MSGPACK, [msgpack(envelope("")), vec![0xc0]].concat(), bad()),
        Row("truncated", MSGPACK, msgpack(envelope(""))[..50].into(), bad()),
        Row("binary", MSGPACK, with_value(&[0xc4, 2, 1, 2]), bad()),
        Row("an integer as key", MSGPACK, with_value(&[0x81, 1, 2]), bad()),
        Row("nil as key", MSGPACK, with_value(&[0x81, 0xc0, 2]), bad()),
        Row("binary as key", MSGPACK, with_value(&[0x81, 0xc4, 1, b'a', 2]), bad()),
        Row("an integer as key at the top", MSGPACK, vec![0x81, 1, 2], bad()),
        Row("NaN", MSGPACK, with_value(&[0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0]), bad()),
        Row("infinity", MSGPACK, with_value(&[0xca, 0x7f, 0x80, 0, 0]), bad()),
        Row("a timestamp", MSGPACK, with_value(&[0xd6, 0xff, 0, 0, 0, 1]), bad()),
        Row("an extension", MSGPACK, with_value(&[0xc7, 3, 5, 1, 2, 3]), bad()),
        Row("text that is not UTF-8", MSGPACK, with_value(&[0xa1, 0xff]), bad()),
        Row("the reserved marker", MSGPACK, with_value(&[0xc1]), bad()),
        Row(
            "an array that claims 4 thousand million",
            MSGPACK,
            with_value(&[0xdd, 0xff, 0xff, 0xff, 0xff]),
            bad(),
        ),
        Row("text that claims 4 GiB", MSGPACK, with_value(&[0xdb, 0xff, 0xff, 0xff, 0xff]), bad()),
        Row(
            "id twice",
            MSGPACK,
            [&[0x82][..], b"\xa2id\xa1a", b"\xa2id\xa1b"].concat(),
            Unaddressed(InvalidEnvelope, "id"),
        ),
        Row("no body", MSGPACK, b"\x81\xa2id\xa1a".into(), Rejected(MissingField, "body")),
        Row("126 levels in a body", MSGPACK, deep(126), Accepted(|_| {})),
        Row("127 levels in a body", MSGPACK, deep(127), Rejected(TooDeep, "")),
        Row("a million levels", MSGPACK, deep(1_000_000), Unaddressed(TooDeep, "")),
        Row(
            "another name of it",
            &[(header::CONTENT_TYPE, "application/x-msgpack")],
            msgpack(envelope("")),
            Accepted(|_| {}),
        ),
        Row("bare", MSGPACK, msgpack(BODY), Accepted(|request| assert!(request.head.bare))),
    ]);
}

#[test]
fn numbers_keep_their_value() {
    for (value, expected) in [
        (&[0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..], "18446744073709551615"),
        (&[0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0], "-9223372036854775808"),
        (&[0xff], "-1"),
        (&[0xca, 0x3d, 0xcc, 0xcc, 0xcd], "0.1"),
        (&[0xcb, 0x3f, 0xb9, 0x99, 0x99, 0x99, 0x99, 0x99, 0x9a], "0.1"),
        (&[0xcb, 0x80, 0, 0, 0, 0, 0, 0, 0], "-0.0"),
        (&[0xcb, 0x40, 0x14, 0, 0, 0, 0, 0, 0], "5.0"),
        (&[0xa3, b'"', b'\\', 1], r#""\"\\\u0001""#),
        (&[0x80], "{}"),
        (&[0x92, 0x90, 0x81, 0xa0, 0xc2], r#"[[],{"":false}]"#),
    ] {
        let request = request(decode_as("research", MSGPACK, &with_value(value)));
        let body = format!(r#"{{"model":"small","messages":[{{}}],"x":{expected}}}"#);
        assert_eq!(request.body.as_str(), body);
        assert_eq!(&body[request.facts.model_at.0..request.facts.model_at.1], "\"small\"");
    }
}
