//! Result lines, as OpenAI writes them for a batch, with what Tollgate knows under `tollgate`.
//!
//! A line in the output file succeeded. A line in the error file has a `response` if the request was judged
//! (by the broker or a provider), and an `error` if it never came to that.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use tollgate_protocol::response::{Attempt, Response, Status};
use tollgate_protocol::{Encoding, ErrorCode, JsonText, NanoUsd, Problem, RequestId, TokenUsage};

/// The file that a line belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The output file.
    Out,
    /// The error file.
    Errors,
}

/// One result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Where its line belongs.
    pub(crate) place: Place,
    /// The line, without its end.
    pub(crate) line: String,
    /// What it cost.
    pub(crate) cost: NanoUsd,
    /// Its tokens.
    pub(crate) usage: TokenUsage,
}

/// What is counted over all results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tally {
    /// Lines of the output file.
    pub(crate) succeeded: u64,
    /// Lines of the error file.
    pub(crate) failed: u64,
    /// Cost of all of them.
    pub(crate) cost_nano_usd: NanoUsd,
    /// Tokens of all of them.
    pub(crate) usage: TokenUsage,
}

impl Tally {
    /// Counts one result.
    pub(crate) fn add(&mut self, place: Place, cost: NanoUsd, usage: TokenUsage) {
        match place {
            Place::Out => self.succeeded += 1,
            Place::Errors => self.failed += 1,
        }
        self.cost_nano_usd = self.cost_nano_usd.plus(cost);
        self.usage = self.usage.plus(usage);
    }

    /// How many results there are.
    pub(crate) fn answered(&self) -> u64 {
        self.succeeded + self.failed
    }
}

#[derive(Serialize)]
struct ResultLine<'a> {
    id: String,
    custom_id: &'a str,
    response: Option<HttpResponse<'a>>,
    error: Option<LineError<'a>>,
    tollgate: Facts<'a>,
}

#[derive(Serialize)]
struct HttpResponse<'a> {
    status_code: u16,
    request_id: &'a str,
    body: Cow<'a, JsonText>,
}

#[derive(Serialize)]
struct LineError<'a> {
    code: &'a str,
    message: Cow<'a, str>,
}

#[derive(Serialize)]
struct Facts<'a> {
    id: &'a str,
    status: &'a str,
    provider: Option<&'a str>,
    model: Option<&'a str>,
    cost_nano_usd: NanoUsd,
    usage: TokenUsage,
    attempts: usize,
    queued_ms: u64,
    total_ms: u64,
}

impl Answer {
    /// The result for a response.
    pub(crate) fn of(custom_id: &str, response: &Response) -> Self {
        let id = response.id.as_str();
        let succeeded = response.status == Status::Succeeded;
        let (place, http, error) = match (response.status, &response.body, &response.error) {
            (Status::Succeeded, Some(body), _) => {
                let http = HttpResponse { status_code: 200, request_id: id, body: Cow::Borrowed(body) };
                (Place::Out, Some(http), None)
            }
            (Status::Expired, ..) => (Place::Errors, None, Some(expired(&response.attempts))),
            (Status::Cancelled, ..) => (Place::Errors, None, Some(cancelled(&response.attempts))),
            (_, _, Some(problem)) => (Place::Errors, Some(refusal(id, problem)), None),
            (_, _, None) => (Place::Errors, None, Some(unreadable())),
        };
        let facts = Facts {
            id,
            status: response.status.as_str(),
            provider: response.provider.as_deref(),
            model: response.model.as_deref(),
            cost_nano_usd: response.cost_nano_usd,
            usage: response.usage,
            attempts: response.attempts.len(),
            queued_ms: response.timing.queued_ms,
            total_ms: response.timing.total_ms,
        };
        debug_assert!(!succeeded || place == Place::Out || response.body.is_none());
        Self {
            place,
            line: write(custom_id, http, error, facts),
            cost: response.cost_nano_usd,
            usage: response.usage,
        }
    }

    /// The result for a stored response as it came; one that cannot be read is a failure of its line only.
    pub(crate) fn of_payload(
        custom_id: &str,
        id: &RequestId,
        content_type: Option<&str>,
        payload: &[u8],
    ) -> Self {
        let encoding = content_type.and_then(Encoding::from_content_type).unwrap_or_default();
        match encoding.decode::<Response>(payload) {
            Ok(response) => Self::of(custom_id, &response),
            Err(_) => never_run(custom_id, id, unreadable()),
        }
    }
}

