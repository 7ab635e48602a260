//! Ending a request at the router: rejected, expired, cancelled; and what comes back from the retry stream.

use std::rc::Rc;

use chrono::TimeDelta;
use tollgate_policy::answer::{self, End};
use tollgate_policy::claim::{self, Due, Hand, Known, Stop, Stopping, Verdict};
use tollgate_protocol::Sequence;
use tollgate_protocol::job::Job;
use tollgate_protocol::record::{Answered, Dead, Last, Started};
use tollgate_protocol::response::{Outcome, Response};
use tollgate_protocol::usage::Subject;

use super::{GRACE_MS, Router, micros_of};
use crate::bug::Bug;
use crate::net::{Fenced, Held, NORMAL, NotStored, Written, subjects};
use crate::plan::{LEASE_MS, MS, SECOND};
use crate::worker::{Answer as Said, ask_owner};
use crate::worker::{bury, publish_usage, requeue};
use crate::world::{Answer, Body};

/// How often a worker that was told to end a call is looked at, in milliseconds.
const LOOK_MS: u64 = 100;
/// How long a cancellation of an unknown request is kept, in milliseconds.
const UNKNOWN_MS_MAX: i64 = 10_000;

impl Router {
    /// Ends a request that is on its way.
    pub(super) async fn end(&self, message: Held, job: &Job, end: End) {
        let response = self.response(job, end);
        let mut expected = job.run;
        loop {
            let last = match self.write_answer(&message, job, &response, expected).await {
                Ok(Fenced::Written(_)) => return message.ack().await,
                Ok(Fenced::Refused(last)) => *last,
                Err(_) => return message.hand_back(SECOND).await,
            };
            let hand = Hand { from: message.source.clone(), digest: job.digest };
            match claim::judge(&hand, last) {
                Verdict::Claim { expected: last, .. } => expected = last,
                _ => return message.ack().await,
            }
        }
    }

    async fn write_answer(
        &self,
        message: &Held,
        job: &Job,
        response: &Response,
        expected: Sequence,
    ) -> Result<Fenced, NotStored> {
        let answered = Answered {
            digest: job.digest,
            status: response.status,
            attempt: 0,
            from: message.source.clone(),
            dead: None,
        };
        let unpaid = Some(answer::unpaid(&job.usage_subject(), response, self.now()));
        let answer = Answer { answered, response: response.clone(), unpaid };
        if self.process.world.has(Bug::EndNotFenced) {
            let body = Body::Answer(self.process.world.number(), answer.into());
            let publish = tollgate_model::Publish::new(subjects().response(&job.identity), body);
            return self.process.publish(publish, NORMAL).await.map(|ack| Fenced::Written(ack.sequence));
        }
        self.process.write_record(&job.identity, Written::Answer(Box::new(answer)), expected, NORMAL).await
    }

    /// Ends the request of a message from outside, and lets go of the message.
    pub(super) async fn stop(&self, message: Held, job: &Job, stop: Stop) {
        loop {
            let Ok(last) = self.process.last_record(&job.identity).await else {
                return message.hand_back(SECOND).await;
            };
            let (expected, known) = match claim::stop(&job.digest, stop, last, self.now()) {
                Stopping::Write { expected, known } => (expected, known),
                Stopping::Running { sequence, started } => match self.end_call(job, sequence, &started).await
                {
                    true => (sequence, Some(Known::lost(&started))),
                    false => continue,
                },
                Stopping::NotYet => return message.hand_back(micros_of(GRACE_MS)).await,
                Stopping::Answered { answered } => {
                    let is_whole = answered.from != message.source
                        || self.finish_for(job, answered.attempt, answered.dead).await;
                    return if is_whole { message.ack().await } else { message.hand_back(SECOND).await };
                }
                Stopping::Conflict => return message.ack().await,
            };
            let known =
                known.unwrap_or_else(|| Known { accepted_at: job.accepted_at, history: job.history.clone() });
            match self.write_stopped(&message, job, stop, expected, &known).await {
                Ok(true) => return message.ack().await,
                // Somebody else wrote first.
                Ok(false) => {}
                Err(_) => return message.hand_back(SECOND).await,
            }
        }
    }

    /// What a worker does after its response is stored, in case it died before.
    async fn finish_for(&self, job: &Job, attempt: u32, dead: Option<Dead>) -> bool {
        let response = match self.process.response_of(&job.identity).await {
            Ok(Some(answer)) => answer.response.clone(),
            Ok(None) => return true,
            Err(_) => return false,
        };
        if !bury(&self.process, job, dead).await {
            return false;
        }
        if let Some((last, first)) = response.attempts.last().zip(answer::first_call(&response.attempts)) {
            let status = (attempt > 0).then_some(response.status);
            let subject = Subject { accepted_at: response.timing.accepted_at, ..job.usage_subject() };
            return publish_usage(&self.process, subject.attempt(last, first, status)).await.is_ok();
        }
        true
    }

