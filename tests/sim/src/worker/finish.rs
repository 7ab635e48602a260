//! How an attempt, a message and a request end.

use std::rc::Rc;

use tollgate_model::Publish;
use tollgate_policy::answer::{self, End};
use tollgate_policy::claim::{self, Superseded, Verdict, superseded};
use tollgate_policy::failure::{Class, Health};
use tollgate_policy::health::Outcome as Seeing;
use tollgate_policy::retry::{self, After, Rules, Situation};
use tollgate_protocol::job::{Job, Target};
use tollgate_protocol::record::{Answered, Dead, Last, Next};
use tollgate_protocol::response::{Attempt, Outcome, Response, Status};
use tollgate_protocol::usage::UsageEvent;
use tollgate_protocol::{ErrorCode, JsonText, NanoUsd, Problem, Sequence, Timestamp};

use super::job::{Called, Failed, Fate, Seen, Work};
use crate::bug::Bug;
use crate::health::Ended;
use crate::net::{Fenced, NORMAL, NotStored, PAID, Proc, Written, subjects};
use crate::plan::SECOND;
use crate::world::{Answer, Body};

impl Work {
    /// A call is over: answers, or says in the record what comes next and then does it.
    pub(super) async fn conclude(&mut self, claim: Sequence, called: Called) -> Option<Fate> {
        let Called { mut attempt, result, seen } = called;
        let target = Target { provider: attempt.provider.clone(), model: attempt.model.clone() };
        if let Seen::Failure(class) = seen {
            let last = self.worker.windows.borrow().get(&target).and_then(|window| window.last_success());
            attempt.excused = retry::is_excused(class, &attempt, &self.history, last);
            self.note_health(&target, seen).await;
            return self.conclude_with(claim, attempt, result).await;
        }
        let fate = self.conclude_with(claim, attempt, result).await;
        self.note_health(&target, seen).await;
        fate
    }

    async fn conclude_with(
        &mut self,
        claim: Sequence,
        attempt: Attempt,
        result: Result<JsonText, Failed>,
    ) -> Option<Fate> {
        let end = match result {
            Ok(body) => End::Succeeded(body),
            Err(Failed::Aborted) => End::cancelled(),
            Err(Failed::Call { class, by_deadline }) => {
                self.history.push(attempt.clone());
                if by_deadline || self.now() >= self.job.deadline {
                    let problem =
                        Problem::new(ErrorCode::DeadlineExceeded, "the deadline passed during the call");
                    return Some(self.end(claim, End::Unpaid(Status::Expired, problem)).await);
                }
                match self.after(class) {
                    After::Go(next) => return self.go_on(claim, next).await,
                    After::Fail(dead) => self.dead = dead,
                }
                self.history.pop();
                End::Failed(Problem::new(class.code(), "the call failed"))
            }
        };
        self.history.push(attempt);
        Some(self.end(claim, end).await)
    }

    /// What follows a failed call, the last of the history.
    fn after(&self, class: Class) -> After {
        let standings = self.worker.health.standings(&self.job.targets, self.now());
        let chance = self.worker.process.chance();
        let mut situation = Situation {
            history: &self.history,
            targets: &standings,
            candidates: self.job.candidates(),
            typed: 0..0,
            target: self.job.target,
            another_key: false,
            budget: true,
            now: self.now(),
            deadline: self.job.deadline,
        };
        // Times as in the configurations of tests.
        let rules = Rules { retry_after_ms_max: 3_000, backoff_ms_max: 2_000 };
        let after = retry::after(class, &situation, &rules, chance);
        let mut retries = self.worker.retries.borrow_mut();
        let budget = retries.entry(self.provider.clone()).or_default();
        match after {
            After::Go(Next::Retry { .. }) if !budget.withdraw(situation.now) => {
                situation.budget = false;
                retry::after(class, &situation, &rules, chance)
            }
            after => after,
        }
    }

    /// The attempt failed, the request goes on.
    pub(super) async fn go_on(&mut self, claim: Sequence, next: Next) -> Option<Fate> {
        let mut expected = claim;
        let next = self.with_budgets(next);
        let run = loop {
            match self.write_ended(expected, &next).await {
                Ok(Fenced::Written(sequence)) => break sequence,
                Ok(Fenced::Refused(last)) => match superseded(&last) {
                    Superseded::WriteAgain(sequence) => expected = sequence,
                    verdict => return Some(self.too_late(verdict, *last).await),
                },
                Err(_) => return Some(Fate::HandBack(SECOND)),
            }
        };
        if !self.repeat_usage_before(&next).await {
            return Some(Fate::HandBack(SECOND));
        }
        self.hand_over(run, &next).await
    }

