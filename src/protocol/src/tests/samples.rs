//! One message of each kind, as fixed as a fixture.

use crate::event::{BudgetEvent, BudgetKind, Kind, LifecycleEvent};
use crate::request::Endpoint;
use crate::response::{Attempt, Outcome, Response, Status, Timing};
use crate::usage::{self, UsageEvent};
use crate::*;

fn at(time: &str) -> Timestamp {
    format!("2026-03-01T{time}Z").parse().unwrap()
}

pub(crate) fn identity() -> Identity {
    Identity::from_tokens("research.batch-1.019ca8f2-0000-7000-8000-000000000001").unwrap()
}

fn meta() -> Meta {
    let tags = [("application", "mail"), ("use_case", "triage")];
    Meta {
        project: Some("apollo".into()),
        user: Some("ada".into()),
        task: Some("summaries".into()),
        tags: tags.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        key: Some("vk-1".into()),
    }
}

fn call(number: u32, outcome: Outcome, code: Option<ErrorCode>) -> Attempt {
    let usage = match outcome {
        Outcome::Failed => TokenUsage::default(),
        _ => TokenUsage {
            input_tokens: 1200,
            cached_input_tokens: 1000,
            output_tokens: 80,
            reasoning_tokens: 16,
        },
    };
    let price = Price { input: 150_000_000, cached_input: 75_000_000, output: 600_000_000 };
    Attempt {
        provider: "openai".into(),
        model: "gpt-4o-mini".into(),
        number,
        started_at: at(&format!("12:00:0{number}.250")),
        duration_ms: 640,
        outcome,
        code,
        cost_nano_usd: price.cost(&usage),
        usage,
        price_version: price.version(),
        estimated: outcome == Outcome::Lost,
        served_model: (outcome == Outcome::Succeeded).then(|| "gpt-4o-mini-2024-07-18".into()),
        excused: false,
    }
}

/// One response of each status.
pub(crate) fn responses() -> Vec<(&'static str, Response)> {
    let Identity { team, group, id } = identity();
    let ended = |status, code: ErrorCode, text: &str, attempts: Vec<Attempt>| {
        let error = Problem::new(code, text);
        let sum = |usage: TokenUsage, attempt: &Attempt| usage.plus(attempt.usage);
        Response {
            id: id.clone(),
            team: team.clone(),
            group: group.clone(),
            status,
            body: None,
            error: Some(error),
            requested_model: "small".into(),
            provider: None,
            model: None,
            usage: attempts.iter().fold(TokenUsage::default(), sum),
            cost_nano_usd: attempts.iter().map(|attempt| attempt.cost_nano_usd).sum(),
            timing: Timing {
                accepted_at: at("12:00:00"),
                queued_ms: 1250,
                provider_ms: 640 * attempts.len() as u64,
                total_ms: 2900,
            },
            attempts,
            cache: None,
        }
    };
    let throttled = || call(1, Outcome::Failed, Some(ErrorCode::ProviderThrottled));
    let calls = vec![throttled(), call(2, Outcome::Succeeded, None)];
    let answer = serde_json::json!({"object": "chat.completion", "choices": [{"index": 0, "message":
        {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}]});
    let succeeded = Response {
        body: Some(answer.into()),
        error: None,
        provider: Some("openai".into()),
        model: Some("gpt-4o-mini".into()),
        ..ended(Status::Succeeded, ErrorCode::Internal, "", calls)
    };
    let mut rejected =
        ended(Status::Rejected, ErrorCode::InvalidDeadline, "deadline: more than 7 days ahead", vec![]);
    rejected.error = rejected.error.map(|error| Problem { field: Some("deadline".into()), ..error });
    vec![
        ("succeeded", succeeded),
        (
            "failed",
            ended(
                Status::Failed,
                ErrorCode::ProviderThrottled,
                "openai: too many requests",
                vec![throttled()],
            ),
        ),
        ("rejected", rejected),
        ("expired", ended(Status::Expired, ErrorCode::DeadlineExceeded, "the deadline passed", vec![])),
        ("cancelled", ended(Status::Cancelled, ErrorCode::Cancelled, "cancelled by its client", vec![])),
    ]
}

/// One usage event of each kind.
pub(crate) fn usage_events() -> Vec<(&'static str, UsageEvent)> {
    let (identity, meta) = (identity(), meta());
    let subject = usage::Subject {
        identity: &identity,
        meta: &meta,
        priority: Priority::Normal,
        endpoint: Endpoint::ChatCompletions,
        requested_model: "small",
        accepted_at: at("12:00:00"),
    };
    let begun = at("12:00:01.250");
    let attempt = subject.attempt(&call(2, Outcome::Succeeded, None), begun, Some(Status::Succeeded));
    let correction = UsageEvent {
        kind: usage::Kind::Correction,
        is_final: false,
        status: None,
        outcome: None,
        cost_nano_usd: NanoUsd(-1_500),
        usage: TokenUsage::default(),
        time: at("18:00:00"),
        corrects: Some(attempt.ce_id()),
        ..attempt.clone()
    };
    let lost = call(1, Outcome::Lost, Some(ErrorCode::AttemptLost));
    let late = subject.unpaid(Status::Expired, Some(ErrorCode::DeadlineExceeded), 60_000, at("12:01:00"));
    vec![
        ("attempt", UsageEvent { first_token_ms: Some(210), ..attempt }),
        ("lost", subject.attempt(&lost, begun, None)),
        ("unpaid", late),
        ("correction", correction),
    ]
}

/// A lifecycle event with everything it may have.
pub(crate) fn event() -> LifecycleEvent {
    LifecycleEvent {
        attempt: 1,
        provider: Some("openai".into()),
        model: Some("gpt-4o-mini".into()),
        code: Some(ErrorCode::ProviderThrottled),
        ..LifecycleEvent::about(
            &identity(),
            Kind::FellBack,
            at("12:00:01"),
            "openai/gpt-4o-mini is throttled",
        )
    }
}

/// An event about a budget with everything it may have.
pub(crate) fn budget_event() -> BudgetEvent {
    BudgetEvent {
        kind: BudgetKind::Budget,
        budget: "research".into(),
        team: Some(identity().team),
        window: "20260301T000000Z".into(),
        window_ends: Some("2026-04-01T00:00:00Z".parse().unwrap()),
        threshold_percent: 80,
        percent: 81,
        spent_nano_usd: NanoUsd(81_200_000_000),
        limit_nano_usd: NanoUsd(100_000_000_000),
        message: "81 % of the budget research is spent: $81.20 of $100.00 per month".into(),
        time: at("12:00:01"),
    }
}
