use tollgate_protocol::response::{Attempt, Outcome, Timing};
use tollgate_protocol::{ErrorCode, Group, Team};

use super::*;

fn response(status: Status, body: Option<&str>, error: Option<Problem>) -> Response {
    let at = "2026-01-02T03:04:05Z".parse().unwrap();
    Response {
        id: RequestId::parse("fe371429-cd93").unwrap(),
        team: Team::parse("t").unwrap(),
        group: Group::parse("g").unwrap(),
        status,
        body: body.map(|text| JsonText::from_slice(text.as_bytes()).unwrap()),
        error,
        requested_model: "small".into(),
        provider: Some("sim".into()),
        model: Some("demo".into()),
        usage: TokenUsage { input_tokens: 3, output_tokens: 4, ..TokenUsage::default() },
        cost_nano_usd: NanoUsd(1_100),
        attempts: vec![Attempt {
            provider: "sim".into(),
            model: "demo".into(),
            number: 1,
            started_at: at,
            duration_ms: 12,
            outcome: Outcome::Succeeded,
            code: None,
            cost_nano_usd: NanoUsd(1_100),
            usage: TokenUsage::default(),
            price_version: String::new(),
            estimated: false,
            excused: false,
            served_model: None,
        }],
        timing: Timing { accepted_at: at, queued_ms: 5, provider_ms: 12, total_ms: 18 },
        cache: None,
    }
}

fn shown(response: &Response) -> String {
    let answer = Answer::of("my \"id\"", response);
    format!("{:?}\n{}", answer.place, answer.line)
}

