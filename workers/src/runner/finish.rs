//! How an attempt, a message and a request end.

use std::ops::Range;
use std::time::Duration;

use tollgate_bus::answer::{Ending, Storable};
use tollgate_bus::publish::PublishError;
use tollgate_bus::record::Fenced;
use tollgate_bus::retry::Patience;
use tollgate_policy::answer::{self, End};
use tollgate_policy::claim::{self, Superseded, Verdict, superseded};
use tollgate_policy::failure::Class;
use tollgate_policy::retry::{self, After, Situation};
use tollgate_protocol::event::Kind;
use tollgate_protocol::job::Job;
use tollgate_protocol::record::{Last, Next};
use tollgate_protocol::response::{Attempt, Outcome, Response, Status};
use tollgate_protocol::{ErrorCode, JsonText, NanoUsd, Problem, Sequence};
use tollgate_telemetry as telemetry;

use super::SOURCE;
use super::call::{Called, Failed, FailedCall, Seen, too_large};
use super::job::{Fate, Work};

impl Work<'_> {
    /// A call is over: answers, or says in the record what comes next and then does it.
    pub(super) async fn conclude(&mut self, claim: Sequence, called: Called) -> Option<Fate> {
        let Called { mut attempt, result, seen } = called;
        self.excuse(&mut attempt, seen);
        let (provider, model) = (attempt.provider.clone(), attempt.model.clone());
        // A target that fails has to be known as such before it is decided where the request goes on. An answer was paid
        // for: it waits for nothing.
        if matches!(seen, Seen::Failure(_)) {
            self.note_health(&provider, &model, seen).await;
            return self.conclude_with(claim, attempt, result).await;
        }
        let fate = self.conclude_with(claim, attempt, result).await;
        self.note_health(&provider, &model, seen).await;
        fate
    }

    async fn conclude_with(
        &mut self,
        claim: Sequence,
        mut attempt: Attempt,
        result: Result<JsonText, Failed>,
    ) -> Option<Fate> {
        let end = match result {
            Ok(body) => End::Succeeded(body),
            Err(Failed::Final(problem)) => End::Failed(problem),
            Err(Failed::Aborted) => End::cancelled(),
            Err(Failed::Call(failed)) => {
                self.history.push(attempt.clone());
                // It was cut by the request's own deadline, or has none left.
                if failed.by_deadline || tollgate_bus::now() >= self.job.deadline {
                    let message = failed.failure.message;
                    let problem = Problem::new(ErrorCode::DeadlineExceeded, message);
                    return Some(self.end(claim, End::Unpaid(Status::Expired, problem)).await);
                }
                match self.after(&failed) {
                    After::Go(next) => {
                        return self.go_on(claim, next, failed.failure.class.code()).await;
                    }
                    After::Fail(dead) => self.dead = dead,
                }
                self.history.pop();
                End::Failed(Problem::new(failed.failure.class.code(), failed.failure.message))
            }
        };
        let end = self.storable(end, &mut attempt);
        self.history.push(attempt);
        Some(self.end(claim, end).await)
    }

    /// What follows a failed call, the last of the history.
    fn after(&self, failed: &FailedCall) -> After {
        let class = failed.failure.class;
        let standings = self.standings();
        let chance = super::chance();
        let mut situation = Situation {
            history: &self.history,
            targets: &standings,
            candidates: self.job.candidates(),
            typed: typed(&self.job, class),
            target: self.job.target,
            another_key: failed.another_key,
            budget: true,
            now: tollgate_bus::now(),
            deadline: self.job.deadline,
        };
        let rules = &self.context.settings.rules;
        let after = retry::after(class, &situation, rules, chance);
        let is_another_key = failed.another_key && class.rule().is_of_key;
        match after {
            After::Go(Next::Retry { .. }) if !is_another_key && !self.shop.may_retry(situation.now) => {
                situation.budget = false;
                retry::after(class, &situation, rules, chance)
            }
            after => after,
        }
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
    pub(super) async fn go_on(&mut self, claim: Sequence, next: Next, code: ErrorCode) -> Option<Fate> {
        let mut expected = claim;
        let next = self.with_budgets(next);
        let run = loop {
            match self.write_ended(expected, &next, Patience::PAID).await {
                Ok(Fenced::Written(sequence)) => break sequence,
                Ok(Fenced::Refused(last)) => match superseded(&last) {
                    Superseded::WriteAgain(sequence) => expected = sequence,
                    verdict => return Some(self.too_late(verdict, *last).await),
                },
                Err(error) => return Some(self.rest(&error)),
            }
        };
        if !self.repeat_usage_before(&next).await {
            return Some(Fate::HandBack(Duration::from_secs(1)));
        }
        let (kind, handed, what) = match next {
            Next::Retry { .. } => (Kind::Retried, telemetry::Next::Retry, "tried again"),
            Next::Fallback { .. } => (Kind::FellBack, telemetry::Next::Fallback, "the next target is tried"),
            Next::Later { .. } => (Kind::Parked, telemetry::Next::Park, "tried again later"),
            Next::Hold => (Kind::Held, telemetry::Next::Hold, "no target is up, it waits for one"),
        };
        tollgate_bus::point("worker.ended");
        telemetry::count_handover(handed);
        let mut event = self.event(kind, &format!("a call failed: {what}"));
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
        // Its end is told by another event then, and with that what was reserved for the call is over: what it cost has to
        // be known before.
        if attempt == 0 && !self.publish_last_usage(None).await {
            return Fate::HandBack(Duration::from_secs(1));
        }
        let response = answer::response(&self.job, &self.history, end, tollgate_bus::now());
        let mut expected = claim;
        loop {
            match self.write_end(&response, attempt, expected).await {
                Ok(Fenced::Written(_)) => return self.after_answer(&response, attempt).await,
                Ok(Fenced::Refused(last)) => match superseded(&last) {
                    Superseded::WriteAgain(sequence) => expected = sequence,
                    verdict => return self.too_late(verdict, *last).await,
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
            dead: self.dead,
            unpaid: unpaid.as_ref(),
            ttl_seconds: self.context.settings.retention.seconds(self.job.deadline, now),
            expected,
            traceparent: self.job.traceparent.as_deref(),
        };
        self.context.bus.write_answer(ending, Patience::PAID).await
    }

    /// My result came too late. What it cost is recorded all the same.
    async fn too_late(&mut self, verdict: Superseded, last: Last) -> Fate {
        tracing::info!(request = %self.job.identity, "a result came after its attempt was taken for lost");
        if !self.publish_last_usage(None).await {
            return Fate::Abandon;
        }
        match verdict {
            // Whoever answered may have died before all that follows was done, and the message goes with this one.
            Superseded::Over => match claim::judge(&self.hand, last) {
                Verdict::Finish { mine, dead } => {
                    self.dead = dead;
                    self.finish_again(mine).await
                }
                _ => Fate::Ack,
            },
            Superseded::WriteAgain(_) | Superseded::TakenOver => Fate::Abandon,
        }
    }

    /// The response is stored: usage, reply, then the acknowledgement.
    async fn after_answer(&mut self, response: &Response, attempt: u32) -> Fate {
        tollgate_bus::point("worker.answered");
        telemetry::count_request(response.status.as_str(), self.job.priority.as_str());
        telemetry::observe_request(response.status.as_str(), Duration::from_millis(response.timing.total_ms));
        telemetry::observe_queue_wait(
            self.job.priority.as_str(),
            Duration::from_millis(response.timing.queued_ms),
        );
        let status = (attempt > 0).then_some(response.status);
        if !self.bury(response).await || !self.publish_last_usage(status).await {
            return Fate::HandBack(Duration::from_secs(1));
        }
        tollgate_bus::point("worker.usage");
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
            // A router may have written it with this message in hand about the call of another copy.
            self.job.accepted_at = response.timing.accepted_at;
            if !self.bury(&response).await
                || !self.publish_last_usage((attempt > 0).then_some(response.status)).await
            {
                return Fate::HandBack(Duration::from_secs(1));
            }
        }
        if let Some(inbox) = &self.job.reply_to {
            self.context.bus.reply_with(inbox, &response, self.job.bare, encoding).await;
        }
        Fate::Ack
    }

    /// Stores the dead letter, if the request is one; again, if it was stored before.
    async fn bury(&mut self, response: &Response) -> bool {
        let Some(dead) = self.dead else { return true };
        if let Err(error) = self.context.bus.bury(&self.job, dead, response).await {
            tracing::error!(%error, request = %self.job.identity, "a dead letter cannot be stored, the message will come again");
            return false;
        }
        telemetry::count_dead_letter(dead.as_str());
        let mut event = self.event(Kind::Dead, "it failed for good; `tollgate dlq show` has it");
        event.code = response.error.as_ref().map(|problem| problem.code);
        self.publish_event(&event).await;
        true
    }

    /// Publishes the last attempt's usage as that of an attempt which did not end the request; again, if it
    /// was published before.
    pub(super) async fn repeat_last_usage(&self) -> bool {
        self.publish_last_usage(None).await
    }

    /// The same before a hand-over: what is reserved for the request ends where it goes back to the routers.
    pub(super) async fn repeat_usage_before(&self, next: &Next) -> bool {
        let requeued = match next {
            Next::Later { .. } | Next::Hold => true,
            Next::Fallback { target } => self.needs_routers(*target),
            Next::Retry { .. } => false,
        };
        self.publish_usage(None, requeued).await
    }

    /// Whether the routers have to reserve for a call of this target: it is not among those that are reserved for, or
    /// something was paid, so that what was reserved is used up.
    pub(super) fn needs_routers(&self, target: usize) -> bool {
        self.job.reserved.as_ref().is_some_and(|covers| self.was_paid() || !covers.contains(&target))
    }

    fn was_paid(&self) -> bool {
        let is_paid =
            |attempt: &Attempt| attempt.outcome == Outcome::Lost || attempt.cost_nano_usd != NanoUsd::ZERO;
        self.history.last().is_some_and(is_paid)
    }

    /// A call that was paid for is not made again from the same message, if a budget has to be asked first.
    fn with_budgets(&self, next: Next) -> Next {
        match next {
            Next::Retry { .. } if self.needs_routers(self.job.target) => {
                Next::Fallback { target: self.job.target }
            }
            next => next,
        }
    }

    async fn publish_last_usage(&self, ended: Option<Status>) -> bool {
        self.publish_usage(ended, false).await
    }

    async fn publish_usage(&self, ended: Option<Status>, requeued: bool) -> bool {
        let Some(attempt) = self.history.last() else { return true };
        let first = answer::first_call(&self.history).unwrap_or(attempt.started_at);
        let mut event = self.job.usage_subject().attempt(attempt, first, ended);
        event.requeued = requeued && self.job.reserved.is_some();
        match self.context.bus.publish_usage(&event, SOURCE, self.job.traceparent.as_deref()).await {
            Ok(_) => true,
            Err(error) => {
                tracing::error!(%error, request = %self.job.identity, "a usage event cannot be stored, the message will come again");
                false
            }
        }
    }
}

/// The targets that are configured for this kind of failure, unless it is among them already.
fn typed(job: &Job, class: Class) -> Range<usize> {
    let range = match class {
        Class::ContextTooLong => job.typed.context_too_long,
        Class::ContentPolicy => job.typed.content_policy,
        _ => None,
    };
    match range {
        Some((start, end)) if !(start..end).contains(&job.target) => start..end,
        // What is left of its own kind.
        Some((_, end)) => job.target + 1..end,
        None => 0..0,
    }
}
