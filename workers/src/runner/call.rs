//! The call itself, and what it came to.

use std::time::Duration;

use tollgate_policy::estimate::tokens_of_answer;
use tollgate_policy::failure::Class;
use tollgate_policy::inputs::By;
use tollgate_protocol::job::{Job, Target};
use tollgate_protocol::response::{Attempt, Outcome};
use tollgate_protocol::usage::millis_between;
use tollgate_protocol::{ErrorCode, JsonText, NanoUsd, Price, Problem, Timestamp, TokenUsage};
use tollgate_telemetry as telemetry;

use super::{Context, Shop};
use crate::codec::{Failure, Reading};
use crate::http::Broken;

/// A finished call.
pub(super) struct Called {
    /// For the record.
    pub(super) attempt: Attempt,
    /// The answer, or why there is none.
    pub(super) result: Result<JsonText, Failed>,
    /// What it says about its target.
    pub(super) seen: Seen,
}

/// What a call says about its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It answered.
    Answer,
    /// It failed like this.
    Failure(Class),
    /// Nothing: the call was not made, or was cut by ourselves.
    Nothing,
}

/// Why a call gave no answer.
pub(super) enum Failed {
    /// The provider, or the way to it. Perhaps something can be done.
    Call(FailedCall),
    /// Nothing can be done.
    Final(Problem),
    /// Its client took the request back.
    Aborted,
}

/// A call that failed.
pub(super) struct FailedCall {
    /// How.
    pub(super) failure: Failure,
    /// Whether the request's own deadline cut it.
    pub(super) by_deadline: bool,
    /// Whether another key of the provider can be used at once.
    pub(super) another_key: bool,
}

/// Calls the provider once.
pub(super) async fn call(
    context: &Context,
    shop: &Shop,
    job: &Job,
    (target, price): (&Target, &Price),
    (number, input): (u32, (u64, By)),
) -> Called {
    let rules = &context.settings.rules;
    let _in_flight = telemetry::in_flight(&shop.name);
    let started_at = tollgate_bus::now();
    if number == 1 {
        shop.earn_retries(started_at);
    }
    // Up, not down: what ends at the deadline does not end before it.
    let until_deadline = Duration::from_millis(millis_between(started_at, job.deadline).saturating_add(1));
    // Whether one can be used was looked at before the claim; it may rest by now, and is used once more.
    let key = shop.key_now(started_at).unwrap_or_default();
    let id = format!("{}.{number}", job.identity);
    let mut left = Vec::new();
    let result = match shop.codec.request(job, &target.model) {
        Ok(call) => {
            let answer = shop.endpoint.send(call, key, &id, until_deadline, started_at).await;
            answer.map(|answer| {
                left.clone_from(&answer.left);
                shop.codec.read(&answer)
            })
        }
        Err(problem) => return unsent(job, target, price, number, problem),
    };
    let now = tollgate_bus::now();
    let mut attempt = attempt(target, price, number, started_at);
    attempt.duration_ms = millis_between(started_at, now);
    let mut seen = Seen::Answer;
    let result = match result {
        Ok(Reading::Answered { body, usage, served_model }) => {
            attempt.outcome = Outcome::Succeeded;
            attempt.served_model = served_model.map(|model| model.chars().take(256).collect());
            let usage = believed(usage, target);
            attempt.estimated = usage.is_none();
            if let Some(usage) = usage {
                context.note_input(job, target, input, usage.input_tokens);
            }
            attempt.usage = usage
                .unwrap_or_else(|| tokens_of_answer(input.0, job.output_tokens_max, body.as_str().len()));
            attempt.cost_nano_usd = price.cost(&attempt.usage);
            shop.note_key(key, None, now, rules);
            Ok(body)
        }
        Ok(Reading::Failed(failure)) | Err(Broken::Failed(failure)) => {
            attempt.code = Some(failure.class.code());
            if failure.class.cost_is_unknown() {
                estimate(&mut attempt, input.0, job, price);
            }
            let by_deadline = is_late(&failure, until_deadline, attempt.duration_ms);
            seen = if by_deadline { Seen::Nothing } else { Seen::Failure(failure.class) };
            let failure = match by_deadline {
                true => Failure::new(Class::TimedOut, "the deadline passed during the call"),
                false => failure,
            };
            let another_key = shop.note_key(key, Some(failure.class), now, rules);
            Err(Failed::Call(FailedCall { failure, by_deadline, another_key }))
        }
        Err(Broken::TooLarge) => {
            attempt.code = Some(ErrorCode::ResponseTooLarge);
            attempt.estimated = true;
            attempt.usage = tokens_of_answer(input.0, job.output_tokens_max, crate::http::ANSWER_BYTES_MAX);
            attempt.cost_nano_usd = price.cost(&attempt.usage);
            Err(Failed::Final(too_large()))
        }
    };
    shop.note_left(key, &left, attempt.usage.total_tokens(), now, rules);
    observe(&attempt, now - started_at);
    Called { attempt, result, seen }
}