/// The result for a request without a response of its own.
fn never_run(custom_id: &str, id: &RequestId, error: LineError<'_>) -> Answer {
    let facts = Facts {
        id: id.as_str(),
        status: "failed",
        provider: None,
        model: None,
        cost_nano_usd: NanoUsd::ZERO,
        usage: TokenUsage::default(),
        attempts: 0,
        queued_ms: 0,
        total_ms: 0,
    };
    Answer {
        place: Place::Errors,
        line: write(custom_id, None, Some(error), facts),
        cost: NanoUsd::ZERO,
        usage: TokenUsage::default(),
    }
}

/// The result for a line whose identity was used for another request before.
pub(crate) fn duplicate(custom_id: &str, id: &RequestId) -> Answer {
    let message = "another request, with another body or other options, was sent under this custom_id in this \
                   group before, and this one was not run; choose another --group";
    never_run(custom_id, id, LineError { code: "duplicate_id", message: message.into() })
}

/// OpenAI's words where nothing was called, and else what was: a call may have cost something.
fn expired(attempts: &[Attempt]) -> LineError<'static> {
    let message = match attempts {
        [] => "This request could not be executed before the completion window expired.".into(),
        some => {
            format!("The completion window expired after {} of this request without an answer.", calls(some))
                .into()
        }
    };
    LineError { code: "batch_expired", message }
}

/// The same of one that was taken back.
fn cancelled(attempts: &[Attempt]) -> LineError<'static> {
    let message = match attempts {
        [] => "This request was cancelled before it was executed.".into(),
        [.., last] if last.code == Some(ErrorCode::Cancelled) => {
            "This request was cancelled while it was executed; what that cost is an estimate.".into()
        }
        some => format!("This request was cancelled after {} without an answer.", calls(some)).into(),
    };
    LineError { code: "batch_cancelled", message }
}

fn calls(attempts: &[Attempt]) -> String {
    match attempts.len() {
        1 => "one call".to_owned(),
        many => format!("{many} calls"),
    }
}

fn unreadable() -> LineError<'static> {
    LineError {
        code: "unreadable_response",
        message: "The stored response is not one that this version can read.".into(),
    }
}

fn refusal<'a>(id: &'a str, problem: &Problem) -> HttpResponse<'a> {
    HttpResponse {
        status_code: problem.http_status,
        request_id: id,
        body: Cow::Owned(JsonText::from(problem.to_openai())),
    }
}

fn write(
    custom_id: &str,
    response: Option<HttpResponse<'_>>,
    error: Option<LineError<'_>>,
    tollgate: Facts<'_>,
) -> String {
    let id = format!("batch_req_{}", tollgate.id.replace('-', ""));
    let line = ResultLine { id, custom_id, response, error, tollgate };
    let text = serde_json::to_string(&line).unwrap_or_default();
    // A provider's body is kept to the letter and may be spread over lines. Outside strings a line end is
    // only space, and inside strings it is always escaped.
    if text.contains(['\n', '\r']) { text.replace(['\n', '\r'], " ") } else { text }
}

/// What an earlier run wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The line of the input that it answers.
    pub(crate) custom_id: String,
    /// The request it answers.
    pub(crate) id: String,
    /// What it cost.
    pub(crate) cost: NanoUsd,
    /// Its tokens.
    pub(crate) usage: TokenUsage,
}

/// Reads a line of an earlier run back. `None` if it is cut off, or was written by something else.
pub(crate) fn kept(line: &[u8]) -> Option<Kept> {
    #[derive(Deserialize)]
    struct Written {
        custom_id: String,
        tollgate: WrittenFacts,
    }
    #[derive(Deserialize)]
    struct WrittenFacts {
        id: String,
        cost_nano_usd: NanoUsd,
        #[serde(default)]
        usage: TokenUsage,
    }
    let written: Written = serde_json::from_slice(line).ok()?;
    let facts = written.tollgate;
    Some(Kept { custom_id: written.custom_id, id: facts.id, cost: facts.cost_nano_usd, usage: facts.usage })
}

#[cfg(test)]
mod tests;
