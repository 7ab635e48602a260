//! How a request ends: the response, and the usage event of a request that no attempt ended.

use tollgate_protocol::job::Job;
use tollgate_protocol::record::{Estimate, Started};
use tollgate_protocol::request::Head;
use tollgate_protocol::response::{Attempt, Outcome, Response, Status, Timing};
use tollgate_protocol::usage::{self, UsageEvent, millis_between};
use tollgate_protocol::{ErrorCode, JsonText, NanoUsd, Problem, Timestamp, TokenUsage};

/// What a request ends with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The last attempt answered.
    Succeeded(JsonText),
    /// The last attempt failed for good.
    Failed(Problem),
    /// It ended without a final attempt: rejected, expired, lost too often.
    Unpaid(Status, Problem),
}

impl End {
    /// The terminal status.
    pub fn status(&self) -> Status {
        match self {
            Self::Succeeded(_) => Status::Succeeded,
            Self::Failed(_) => Status::Failed,
            Self::Unpaid(status, _) => *status,
        }
    }

    /// The deadline passed. The client learns what it waited for last.
    pub fn expired(history: &[Attempt]) -> Self {
        let mut message = "the deadline passed before there was an answer".to_owned();
        if let Some((attempt, code)) = history.last().and_then(|last| Some((last, last.code?))) {
            let Attempt { provider, model, .. } = attempt;
            message.push_str(&format!("; call {} ({provider}/{model}) ended with {code}", history.len()));
        }
        Self::Unpaid(Status::Expired, Problem::new(ErrorCode::DeadlineExceeded, message))
    }

    /// Its client took it back.
    pub fn cancelled() -> Self {
        Self::Unpaid(Status::Cancelled, Problem::new(ErrorCode::Cancelled, "the request was cancelled"))
    }

    /// Its workers were lost too often: something about it may be what kills them.
    pub fn lost_too_often(times: usize) -> Self {
        let message = format!("the worker was lost during the call, {times} times");
        Self::Unpaid(Status::Failed, Problem::new(ErrorCode::AttemptLost, message))
    }
}

/// The response of a request that was on its way.
pub fn response(job: &Job, history: &[Attempt], end: End, now: Timestamp) -> Response {
    let last = history.last().filter(|_| matches!(end, End::Succeeded(_)));
    let (provider, model) =
        (last.map(|attempt| attempt.provider.clone()), last.map(|attempt| attempt.model.clone()));
    let status = end.status();
    let (body, error) = match end {
        End::Succeeded(body) => (Some(body), None),
        End::Failed(problem) | End::Unpaid(_, problem) => (None, Some(problem)),
    };
    Response {
        id: job.identity.id.clone(),
        team: job.identity.team.clone(),
        group: job.identity.group.clone(),
        status,
        body,
        error,
        requested_model: job.requested_model.clone(),
        provider,
        model,
        usage: history.iter().fold(TokenUsage::default(), |sum, attempt| sum.plus(attempt.usage)),
        cost_nano_usd: history.iter().map(|attempt| attempt.cost_nano_usd).sum(),
        attempts: history.to_vec(),
        timing: Timing {
            accepted_at: job.accepted_at,
            queued_ms: millis_between(job.accepted_at, first_call(history).unwrap_or(now)),
            provider_ms: history.iter().map(|attempt| attempt.duration_ms).sum(),
            total_ms: millis_between(job.accepted_at, now),
        },
        cache: None,
    }
}

/// The response of a request that never got on its way.
pub fn rejection(head: &Head, problem: Problem, now: Timestamp) -> Response {
    let waited = millis_between(head.accepted_at, now);
    Response {
        id: head.identity.id.clone(),
        team: head.identity.team.clone(),
        group: head.identity.group.clone(),
        status: Status::Rejected,
        body: None,
        error: Some(problem),
        requested_model: head.requested_model.clone(),
        provider: None,
        model: None,
        usage: TokenUsage::default(),
        cost_nano_usd: NanoUsd::ZERO,
        attempts: Vec::new(),
        timing: Timing { accepted_at: head.accepted_at, queued_ms: waited, provider_ms: 0, total_ms: waited },
        cache: None,
    }
}

/// The event that the ledger publishes for a response that no attempt ended.
pub fn unpaid(subject: &usage::Subject<'_>, response: &Response, now: Timestamp) -> UsageEvent {
    let code = response.error.as_ref().map(|problem| problem.code);
    subject.unpaid(response.status, code, response.timing.queued_ms, now)
}

/// What reports about a rejected request have in common.
pub fn subject_of(head: &Head) -> usage::Subject<'_> {
    usage::Subject {
        identity: &head.identity,
        meta: &head.meta,
        priority: head.priority,
        endpoint: head.endpoint,
        requested_model: &head.requested_model,
        accepted_at: head.accepted_at,
    }
}

/// When the first call of a request began.
pub fn first_call(history: &[Attempt]) -> Option<Timestamp> {
    history.first().map(|attempt| attempt.started_at)
}

/// The attempt whose worker was lost, as the claim foresaw it. Always the same for the same claim, apart
/// from how long it took to notice, so that it can be recorded again after a crash.
pub fn lost(started: &Started) -> Attempt {
    let Estimate { input_tokens, output_tokens, cost_nano_usd, price_version } = started.estimate.clone();
    Attempt {
        provider: started.provider.clone(),
        model: started.model.clone(),
        number: started.attempt,
        started_at: started.started_at,
        duration_ms: 0,
        outcome: Outcome::Lost,
        code: Some(ErrorCode::AttemptLost),
        cost_nano_usd,
        usage: TokenUsage { input_tokens, output_tokens, ..TokenUsage::default() },
        price_version,
        estimated: true,
        served_model: None,
        excused: false,
    }
}