/// A call that was broken off because its client took the request back. It may have been charged.
pub(super) fn aborted(
    job: &Job,
    (target, price): (&Target, &Price),
    (number, input_tokens): (u32, u64),
    begun_at: Timestamp,
) -> Called {
    let now = tollgate_bus::now();
    let mut attempt = attempt(target, price, number, begun_at);
    attempt.duration_ms = millis_between(begun_at, now);
    attempt.code = Some(ErrorCode::Cancelled);
    estimate(&mut attempt, input_tokens, job, price);
    observe(&attempt, now - begun_at);
    Called { attempt, result: Err(Failed::Aborted), seen: Seen::Nothing }
}

/// What a provider counted, unless no call can have so many tokens: one such number would outweigh everybody else's in the
/// order, in budgets and in the ledger, so it counts as not said.
fn believed(usage: Option<TokenUsage>, target: &Target) -> Option<TokenUsage> {
    let believed = usage.filter(|usage| usage.is_believable());
    if usage.is_some() && believed.is_none() {
        let Target { provider, model } = target;
        tracing::warn!(%provider, %model, "a provider counted more tokens than a call can have, they are estimated");
    }
    believed
}

fn attempt(target: &Target, price: &Price, number: u32, started_at: Timestamp) -> Attempt {
    Attempt {
        provider: target.provider.clone(),
        model: target.model.clone(),
        number,
        started_at,
        duration_ms: 0,
        outcome: Outcome::Failed,
        code: None,
        cost_nano_usd: NanoUsd::ZERO,
        usage: TokenUsage::default(),
        price_version: price.version(),
        estimated: false,
        served_model: None,
        excused: false,
    }
}

/// It may well have been charged: the estimate stands in, and says that it does.
fn estimate(attempt: &mut Attempt, input_tokens: u64, job: &Job, price: &Price) {
    attempt.estimated = true;
    attempt.usage = tollgate_policy::estimate::tokens(input_tokens, job.output_tokens_max);
    attempt.cost_nano_usd = price.cost(&attempt.usage);
}

/// An answer that no message can carry. It was paid for.
pub(super) fn too_large() -> Problem {
    let message = "the answer is larger than a message may be; ask for fewer tokens or fewer choices";
    Problem::new(ErrorCode::ResponseTooLarge, message)
}

/// Whether the call was cut by the request's own deadline, not by the provider's time-out.
fn is_late(failure: &Failure, left: Duration, duration_ms: u64) -> bool {
    failure.class == Class::TimedOut && u128::from(duration_ms) + 1 >= left.as_millis()
}

fn unsent(job: &Job, target: &Target, price: &Price, number: u32, problem: Problem) -> Called {
    tracing::error!(request = %job.identity, code = %problem.code, "a request cannot be written for its provider");
    let mut attempt = attempt(target, price, number, tollgate_bus::now());
    attempt.code = Some(problem.code);
    Called { attempt, result: Err(Failed::Final(problem)), seen: Seen::Nothing }
}

fn observe(attempt: &Attempt, took: chrono::TimeDelta) {
    let outcome = match attempt.outcome {
        Outcome::Succeeded => "succeeded",
        Outcome::Failed => "failed",
        Outcome::Lost => "lost",
    };
    telemetry::count_attempt(&attempt.provider, outcome, attempt.code.map(ErrorCode::as_str));
    telemetry::observe_provider_call(&attempt.provider, outcome, took.to_std().unwrap_or_default());
    let tokens = telemetry::Tokens {
        input: attempt.usage.input_tokens,
        cached_input: attempt.usage.cached_input_tokens,
        output: attempt.usage.output_tokens,
        reasoning: attempt.usage.reasoning_tokens,
    };
    telemetry::count_tokens(&attempt.provider, &attempt.model, tokens);
    telemetry::count_cost(&attempt.provider, &attempt.model, attempt.cost_nano_usd.0.unsigned_abs());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_no_call_can_have_counts_as_not_said() {
        let target = Target { provider: "p".into(), model: "m".into() };
        let usage =
            |output_tokens| Some(TokenUsage { input_tokens: 10, output_tokens, ..TokenUsage::default() });
        assert_eq!(believed(usage(7), &target), usage(7));
        assert_eq!(believed(usage(18_000_000_000_000_000_000), &target), None);
        assert_eq!(believed(None, &target), None);
    }
}