    /// Writes the terminal response, then what follows from it.
    async fn end(&mut self, claim: Sequence, end: End) -> Fate {
        let attempt = match end {
            End::Unpaid(..) => 0,
            _ => self.history.last().map_or(0, |attempt| attempt.number),
        };
        let is_counted = self.worker.process.world.has(Bug::CutCallCountedLate);
        if attempt == 0 && !is_counted && !self.publish_usage(None, false).await {
            return Fate::HandBack(SECOND);
        }
        let response = answer::response(&self.job, &self.history, end, self.now());
        let mut expected = claim;
        loop {
            match self.write_end(&response, attempt, expected).await {
                Ok(Fenced::Written(_)) => return self.after_answer(&response, attempt).await,
                Ok(Fenced::Refused(last)) => match superseded(&last) {
                    Superseded::WriteAgain(sequence) => expected = sequence,
                    verdict => return self.too_late(verdict, *last).await,
                },
                Err(_) => return Fate::HandBack(SECOND),
            }
        }
    }

    /// Ends a request that no attempt of ours ended. `None`: the record says something else.
    pub(super) async fn end_unpaid(&mut self, end: End) -> Option<Fate> {
        let response = answer::response(&self.job, &self.history, end, self.now());
        match self.write_end(&response, 0, self.expected).await {
            Ok(Fenced::Written(_)) => Some(self.after_answer(&response, 0).await),
            Ok(Fenced::Refused(last)) => self.judge(*last).await,
            Err(_) => Some(Fate::HandBack(SECOND)),
        }
    }

    async fn write_end(
        &self,
        response: &Response,
        attempt: u32,
        expected: Sequence,
    ) -> Result<Fenced, NotStored> {
        let unpaid = (attempt == 0).then(|| answer::unpaid(&self.job.usage_subject(), response, self.now()));
        let answered = Answered {
            digest: self.job.digest,
            status: response.status,
            attempt,
            from: self.hand.from.clone(),
            dead: self.dead,
        };
        let answer = Answer { answered, response: response.clone(), unpaid };
        self.worker
            .process
            .write_record(&self.job.identity, Written::Answer(Box::new(answer)), expected, PAID)
            .await
    }

