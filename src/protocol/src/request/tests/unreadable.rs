//! What is no JSON object, or says of itself that it is something else.

use super::*;
use crate::ErrorCode::*;

#[test]
fn what_cannot_be_read_is_told_so() {
    let deep = |levels: usize| body_with(&format!(r#","x":{}"#, nested(levels)));
    check(vec![
        Row("empty", &[], b"".into(), Unaddressed(InvalidEnvelope, "")),
        Row("blank", &[], b" \n\t".into(), Unaddressed(InvalidEnvelope, "")),
        Row("not JSON", &[], b"hello".into(), Unaddressed(InvalidEnvelope, "")),
        Row("null", &[], b"null".into(), Unaddressed(InvalidEnvelope, "")),
        Row("a number", &[], b"7".into(), Unaddressed(InvalidEnvelope, "")),
        Row("an array", &[], b"[{}]".into(), Unaddressed(InvalidEnvelope, "")),
        Row("a string", &[], br#""{}""#.into(), Unaddressed(InvalidEnvelope, "")),
        Row(
            "a byte order mark",
            &[],
            [b"\xef\xbb\xbf", &*envelope("")].concat(),
            Unaddressed(InvalidEnvelope, ""),
        ),
        Row(
            "not UTF-8",
            &[],
            body_with(",\"x\":\"\u{0}\"").into_iter().map(|b| if b == 0 { 0xff } else { b }).collect(),
            Unaddressed(InvalidEnvelope, ""),
        ),
        Row(
            "UTF-16",
            &[],
            "{}".encode_utf16().flat_map(u16::to_le_bytes).collect(),
            Unaddressed(InvalidEnvelope, ""),
        ),
        Row("cut off", &[], envelope("")[..40].into(), Unaddressed(InvalidEnvelope, "")),
        Row("two values", &[], [envelope(""), envelope("")].concat(), Unaddressed(InvalidEnvelope, "")),
        Row("a comma too many", &[], envelope(","), Unaddressed(InvalidEnvelope, "")),
        Row("a leading zero", &[], body_with(r#","x":01"#), Unaddressed(InvalidEnvelope, "")),
        Row("NaN", &[], body_with(r#","x":NaN"#), Unaddressed(InvalidEnvelope, "")),
        Row("a raw control character", &[], body_with(",\"x\":\"\n\""), Unaddressed(InvalidEnvelope, "")),
        Row(
            "half a surrogate pair as a name",
            &[],
            envelope(r#","\ud800":1"#),
            Unaddressed(InvalidEnvelope, ""),
        ),
        Row("white space around", &[], [b" \r\n", &*envelope(""), b"\n"].concat(), Accepted(|_| {})),
        Row("126 levels in a body", &[], deep(126), Accepted(|_| {})),
        Row("127 levels in a body", &[], deep(127), Rejected(TooDeep, "")),
        Row("a million levels", &[], deep(1_000_000), Rejected(TooDeep, "")),
        Row("a million open brackets", &[], "[".repeat(1_000_000).into(), Unaddressed(InvalidEnvelope, "")),
    ]);
}

#[test]
fn content_types() {
    fn of<'a>(text: &'a str, header: &'a mut [(&'a str, &'a str); 1]) -> HeaderList<'a> {
        header[0] = (header::CONTENT_TYPE, text);
        header
    }
    let mut rows = [[("", "")]; 8];
    let [json, charset, upper, text, empty, bare_text, broken, octets] = &mut rows;
    check(vec![
        Row("JSON", of("application/json", json), envelope(""), Accepted(|_| {})),
        Row("with a charset", of("application/json; charset=utf-8", charset), envelope(""), Accepted(|_| {})),
        Row("in upper case", of(" Application/JSON ", upper), envelope(""), Accepted(|_| {})),
        Row("text", of("text/plain", text), envelope(""), Rejected(UnsupportedEncoding, "Content-Type")),
        Row("empty", of("", empty), envelope(""), Rejected(UnsupportedEncoding, "Content-Type")),
        Row(
            "text, bare",
            of("text/plain", bare_text),
            BODY.into(),
            Unaddressed(UnsupportedEncoding, "Content-Type"),
        ),
        Row(
            "text, no JSON",
            of("text/plain", broken),
            b"hello".into(),
            Unaddressed(UnsupportedEncoding, "Content-Type"),
        ),
        Row(
            "octets",
            of("application/octet-stream", octets),
            msgpack(BODY),
            Unaddressed(UnsupportedEncoding, "Content-Type"),
        ),
    ]);
}

#[test]
fn acknowledgements_are_drained_and_nothing_else_is() {
    check(vec![
        Row("success", &[], br#"{"stream":"LLM_REQ","seq":12}"#.into(), Drained),
        Row("success in a domain", &[], br#"{"stream":"LLM_REQ","domain":"hub","seq":12,"duplicate":true}"#.into(), Drained),
        Row("of a counter", &[], br#"{"stream":"LLM_BUDGET","seq":12,"val":"17"}"#.into(), Drained),
        Row("error", &[], br#"{"error":{"code":400,"err_code":10077,"description":"maximum messages per subject exceeded"},"stream":"LLM_REQ","seq":0}"#.into(), Drained),
        Row("error without a stream", &[], br#"{"error":{"code":503,"err_code":10008,"description":"x"}}"#.into(), Drained),
        Row("a request that streams", &[], br#"{"stream":true,"seq":1}"#.into(), Unaddressed(MissingField, "body")),
        Row("with an id", &[], br#"{"id":"q1","stream":"x","seq":1}"#.into(), Rejected(MissingField, "body")),
        Row("an error of OpenAI", &[], br#"{"error":{"message":"x","code":"y"}}"#.into(), Unaddressed(MissingField, "body")),
        Row("an envelope with both", &[], envelope(r#","stream":"x","seq":1"#), Accepted(|_| {})),
        Row("a bare body with both", &[], BODY.replacen('{', r#"{"seq":1,"stream":"x","#, 1).into(), Unaddressed(InvalidField, "stream")),
    ]);
}
