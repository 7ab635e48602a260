//! What the broker reads of a chat completion's body, and what it leaves alone.

use super::*;
use crate::ErrorCode::*;

#[test]
fn bodies() {
    let bad = |field| Rejected(InvalidField, field);
    let model = |model: &str| around(&format!(r#"{{"model":{model},"messages":[{{}}]}}"#));
    let messages = |messages: &str| around(&format!(r#"{{"model":"small","messages":{messages}}}"#));
    check(vec![
        Row("empty", &[], around("{}"), Rejected(MissingField, "body.model")),
        Row("no model", &[], around(r#"{"messages":[{}]}"#), Rejected(MissingField, "body.model")),
        Row("a model of null", &[], model("null"), Rejected(MissingField, "body.model")),
        Row("a model of 1", &[], model("1"), bad("body.model")),
        Row("an empty model", &[], model(r#""""#), bad("body.model")),
        Row("a model of 257", &[], model(&format!(r#""{}""#, "m".repeat(257))), bad("body.model")),
        Row("a model with a line break", &[], model(r#""a\nb""#), bad("body.model")),
        Row("half a surrogate pair", &[], model(r#""\udc00""#), bad("body.model")),
        Row("model twice", &[], body_with(r#","model":"large""#), bad("body.model")),
        Row("model twice, once escaped", &[], body_with(r#","mod\u0065l":"large""#), bad("body.model")),
        Row("half a surrogate pair as a name", &[], body_with(r#","\ud800":1"#), bad("body")),
        Row("no messages", &[], around(r#"{"model":"small"}"#), Rejected(MissingField, "body.messages")),
        Row("empty messages", &[], messages("[]"), Rejected(MissingField, "body.messages")),
        Row("messages of null", &[], messages("null"), Rejected(MissingField, "body.messages")),
        Row("messages as text", &[], messages(r#""hi""#), bad("body.messages")),
        Row("messages as an object", &[], messages(r#"{"0":{}}"#), bad("body.messages")),
        Row("messages of text", &[], messages(r#"["hi"]"#), bad("body.messages")),
        Row("a message of null", &[], messages("[{},null]"), bad("body.messages")),
        Row("stream", &[], body_with(r#","stream":true"#), Rejected(UnsupportedFeature, "body.stream")),
        Row("stream as text", &[], body_with(r#","stream":"yes""#), bad("body.stream")),
        Row("no stream", &[], body_with(r#","stream":false"#), Accepted(|_| {})),
        Row("zero tokens", &[], body_with(r#","max_tokens":0"#), bad("body.max_tokens")),
        Row("negative tokens", &[], body_with(r#","max_tokens":-5"#), bad("body.max_tokens")),
        Row("tokens as text", &[], body_with(r#","max_tokens":"5""#), bad("body.max_tokens")),
        Row(
            "a fraction of tokens",
            &[],
            body_with(r#","max_completion_tokens":1.5"#),
            bad("body.max_completion_tokens"),
        ),
        Row("negative choices", &[], body_with(r#","n":-1"#), bad("body.n")),
        Row("no choices", &[], body_with(r#","n":0"#), bad("body.n")),
        Row(
            "tokens of null",
            &[],
            body_with(r#","max_tokens":null,"n":null,"stream":null"#),
            Accepted(|request| {
                assert_eq!(request.facts.output_tokens_max, None);
            }),
        ),
        Row(
            "tokens",
            &[],
            body_with(r#","max_tokens":7,"n":3"#),
            Accepted(|request| {
                assert_eq!(request.facts.output_tokens_max, Some(21));
            }),
        ),
        Row(
            "both kinds of tokens",
            &[],
            body_with(r#","max_tokens":9,"max_completion_tokens":5"#),
            Accepted(|request| {
                assert_eq!(request.facts.output_tokens_max, Some(9));
            }),
        ),
        Row(
            "very many tokens",
            &[],
            body_with(r#","max_tokens":18446744073709551615,"n":2"#),
            Accepted(|request| {
                assert_eq!(request.facts.output_tokens_max, Some(u64::MAX));
            }),
        ),
    ]);
}

#[test]
fn a_body_may_have_4_mib_and_no_more() {
    let of_size = |size: usize| {
        let empty = r#"{"model":"small","messages":[{"content":""}]}"#;
        empty.replace(r#":"""#, &format!(r#":"{}""#, "x".repeat(size - empty.len())))
    };
    for bare in [false, true] {
        let payload =
            |size| if bare { of_size(size) } else { format!(r#"{{"id":"q1","body": {} }}"#, of_size(size)) };
        assert_eq!(request(decode_json(payload(BODY_BYTES_MAX))).body.as_str().len(), 4_194_304);
        let problem = problem(decode_json(payload(BODY_BYTES_MAX + 1)));
        assert_eq!((problem.code, problem.field.as_deref()), (RequestTooLarge, Some("body")));
    }
}

#[test]
fn what_the_broker_does_not_know_survives_to_the_byte() {
    let body = concat!(
        "{ \"messages\":[{\"role\":\"user\",\"content\":\"\\u00fc\\/\\ud83d\\ude80 half \\ud83d\"}],\n\t",
        "\"seed\":1234567890123456789012345678901234567890,\"big\":1e400,\"exact\":0.1000000000000000055,",
        "\"zero\":-0.0,\"temperature\":0.50,\"twice\":1,\"twice\":2,\"user\":\"u\",\"model\" : \"gpt\\u002d4\" }"
    );
    let request = request(decode_json(around(body)));
    assert_eq!(request.body.as_str(), body);
    assert_eq!(request.facts.model, "gpt-4");
}

#[test]
fn the_model_can_be_replaced_in_place() {
    for (body, bare) in [
        (r#"{"model":"gpt\u002d4","messages":[{}]}"#, false),
        (r#"{"messages":[{"model":"no"}],"x":{"model":"no"},"model":  "gpt-4" ,"z":"model"}"#, false),
        (r#"{"mod\u0065l":"gpt-4","messages":[{"content":"ü🚀"}]}"#, true),
        ("  {\"messages\":[{\"content\":\"ü🚀\"}],\n\"model\":\t\"gpt-4\"}  ", true),
    ] {
        let payload = if bare { body.as_bytes().to_vec() } else { around(body) };
        let request = request(decode_json(payload));
        assert_eq!(request.facts.model, "gpt-4");
        let (text, (start, end)) = (request.body.as_str(), request.facts.model_at);
        let replaced = format!("{}\"large\"{}", &text[..start], &text[end..]);
        let mut expected: serde_json::Value = serde_json::from_str(body).unwrap();
        expected["model"] = "large".into();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&replaced).unwrap(), expected);
    }
}