    /// My result came too late. What it cost is recorded all the same.
    async fn too_late(&mut self, verdict: Superseded, last: Last) -> Fate {
        if !self.publish_usage(None, false).await {
            return Fate::Abandon;
        }
        match verdict {
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

    /// The response is stored: usage, then the acknowledgement.
    async fn after_answer(&mut self, response: &Response, attempt: u32) -> Fate {
        let status = (attempt > 0).then_some(response.status);
        if attempt == 0 && self.worker.process.world.has(Bug::CutCallCountedLate) {
            // A worker that dawdles here: the others' time to count on what is not told.
            self.worker.process.sleep(SECOND).await;
        }
        if !bury(&self.worker.process, &self.job, self.dead).await || !self.publish_usage(status, false).await
        {
            return Fate::HandBack(SECOND);
        }
        Fate::Ack
    }

    /// The request is answered already: publishes what may be missing of my usage.
    pub(super) async fn finish_again(&mut self, mine: Option<u32>) -> Fate {
        let Some(attempt) = mine else { return Fate::Ack };
        let response = match self.worker.process.response_of(&self.job.identity).await {
            Ok(Some(answer)) => answer.response.clone(),
            Ok(None) => return Fate::Ack,
            Err(_) => return Fate::HandBack(SECOND),
        };
        self.history = response.attempts.clone();
        self.job.accepted_at = response.timing.accepted_at;
        let status = (attempt > 0).then_some(response.status);
        if !bury(&self.worker.process, &self.job, self.dead).await || !self.publish_usage(status, false).await
        {
            return Fate::HandBack(SECOND);
        }
        Fate::Ack
    }

    /// Publishes the last attempt's usage again, as that of an attempt which did not end the request.
    pub(super) async fn repeat_last_usage(&self) -> bool {
        self.worker.process.world.has(Bug::UsageNotRepeated) || self.publish_usage(None, false).await
    }

    /// The same before a hand-over.
    pub(super) async fn repeat_usage_before(&self, next: &Next) -> bool {
        let requeued = match next {
            Next::Later { .. } | Next::Hold => true,
            Next::Fallback { target } => self.needs_routers(*target),
            Next::Retry { .. } => false,
        };
        self.publish_usage(None, requeued).await
    }

    /// Whether the routers have to reserve for a call of this target.
    pub(super) fn needs_routers(&self, target: usize) -> bool {
        self.job.reserved.as_ref().is_some_and(|covers| self.was_paid() || !covers.contains(&target))
    }

    fn was_paid(&self) -> bool {
        let is_paid =
            |attempt: &Attempt| attempt.outcome == Outcome::Lost || attempt.cost_nano_usd != NanoUsd::ZERO;
        self.history.last().is_some_and(is_paid)
    }

    fn with_budgets(&self, next: Next) -> Next {
        match next {
            Next::Retry { .. } if self.needs_routers(self.job.target) => {
                Next::Fallback { target: self.job.target }
            }
            next => next,
        }
    }

    async fn publish_usage(&self, ended: Option<Status>, requeued: bool) -> bool {
        let Some(attempt) = self.history.last() else { return true };
        let first = answer::first_call(&self.history).unwrap_or(attempt.started_at);
        let mut event = self.job.usage_subject().attempt(attempt, first, ended);
        event.requeued = requeued && self.job.reserved.is_some();
        publish_usage(&self.worker.process, event).await.is_ok()
    }

    async fn note_health(&mut self, target: &Target, seen: Seen) {
        let worker = Rc::clone(&self.worker);
        let (is_alive, class) = match seen {
            Seen::Nothing => return,
            Seen::Answer => (true, None),
            Seen::Failure(class) => match class.rule().health {
                Health::Alive => (true, Some(class)),
                Health::Failing => (false, Some(class)),
                Health::Unknown => return,
                Health::Paused => return self.pause(class, target).await,
            },
        };
        let outcome = if is_alive { Seeing::Success } else { Seeing::Failure };
        let trips = worker.windows.borrow_mut().entry(target.clone()).or_default().note(outcome, self.now());
        let code = class.map(Class::code);
        if let Some(probe) = self.permit.take() {
            let places =
                worker.process.world.plan.provider(&target.provider).map_or(1, |of| of.max_in_flight);
            worker
                .health
                .probed(target, probe, Ended { is_answered: is_alive, code, max_in_flight: places })
                .await;
        } else if trips && let Some(code) = code {
            worker.health.trip(target, code).await;
        }
    }

    async fn pause(&self, class: Class, target: &Target) {
        let pause_ms = match class {
            Class::Throttled { retry_after_ms: Some(wish) } if wish > retry::QUICK_DELAY_MS_MAX => {
                wish.min(3_000)
            }
            _ if self.permit.is_some() => {
                let is_throttled = |attempt: &&Attempt| attempt.code == Some(ErrorCode::ProviderThrottled);
                let before = self.history.iter().rev().take_while(is_throttled).count();
                retry::recovery_pause_ms(before, self.worker.process.chance())
            }
            _ => return,
        };
        let until = retry::later(self.now(), pause_ms, Timestamp::MAX_UTC);
        self.worker.health.throttle(&target.provider, until).await;
    }
}

/// Stores a dead letter, if the request is one.
pub(crate) async fn bury(process: &Proc, job: &Job, dead: Option<Dead>) -> bool {
    if dead.is_none() {
        return true;
    }
    let publish = Publish::new(subjects().dead(&job.identity), Body::Of(job.identity.clone()));
    process.publish(publish, NORMAL).await.is_ok()
}

/// Stores a usage event.
pub(crate) async fn publish_usage(process: &Proc, event: UsageEvent) -> Result<(), NotStored> {
    let (provider, model) = (event.provider.as_deref().unwrap_or("_"), event.model.as_deref().unwrap_or("_"));
    let subject = subjects().usage(&event.team, provider, model);
    let id = event.message_id();
    process.publish(Publish::new(subject, Body::Usage(event.into())).id(id), PAID).await.map(drop)
}