    async fn write_stopped(
        &self,
        message: &Held,
        job: &Job,
        stop: Stop,
        expected: Sequence,
        known: &Known,
    ) -> Result<bool, NotStored> {
        let history = &known.history;
        let job = &Job { accepted_at: known.accepted_at, ..job.clone() };
        let is_lost = history.last().is_some_and(|last| last.outcome == Outcome::Lost);
        if (is_lost || expected != job.run)
            && let Some((last, first)) = history.last().zip(answer::first_call(history))
        {
            publish_usage(&self.process, job.usage_subject().attempt(last, first, None)).await?;
        }
        let end = match stop {
            Stop::Expired { .. } => End::expired(history),
            Stop::Cancelled => End::cancelled(),
        };
        let response = answer::response(job, history, end, self.now());
        match self.write_answer(message, job, &response, expected).await? {
            Fenced::Written(_) => Ok(true),
            Fenced::Refused(_) => Ok(false),
        }
    }

    /// Has a running call ended by its owner. `true`: there is no owner any more; `false`: the record has changed.
    async fn end_call(&self, job: &Job, sequence: Sequence, started: &Started) -> bool {
        let question = (job.identity.clone(), started.attempt);
        let mut silent_ms = 0;
        loop {
            let asked = self.process.world.exec.now();
            let answer = ask_owner(&self.process, &started.owner, &question, true).await;
            let listened_ms = ((self.process.world.exec.now() - asked) / MS).min(2_000) + LOOK_MS;
            silent_ms = if answer.is_some() { 0 } else { silent_ms + listened_ms };
            match self.process.last_record(&job.identity).await {
                Ok(Last::Started { sequence: last, .. }) if last == sequence => {}
                Ok(_) => return false,
                Err(_) => silent_ms = 0,
            }
            if answer == Some(Said::NotMine) || silent_ms >= LEASE_MS {
                return true;
            }
            self.process.sleep(micros_of(LOOK_MS)).await;
        }
    }

    /// Judges a message that was due or is released. `Some`: it is to be ordered like any other.
    pub(super) async fn due(&self, message: Held) -> Option<(Held, Job)> {
        let Body::Job(job) = &message.body else {
            message.ack().await;
            return None;
        };
        let job = Job::clone(job);
        let Ok(last) = self.process.last_record(&job.identity).await else {
            message.hand_back(SECOND).await;
            return None;
        };
        match claim::due(&job.digest, job.run, &last) {
            Due::Dispatch => return Some((message, job)),
            Due::Reply | Due::Conflict | Due::Copy => message.ack().await,
        }
        None
    }

    /// No target is up: it waits until one is.
    pub(super) async fn hold(&self, message: Held, job: &Job) {
        if self.now() >= job.deadline {
            let stop = Stop::Expired { deadline: job.deadline, grace_ms: GRACE_MS };
            return self.stop(message, job, stop).await;
        }
        if message.subject.starts_with("llm.retry.hold") {
            return message.hand_back(0).await;
        }
        let subject = subjects().retry_hold(job.priority, &job.identity.team);
        match requeue(&self.process, subject, job, &message.source).await {
            Ok(()) => message.ack().await,
            Err(_) => message.hand_back(SECOND).await,
        }
    }

    /// Does what can be done now about a cancellation.
    pub(super) async fn cancel(self: Rc<Self>, message: Held) {
        let Body::Of(identity) = message.body.clone() else { return message.ack().await };
        let age = self.now() - message.stored_at;
        let Ok(last) = self.process.last_record(&identity).await else {
            return message.hand_back(SECOND).await;
        };
        let is_unknown = matches!(last, Last::None | Last::Foreign { .. });
        match last {
            Last::Answered { .. } => return message.ack().await,
            Last::Started { started, .. } => {
                let question = (identity.clone(), started.attempt);
                let answer = ask_owner(&self.process, &started.owner, &question, true).await;
                if answer != Some(Said::Holding) {
                    self.look_for(&identity).await;
                }
            }
            Last::None | Last::Foreign { .. } | Last::Ended { .. } => self.look_for(&identity).await,
        }
        let looked_for = self.now() - message.stored_at.max(self.started_at);
        if is_unknown && looked_for > TimeDelta::milliseconds(UNKNOWN_MS_MAX) {
            return message.ack().await;
        }
        let wait = (age.num_milliseconds() / 2).clamp(100, 2_000);
        message.hand_back(micros_of(u64::try_from(wait).unwrap_or(100))).await;
    }

    /// Asks all routers, and looks among the schedules.
    async fn look_for(&self, identity: &tollgate_protocol::Identity) {
        let world = &self.process.world;
        let routers: Vec<_> = world.present.borrow().routers.values().cloned().collect();
        for router in routers {
            let identity = identity.clone();
            self.process.send(move |_| {
                if let Some(router) = router.upgrade() {
                    router.find(&identity);
                }
            });
        }
        let filter = subjects().retry_at_all(identity);
        let found =
            self.process.ask(NORMAL, move |world| world.server.borrow().last("LLM_RETRY", &filter).cloned());
        let Some(Some(stored)) = found.await else { return };
        let message = Held::found(&self.process, "LLM_RETRY", stored, Box::new(drop));
        if let Body::Job(job) = message.body.clone() {
            self.stop(message, &job, Stop::Cancelled).await;
        }
    }
}
