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
    insta::assert_snapshot!(shown(&response(Status::Succeeded, Some(body), None)), @"");
}

#[test]
fn what_was_refused_has_an_http_response() {
    let problem = Problem::at(ErrorCode::UnknownModel, "body.model", "no such model");
    insta::assert_snapshot!(shown(&response(Status::Rejected, None, Some(problem))), @"");
}

#[test]
fn what_never_ran_has_an_error() {
    let problem = Problem::new(ErrorCode::DeadlineExceeded, "too late");
    insta::assert_snapshot!(shown(&response(Status::Expired, None, Some(problem))), @"");
    let problem = Problem::new(ErrorCode::Cancelled, "taken back");
    insta::assert_snapshot!(shown(&response(Status::Cancelled, None, Some(problem))), @"");
    insta::assert_snapshot!(duplicate("c", &RequestId::parse("x").unwrap()).line, @"");
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
    assert_eq!((read.custom_id.as_str(), read.id.as_str(), read.cost), ("ü", "fe371429-cd93", NanoUsd(1_100)));
    assert_eq!(read.usage, answer.usage);
    for cut in 0..answer.line.len() {
        assert_eq!(kept(&answer.line.as_bytes()[..cut]), None);
    }
    assert_eq!(kept(br#"{"custom_id":"a","response":null}"#), None);
}