#[test]
fn a_success_goes_to_the_output_file_on_one_line() {
    let body = "{\n  \"choices\": [],\r\n\"text\":\"a\\nb\"}";
    insta::assert_snapshot!(shown(&response(Status::Succeeded, Some(body), None)), @r#"
    Out
    {"id":"batch_req_fe371429cd93","custom_id":"my \"id\"","response":{"status_code":200,"request_id":"fe371429-cd93","body":{   "choices": [],  "text":"a\nb"}},"error":null,"tollgate":{"id":"fe371429-cd93","status":"succeeded","provider":"sim","model":"demo","cost_nano_usd":1100,"usage":{"input_tokens":3,"cached_input_tokens":0,"output_tokens":4,"reasoning_tokens":0},"attempts":1,"queued_ms":5,"total_ms":18}}
    "#);
}

#[test]
fn what_was_refused_has_an_http_response() {
    let problem = Problem::at(ErrorCode::UnknownModel, "body.model", "no such model");
    insta::assert_snapshot!(shown(&response(Status::Rejected, None, Some(problem))), @r#"
    Errors
    {"id":"batch_req_fe371429cd93","custom_id":"my \"id\"","response":{"status_code":404,"request_id":"fe371429-cd93","body":{"error":{"code":"unknown_model","message":"no such model","param":"body.model","type":"invalid_request_error"}}},"error":null,"tollgate":{"id":"fe371429-cd93","status":"rejected","provider":"sim","model":"demo","cost_nano_usd":1100,"usage":{"input_tokens":3,"cached_input_tokens":0,"output_tokens":4,"reasoning_tokens":0},"attempts":1,"queued_ms":5,"total_ms":18}}
    "#);
}

#[test]
fn what_never_ran_has_an_error() {
    let never = |status, code| {
        let problem = Problem::new(code, "words");
        Response { attempts: Vec::new(), ..response(status, None, Some(problem)) }
    };
    insta::assert_snapshot!(shown(&never(Status::Expired, ErrorCode::DeadlineExceeded)), @r#"
    Errors
    {"id":"batch_req_fe371429cd93","custom_id":"my \"id\"","response":null,"error":{"code":"batch_expired","message":"This request could not be executed before the completion window expired."},"tollgate":{"id":"fe371429-cd93","status":"expired","provider":"sim","model":"demo","cost_nano_usd":1100,"usage":{"input_tokens":3,"cached_input_tokens":0,"output_tokens":4,"reasoning_tokens":0},"attempts":0,"queued_ms":5,"total_ms":18}}
    "#);
    insta::assert_snapshot!(shown(&never(Status::Cancelled, ErrorCode::Cancelled)), @r#"
    Errors
    {"id":"batch_req_fe371429cd93","custom_id":"my \"id\"","response":null,"error":{"code":"batch_cancelled","message":"This request was cancelled before it was executed."},"tollgate":{"id":"fe371429-cd93","status":"cancelled","provider":"sim","model":"demo","cost_nano_usd":1100,"usage":{"input_tokens":3,"cached_input_tokens":0,"output_tokens":4,"reasoning_tokens":0},"attempts":0,"queued_ms":5,"total_ms":18}}
    "#);
    insta::assert_snapshot!(duplicate("c", &RequestId::parse("x").unwrap()).line, @r#"{"id":"batch_req_x","custom_id":"c","response":null,"error":{"code":"duplicate_id","message":"another request, with another body or other options, was sent under this custom_id in this group before, and this one was not run; choose another --group"},"tollgate":{"id":"x","status":"failed","provider":null,"model":null,"cost_nano_usd":0,"usage":{"input_tokens":0,"cached_input_tokens":0,"output_tokens":0,"reasoning_tokens":0},"attempts":0,"queued_ms":0,"total_ms":0}}"#);
}

#[test]
fn what_was_called_is_not_said_to_have_never_run() {
    let said = |status, codes: &[ErrorCode]| {
        let mut response = response(status, None, Some(Problem::new(ErrorCode::Cancelled, "words")));
        let call = response.attempts.pop().unwrap();
        let failed =
            |code: &ErrorCode| Attempt { outcome: Outcome::Failed, code: Some(*code), ..call.clone() };
        response.attempts = codes.iter().map(failed).collect();
        let line: serde_json::Value = serde_json::from_str(&Answer::of("a", &response).line).unwrap();
        assert_eq!((&line["response"], &line["tollgate"]["attempts"]), (&().into(), &codes.len().into()));
        format!("{}: {}", line["error"]["code"].as_str().unwrap(), line["error"]["message"].as_str().unwrap())
    };
    let failed = ErrorCode::ProviderUnavailable;
    assert_eq!(
        said(Status::Cancelled, &[ErrorCode::Cancelled]),
        "batch_cancelled: This request was cancelled while it was executed; what that cost is an estimate."
    );
    assert_eq!(
        said(Status::Cancelled, &[failed, failed]),
        "batch_cancelled: This request was cancelled after 2 calls without an answer."
    );
    assert_eq!(
        said(Status::Expired, &[failed]),
        "batch_expired: The completion window expired after one call of this request without an answer."
    );
}

#[test]
fn a_response_that_makes_no_sense_is_a_failure_of_its_line() {
    assert_eq!(Answer::of("a", &response(Status::Succeeded, None, None)).place, Place::Errors);
    let id = RequestId::parse("x").unwrap();
    let answer = Answer::of_payload("a", &id, Some("application/msgpack"), b"{}");
    assert_eq!(answer.place, Place::Errors);
    assert!(answer.line.contains("unreadable_response"));
}

#[test]
fn lines_are_read_back() {
    let answer = Answer::of("ü", &response(Status::Succeeded, Some("{}"), None));
    let read = kept(answer.line.as_bytes()).unwrap();
    assert_eq!(
        (read.custom_id.as_str(), read.id.as_str(), read.cost),
        ("ü", "fe371429-cd93", NanoUsd(1_100))
    );
    assert_eq!(read.usage, answer.usage);
    for cut in 0..answer.line.len() {
        assert_eq!(kept(&answer.line.as_bytes()[..cut]), None);
    }
    assert_eq!(kept(br#"{"custom_id":"a","response":null}"#), None);
}
