//! How an attempt, a message and a request end.

use std::time::Duration;

use tollgate_bus::answer::{Ending, Storable};
use tollgate_bus::publish::PublishError;
use tollgate_bus::record::Fenced;
use tollgate_bus::retry::Patience;
use tollgate_policy::answer::{self, End};
use tollgate_policy::claim::{Superseded, superseded};
use tollgate_policy::failure::{self, Situation};
use tollgate_protocol::event::Kind;
use tollgate_protocol::record::Next;
use tollgate_protocol::response::{Attempt, Outcome, Response, Status};
use tollgate_protocol::usage::millis_between;
use tollgate_protocol::{ErrorCode, Problem, Sequence};
use tollgate_telemetry as telemetry;

use super::SOURCE;
use super::call::{Called, Failed, too_large};
use super::job::{Fate, Work};

impl Work<'_> {
    /// A call is over: answers, or says in the record what comes next and then does it.
    pub(super) async fn conclude(&mut self, claim: Sequence, called: Called) -> Option<Fate> {
        let Called { mut attempt, result } = called;
        let (provider, model) = (attempt.provider.clone(), attempt.model.clone());
        let end = match result {
            Ok(body) => End::Succeeded(body),
            Err(Failed::Final(problem)) => End::Failed(problem),
            Err(Failed::Call(failed)) => {
                self.history.push(attempt.clone());
                let situation = Situation {
                    target: self.job.target,
                    targets: self.job.targets.len(),
                    tries: answer::tries_of_target(&self.history, &provider, &model),
                    left_ms: millis_between(tollgate_bus::now(), self.job.deadline),
                };
                self.history.pop();
                let chance =
                    u64::from_le_bytes(uuid::Uuid::new_v4().into_bytes()[..8].try_into().unwrap_or_default());
                if let Some(next) = failure::after(failed.class, situation, chance) {
                    self.history.push(attempt);
                    return self.go_on(claim, next, failed.class.code()).await;
                }
                if situation.left_ms == 0 {
                    End::Unpaid(Status::Expired, Problem::new(ErrorCode::DeadlineExceeded, failed.message))
                } else {
                    End::Failed(Problem::new(failed.class.code(), failed.message))
                }
            }
        };
        let end = self.storable(end, &mut attempt);
        self.history.push(attempt);
        Some(self.end(claim, end).await)
    }

    /// An answer that cannot be stored is a failure that was paid for.
    fn storable(&self, end: End, attempt: &mut Attempt) -> End {
        if !matches!(end, End::Succeeded(_)) {
            return end;
        }
        let mut history = self.history.clone();
        history.push(attempt.clone());
        let whole = answer::response(&self.job, &history, end.clone(), tollgate_bus::now());
        let problem = match self.context.bus.storable(&whole, self.job.encoding) {
            Storable::Yes => return end,
            Storable::TooLarge => too_large(),
            Storable::Inexpressible => {
                let message = "the answer cannot be written as MessagePack; send the request as JSON";
                Problem::new(ErrorCode::ProviderMalformed, message)
            }
        };
        attempt.outcome = Outcome::Failed;
        attempt.code = Some(problem.code);
        End::Failed(problem)
    }

    /// The attempt failed, the request goes on.
    async fn go_on(&mut self, claim: Sequence, next: Next, code: ErrorCode) -> Option<Fate> {
        let mut expected = claim;
        let run = loop {
            match self.write_ended(expected, &next).await {
                Ok(Fenced::Written(sequence)) => break sequence,
                Ok(Fenced::Refused(last)) => match superseded(&last) {
                    Superseded::WriteAgain(sequence) => expected = sequence,
                    verdict => return Some(self.too_late(verdict).await),
                },
                Err(error) => return Some(self.rest(&error)),
            }
        };
        if !self.repeat_last_usage().await {
            return Some(Fate::HandBack(Duration::from_secs(1)));
        }
        let (kind, handed) = match next {
            Next::Retry { .. } => (Kind::Retried, telemetry::Next::Retry),
            Next::Fallback { .. } => (Kind::FellBack, telemetry::Next::Fallback),
        };
        telemetry::count_handover(handed);
        let mut event = self.event(kind, "a call failed");
        if let Some(attempt) = self.history.last() {
            event.attempt = attempt.number;
            event.provider = Some(attempt.provider.clone());
            event.model = Some(attempt.model.clone());
        }
        event.code = Some(code);
        self.publish_event(&event).await;
        self.hand_over(run, &next).await
    }

    /// Writes the terminal response, then what follows from it.
    async fn end(&mut self, claim: Sequence, end: End) -> Fate {
        let attempt = match end {
            End::Unpaid(..) => 0,
            _ => self.history.last().map_or(0, |attempt| attempt.number),
        };
        let response = answer::response(&self.job, &self.history, end, tollgate_bus::now());
        let mut expected = claim;
        loop {
            match self.write_end(&response, attempt, expected).await {
                Ok(Fenced::Written(_)) => return self.after_answer(&response, attempt).await,
                Ok(Fenced::Refused(last)) => match superseded(&last) {
                    Superseded::WriteAgain(sequence) => expected = sequence,
                    verdict => return self.too_late(verdict).await,
                },
                Err(error) => return self.rest(&error),
            }
        }
    }

    /// Ends a request that no attempt of ours ended. `None`: the record says something else.
    pub(super) async fn end_unpaid(&mut self, end: End) -> Option<Fate> {
        let response = answer::response(&self.job, &self.history, end, tollgate_bus::now());
        match self.write_end(&response, 0, self.expected).await {
            Ok(Fenced::Written(_)) => Some(self.after_answer(&response, 0).await),
            Ok(Fenced::Refused(last)) => self.judge(*last).await,
            Err(error) => Some(self.rest(&error)),
        }
    }

    async fn write_end(
        &self,
        response: &Response,
        attempt: u32,
        expected: Sequence,
    ) -> Result<Fenced, PublishError> {
        let now = tollgate_bus::now();
        let unpaid = (attempt == 0).then(|| answer::unpaid(&self.job.usage_subject(), response, now));
        let ending = Ending {
            response,
            encoding: self.job.encoding,
            digest: self.job.digest,
            from: &self.hand.from,
            attempt,
            unpaid: unpaid.as_ref(),
            ttl_seconds: self.context.settings.retention.seconds(self.job.deadline, now),
            expected,
            traceparent: self.job.traceparent.as_deref(),
        };
        self.context.bus.write_answer(ending, Patience::PAID).await
    }

    /// My result came too late. What it cost is recorded all the same.
    async fn too_late(&self, verdict: Superseded) -> Fate {
        tracing::info!(request = %self.job.identity, "a result came after its attempt was taken for lost");
        if !self.publish_last_usage(None).await {
            return Fate::Abandon;
        }
        match verdict {
            Superseded::Over => Fate::Ack,
            Superseded::WriteAgain(_) | Superseded::TakenOver => Fate::Abandon,
        }
    }

    /// The response is stored: usage, reply, then the acknowledgement.
    async fn after_answer(&self, response: &Response, attempt: u32) -> Fate {
        telemetry::count_request(response.status.as_str(), self.job.priority.as_str());
        telemetry::observe_request(response.status.as_str(), Duration::from_millis(response.timing.total_ms));
        telemetry::observe_queue_wait(
            self.job.priority.as_str(),
            Duration::from_millis(response.timing.queued_ms),
        );
        let status = (attempt > 0).then_some(response.status);
        if !self.publish_last_usage(status).await {
            return Fate::HandBack(Duration::from_secs(1));
        }
        if let Some(inbox) = &self.job.reply_to {
            self.context.bus.reply_with(inbox, response, self.job.bare, self.job.encoding).await;
        }
        Fate::Ack
    }

    /// The request is answered already: publishes what may be missing of my usage, and replies.
    pub(super) async fn finish_again(&mut self, mine: Option<u32>) -> Fate {
        if mine.is_none() && self.job.reply_to.is_none() {
            return Fate::Ack;
        }
        let (response, encoding) = match self.context.bus.response_of(&self.job.identity).await {
            Ok(Some(found)) => found,
            Ok(None) => return Fate::Ack,
            Err(error) => return self.rest(&error),
        };
        if let Some(attempt) = mine {
            self.history = response.attempts.clone();
            if !self.publish_last_usage((attempt > 0).then_some(response.status)).await {
                return Fate::HandBack(Duration::from_secs(1));
            }
        }
        if let Some(inbox) = &self.job.reply_to {
            self.context.bus.reply_with(inbox, &response, self.job.bare, encoding).await;
        }
        Fate::Ack
    }

    /// Publishes the last attempt's usage as that of an attempt which did not end the request; again, if it
    /// was published before.
    pub(super) async fn repeat_last_usage(&self) -> bool {
        self.publish_last_usage(None).await
    }

    async fn publish_last_usage(&self, ended: Option<Status>) -> bool {
        let Some(attempt) = self.history.last() else { return true };
        let first = answer::first_call(&self.history).unwrap_or(attempt.started_at);
        let event = self.job.usage_subject().attempt(attempt, first, ended);
        match self.context.bus.publish_usage(&event, SOURCE, self.job.traceparent.as_deref()).await {
            Ok(_) => true,
            Err(error) => {
                tracing::error!(%error, request = %self.job.identity, "a usage event cannot be stored, the message will come again");
                false
            }
        }
    }
}
