use super::*;
use proptest::prelude::*;

const MESSAGES: &str = r#""messages":[{"role":"user","content":"hi"}]"#;

fn with(more: &str) -> String {
    format!(r#"{{"model":"m",{MESSAGES}{more}}}"#)
}

#[track_caller]
fn refused(json: &str, param: Option<&str>, code: Option<&str>) {
    let problem = Chat::parse(json.as_bytes()).map(|_| ()).expect_err(json);
    assert_eq!(
        (problem.status, problem.param.as_deref(), problem.code),
        (400, param, code),
        "{json}: {problem:?}"
    );
}

#[test]
fn what_is_not_an_object_is_refused() {
    for json in [
        "",
        "   ",
        "{",
        "[]",
        r#"["m"]"#,
        "null",
        r#""text""#,
        "{\"model\":\"\u{1}\"}",
        r#"{"model":1,"model":2}"#,
    ] {
        refused(json, None, None);
    }
    assert!(Chat::parse(b"{\"model\":\"\xff\"}").is_err());
}

#[test]
fn every_field_is_refused_by_name() {
    for (json, param, code) in [
        ("{}", "model", "missing_required_parameter"),
        (r#"{"model":null}"#, "model", "missing_required_parameter"),
        (r#"{"model":5}"#, "model", "invalid_type"),
        (r#"{"model":""}"#, "model", "invalid_value"),
        (r#"{"model":"\ud800"}"#, "model", "invalid_value"),
        (r#"{"model":"m"}"#, "messages", "missing_required_parameter"),
        (r#"{"model":"m","messages":[]}"#, "messages", "empty_array"),
        (r#"{"model":"m","messages":"hi"}"#, "messages", "invalid_type"),
        (r#"{"model":"m","messages":["hi"]}"#, "messages[0]", "invalid_type"),
        (r#"{"model":"m","messages":[["user","hi"]]}"#, "messages[0]", "invalid_type"),
        (r#"{"model":"m","messages":[{"content":"hi"}]}"#, "messages[0].role", "missing_required_parameter"),
        (r#"{"model":"m","messages":[{"role":"king","content":"hi"}]}"#, "messages[0].role", "invalid_value"),
        (
            r#"{"model":"m","messages":[{"role":"user"}]}"#,
            "messages[0].content",
            "missing_required_parameter",
        ),
        (r#"{"model":"m","messages":[{"role":"user","content":7}]}"#, "messages[0].content", "invalid_type"),
        (
            r#"{"model":"m","messages":[{"role":"user","content":[{"type":"text"}]}]}"#,
            "messages[0].content[0].text",
            "missing_required_parameter",
        ),
    ] {
        refused(json, Some(param), Some(code));
    }
    for (more, param, code) in [
        (r#","max_tokens":0"#, "max_tokens", "integer_below_min_value"),
        (r#","max_tokens":-3"#, "max_tokens", "integer_below_min_value"),
        (r#","max_tokens":128001"#, "max_tokens", "integer_above_max_value"),
        (r#","max_tokens":99999999999999999999999"#, "max_tokens", "integer_above_max_value"),
        (r#","max_tokens":1.5"#, "max_tokens", "invalid_type"),
        (r#","max_tokens":"5""#, "max_tokens", "invalid_type"),
        (r#","max_completion_tokens":0"#, "max_completion_tokens", "integer_below_min_value"),
        (r#","max_tokens":5,"max_completion_tokens":5"#, "max_tokens", "invalid_parameter_combination"),
        (r#","n":0"#, "n", "integer_below_min_value"),
        (r#","n":129"#, "n", "integer_above_max_value"),
        (r#","n":128,"max_tokens":128000"#, "n", "invalid_value"),
        (r#","temperature":2.01"#, "temperature", "decimal_above_max_value"),
        (r#","temperature":-1"#, "temperature", "decimal_below_min_value"),
        (r#","temperature":"hot""#, "temperature", "invalid_type"),
        (r#","top_p":1.5"#, "top_p", "decimal_above_max_value"),
        (r#","stop":5"#, "stop", "invalid_type"),
        (r#","stop":[5]"#, "stop", "invalid_type"),
        (r#","stop":["a","b","c","d","e"]"#, "stop", "array_above_max_length"),
        (r#","seed":0.5"#, "seed", "invalid_type"),
        (r#","stream":"yes""#, "stream", "invalid_type"),
        (r#","stream":true,"stream_options":[]"#, "stream_options", "invalid_type"),
        (
            r#","stream":true,"stream_options":{"include_usage":1}"#,
            "stream_options.include_usage",
            "invalid_type",
        ),
    ] {
        refused(&with(more), Some(param), Some(code));
    }
    refused(&with(r#","stream_options":{"include_usage":true}"#), Some("stream_options"), None);
}

#[test]
fn messages_say_where_and_never_what() {
    let json =
        r#"{"model":"m","messages":[{"role":"user","content":"a"},{"role":"top secret","content":"b"}]}"#;
    let problem = Chat::parse(json.as_bytes()).expect_err("no such role");
    assert!(problem.message.starts_with("Invalid 'messages[1].role'"), "{}", problem.message);
    assert!(!problem.message.contains("secret"));
}

#[test]
fn null_is_the_same_as_absent_and_unknown_fields_pass() {
    let json = with(
        r#","max_tokens":null,"temperature":null,"n":null,"stop":null,"seed":null,"stream":null,
           "stream_options":null,"user":"u","logit_bias":{"5":1},"response_format":{"type":"text"}"#,
    );
    let chat = Chat::parse(json.as_bytes()).expect("a valid call");
    assert_eq!((chat.tokens_max, chat.choices, chat.delivery), (None, 1, Delivery::Whole));
}

#[test]
fn prompt_tokens_follow_the_rule() {
    for (json, expected) in [
        (r#"{"model":"m","messages":[{"role":"user","content":"hi there"}]}"#, 4 + 3),
        (
            r#"{"model":"m","messages":[{"role":"system","content":""},{"role":"user","content":"hi"}]}"#,
            4 + 4 + 1,
        ),
        (
            r#"{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"hi"},{"type":"image_url"}]}]}"#,
            4 + 1 + 85,
        ),
        (r#"{"model":"m","messages":[{"role":"assistant","content":null,"tool_calls":[]}]}"#, 4 + 2),
        (r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"tools":[{"a":1}]}"#, 4 + 1 + 9),
    ] {
        assert_eq!(Chat::parse(json.as_bytes()).expect(json).prompt_tokens(), expected, "{json}");
    }
}

#[test]
fn the_question_is_the_last_message_of_the_user() {
    let json = r#"{"model":"m","messages":[{"role":"user","content":"old"},{"role":"user","content":"new"},
        {"role":"assistant","content":"yes"}]}"#;
    let chat = Chat::parse(json.as_bytes()).expect("a valid call");
    assert_eq!(chat.question().collect::<Vec<_>>(), ["new"]);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Chat::parse(&bytes);
    }

    #[test]
    fn no_text_in_any_field_makes_it_panic(
        field in "[a-z_]{1,10}|messages|stop|n|max_tokens",
        value in "[\\[\\]{}\":,0-9a-z. -]{0,40}",
    ) {
        let _ = Chat::parse(with(&format!(r#","{field}":{value}"#)).as_bytes());
    }
}
