use super::*;
use proptest::prelude::*;
use tollgate_policy::failure::Class;
use tollgate_protocol::job::Target;
use tollgate_protocol::{Digest, Encoding, Identity, Meta, Priority, Timestamp, TokenUsage};

fn job(body: &str) -> Job {
    let start = body.find("\"small\"").unwrap();
    let time = Timestamp::from_timestamp_millis(1_790_000_000_000).unwrap();
    Job {
        identity: Identity::from_tokens("team._.seq-1").unwrap(),
        run: 0,
        digest: Digest::of(body.as_bytes()),
        sequence: 1,
        priority: Priority::Normal,
        endpoint: tollgate_protocol::request::Endpoint::default(),
        encoding: Encoding::Json,
        bare: false,
        requested_model: "small".into(),
        targets: vec![Target { provider: "openai".into(), model: "gpt-4o-mini".into() }],
        typed: tollgate_protocol::job::Typed::default(),
        target: 0,
        probe: None,
        history: vec![],
        accepted_at: time,
        deadline: time,
        meta: Meta::default(),
        reply_to: None,
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        reserved: None,
        rejects_on_limit: false,
        reserved_prices: Vec::new(),
        input_tokens: None,
        media: 0,
        media_bytes: 0,
        output_tokens_max: None,
        choices: 1,
        model_at: (start, start + "\"small\"".len()),
        body: Bytes::copy_from_slice(body.as_bytes()),
        body_digest: None,
        body_ref: None,
    }
}

#[test]
fn only_the_model_changes() {
    let call = OpenAi
        .request(
            &job(r#"{"x_unknown":[1.50, 1e400], "model": "small" ,"messages":[{"role":"user"}]}"#),
            "gpt \"4\"",
        )
        .unwrap();
    assert_eq!(call.path, "/chat/completions");
    assert_eq!(call.headers.len(), 1);
    assert_eq!(
        call.body,
        r#"{"x_unknown":[1.50, 1e400], "model": "gpt \"4\"" ,"messages":[{"role":"user"}]}"#.as_bytes()
    );
}

#[test]
fn a_wrong_place_of_the_model_is_a_problem_and_no_panic() {
    let mut job = job(r#"{"model":"small"}"#);
    job.model_at = (9, 900);
    assert_eq!(OpenAi.request(&job, "m").unwrap_err().code, ErrorCode::Internal);
}

fn read(status: u16, body: &str) -> Reading {
    OpenAi.read(&Answer {
        status,
        retry_after_ms: Some(7),
        left: Vec::new(),
        body: Bytes::copy_from_slice(body.as_bytes()),
    })
}

#[test]
fn counts_and_model_are_read_and_the_body_is_kept() {
    let body = r#"{"id":"c","model":"gpt-4o-mini-2024","choices":[{"index":0}],"usage":{"prompt_tokens":10,
        "completion_tokens":7,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}}"#;
    let Reading::Answered { body: kept, usage, served_model } = read(200, body) else {
        panic!("not answered")
    };
    assert_eq!(kept.as_str(), body);
    assert_eq!(served_model.as_deref(), Some("gpt-4o-mini-2024"));
    let expected =
        TokenUsage { input_tokens: 10, cached_input_tokens: 4, output_tokens: 7, reasoning_tokens: 2 };
    assert_eq!(usage, Some(expected));
    let Reading::Answered { usage, .. } = read(200, r#"{"choices":[{}]}"#) else { panic!("not answered") };
    assert_eq!(usage, None, "counts that are not there are not invented");
    for counts in [
        "{}",
        "null",
        r#"{"prompt_tokens":-1,"completion_tokens":1}"#,
        r#"{"prompt_tokens":1,"completion_tokens":null}"#,
        "7",
    ] {
        let body = format!(r#"{{"choices":[{{}}],"usage":{counts},"model":7}}"#);
        let Reading::Answered { usage, served_model, .. } = read(200, &body) else {
            panic!("{counts}: not answered")
        };
        assert_eq!((usage, served_model), (None, None), "{counts}");
    }
}

#[test]
fn every_status_has_a_class() {
    let error =
        |code: &str| format!(r#"{{"error":{{"message":"m","type":"t","param":null,"code":"{code}"}}}}"#);
    let too_long = |param: &str| {
        format!(r#"{{"error":{{"message":"m","code":"string_above_max_length","param":"{param}"}}}}"#)
    };
    for (status, body, expected) in [
        (400, error("x"), Class::Rejected),
        (400, error("context_length_exceeded"), Class::ContextTooLong),
        (400, error("content_policy_violation"), Class::ContentPolicy),
        (401, error("invalid_api_key"), Class::Unauthorized),
        (400, error("exceed_context_size_error"), Class::ContextTooLong),
        (
            400,
            r#"{"error":"This model's maximum context length is 4096 tokens."}"#.to_owned(),
            Class::ContextTooLong,
        ),
        (
            500,
            r#"{"error":{"code":500,"message":"Context size has been exceeded."}}"#.to_owned(),
            Class::ContextTooLong,
        ),
        (400, too_long("messages[0].content"), Class::ContextTooLong),
        (400, too_long("user"), Class::Rejected),
        (
            400,
            r#"{"error":{"code":"x","innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#.to_owned(),
            Class::ContentPolicy,
        ),
        (400, error("content_filter"), Class::ContentPolicy),
        (403, error("model_not_found"), Class::UnknownModel),
        (402, error("x"), Class::OutOfCredit),
        (403, String::new(), Class::Unauthorized),
        (404, error("model_not_found"), Class::UnknownModel),
        (408, String::new(), Class::Overloaded),
        (409, String::new(), Class::Overloaded),
        (413, String::new(), Class::Rejected),
        (422, error("x"), Class::Rejected),
        (429, error("rate_limit_exceeded"), Class::Throttled { retry_after_ms: Some(7) }),
        (429, error("insufficient_quota"), Class::OutOfCredit),
        (500, "<html>".to_owned(), Class::Overloaded),
        (503, r#"{"error":"busy"}"#.to_owned(), Class::Overloaded),
        (529, String::new(), Class::Overloaded),
        (302, String::new(), Class::Malformed),
        (200, "{".to_owned(), Class::Truncated),
        (200, "<html>".to_owned(), Class::Malformed),
        (200, "[]".to_owned(), Class::Malformed),
        (200, r#"{"choices":[]}"#.to_owned(), Class::Malformed),
        (200, error("x"), Class::Malformed),
    ] {
        let Reading::Failed(failure) = read(status, &body) else { panic!("{status} {body}: not failed") };
        assert_eq!(failure.class, expected, "{status} {body}");
        assert!(!failure.message.is_empty());
    }
}

proptest! {
    #[test]
    fn any_answer_is_read_without_a_panic(status: u16, body: Vec<u8>, text in ".*") {
        let answer = |body: Bytes| Answer { status, retry_after_ms: None, left: Vec::new(), body };
        let _ = OpenAi.read(&answer(body.into()));
        let _ = OpenAi.read(&answer(text.clone().into()));
        let _ = OpenAi.read(&answer(format!("{{\"error\":{{\"message\":{text:?}}}}}").into()));
    }
}
