//! Ending a request from outside, whoever has it in hand: its deadline passed, or its client took it back.

use std::time::Duration;

use tokio::time::Instant;
use tollgate_bus::answer::Ending;
use tollgate_bus::owner::{Answer, Question, Silence};
use tollgate_bus::publish::PublishError;
use tollgate_bus::record::Fenced;
use tollgate_bus::retry::Patience;
use tollgate_policy::answer::{self, End};
use tollgate_policy::claim::{self, Known, Stop, Stopping};
use tollgate_protocol::event::{Kind, LifecycleEvent};
use tollgate_protocol::job::Job;
use tollgate_protocol::record::{Dead, Last, Started};
use tollgate_protocol::response::{Attempt, Outcome};
use tollgate_protocol::usage::Subject;
use tollgate_telemetry::{self as telemetry, Role};

use crate::ending::Caller;
use crate::holding::Holding;
use crate::{Context, SOURCE};

/// How long a worker is left to end a call at its deadline by itself, in milliseconds.
pub(crate) const GRACE_MS: u64 = 1_000;
/// How often a worker that was told to end a call is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// The message is done with.
    Done,
    /// It has to be looked at again: it is not time yet, or the store does not answer.
    Later,
}

impl Context {
    /// Ends the request of a message, and lets go of the message.
    pub(crate) async fn stop(&self, message: Holding, job: &Job, stop: Stop) -> Stopped {
        let caller = Caller::of(job);
        loop {
            let last = match self.bus.last_record(&job.identity, Patience::NORMAL).await {
                Ok(last) => last,
                Err(error) => {
                    tracing::warn!(%error, request = %job.identity, "the record cannot be read, it is looked at again");
                    message.hand_back(Duration::from_secs(1)).await;
                    return Stopped::Later;
                }
            };
            let (expected, known) = match claim::stop(&job.digest, stop, last, tollgate_bus::now()) {
                Stopping::Write { expected, known } => (expected, known),
                Stopping::Running { sequence, started } => {
                    match self.end_call(job, sequence, &started).await {
                        true => (sequence, Some(Known::lost(&started))),
                        false => continue,
                    }
                }
                Stopping::NotYet => {
                    message.hand_back(Duration::from_millis(GRACE_MS)).await;
                    return Stopped::Later;
                }
                Stopping::Answered { answered } => {
                    let is_whole = answered.from != message.source
                        || self.finish_for(job, answered.attempt, answered.dead).await;
                    if !is_whole || !self.reply_stored(&caller).await {
                        message.hand_back(Duration::from_secs(1)).await;
                        return Stopped::Later;
                    }
                    message.ack().await;
                    return Stopped::Done;
                }
                Stopping::Conflict => {
                    let form = answer::response(job, &[], End::expired(&[]), tollgate_bus::now());
                    self.report_conflict(&caller, form).await;
                    message.ack().await;
                    return Stopped::Done;
                }
            };
            let known =
                known.unwrap_or_else(|| Known { accepted_at: job.accepted_at, history: job.history.clone() });
            match self.write_stopped(&message, job, stop, expected, &known).await {
                Ok(true) => {
                    tollgate_bus::point("router.stop.stored");
                    message.ack().await;
                    return Stopped::Done;
                }
                // Somebody else wrote first.
                Ok(false) => telemetry::count_record_conflict(Role::Router),
                Err(()) => {
                    message.hand_back(Duration::from_secs(1)).await;
                    return Stopped::Later;
                }
            }
        }
    }

    /// What a worker does after its response is stored, in case it died before: the usage of the call that ended the
    /// request, and the dead letter. `false`: it has to be tried again.
    pub(crate) async fn finish_for(&self, job: &Job, attempt: u32, dead: Option<Dead>) -> bool {
        let warn = |error: &dyn std::fmt::Display| {
            tracing::warn!(%error, request = %job.identity, "what follows an answer cannot be stored, it is tried again");
            false
        };
        let response = match self.bus.response_of(&job.identity).await {
            Ok(Some((response, _))) => response,
            Ok(None) => return true,
            Err(error) => return warn(&error),
        };
        if let Some(dead) = dead {
            if let Err(error) = self.bus.bury(job, dead, &response).await {
                return warn(&error);
            }
            telemetry::count_dead_letter(dead.as_str());
            let message = "it failed for good; `tollgate dlq show` has it";
            let mut event = LifecycleEvent::about(&job.identity, Kind::Dead, tollgate_bus::now(), message);
            event.code = response.error.as_ref().map(|problem| problem.code);
            // The worker may have told it: the same id, and known once.
            self.bus.publish_event(&event, SOURCE, &format!("{}.0.dead", job.identity)).await;
        }
        // Also of a call that did not end the request, but was cut by its deadline or its client.
        if let Some((last, first)) = response.attempts.last().zip(answer::first_call(&response.attempts)) {
            let status = (attempt > 0).then_some(response.status);
            let subject = Subject { accepted_at: response.timing.accepted_at, ..job.usage_subject() };
            let event = subject.attempt(last, first, status);
            if let Err(error) = self.bus.publish_usage(&event, SOURCE, job.traceparent.as_deref()).await {
                return warn(&error);
            }
        }
        true
    }

    /// Publishes what the last call cost, in case its worker died before it said so. Counted once, however often.
    pub(crate) async fn repeat_usage(&self, job: &Job, history: &[Attempt]) -> Result<(), PublishError> {
        let Some((last, first)) = history.last().zip(answer::first_call(history)) else { return Ok(()) };
        let event = job.usage_subject().attempt(last, first, None);
        self.bus.publish_usage(&event, SOURCE, job.traceparent.as_deref()).await.map(drop)
    }

    /// Writes the response. `Ok(false)`: the record has changed.
    async fn write_stopped(
        &self,
        message: &Holding,
        job: &Job,
        stop: Stop,
        expected: u64,
        known: &Known,
    ) -> Result<bool, ()> {
        let history = &known.history;
        let job = &Job { accepted_at: known.accepted_at, ..job.clone() };
        let warn = |error: &dyn std::fmt::Display| {
            tracing::warn!(%error, request = %job.identity, "a response cannot be stored, it is tried again");
        };
        // First what the last call cost, if its worker may have died before it said so: it is lost, or the message in
        // hand is not yet the one that its worker passed on. No response names an attempt that nobody counted.
        let is_lost = history.last().is_some_and(|last| last.outcome == Outcome::Lost);
        if is_lost || expected != job.run {
            self.repeat_usage(job, history).await.map_err(|error| warn(&error))?;
        }
        let end = match stop {
            Stop::Expired { .. } => End::expired(history),
            Stop::Cancelled => End::cancelled(),
        };
        let now = tollgate_bus::now();
        let response = answer::response(job, history, end, now);
        let unpaid = answer::unpaid(&job.usage_subject(), &response, now);
        let ending = Ending {
            response: &response,
            encoding: job.encoding,
            digest: job.digest,
            from: &message.source,
            attempt: 0,
            dead: None,
            unpaid: Some(&unpaid),
            ttl_seconds: self.settings.retention.seconds(job.deadline, now),
            expected,
            traceparent: job.traceparent.as_deref(),
        };
        match self.bus.write_answer(ending, Patience::NORMAL).await {
            Ok(Fenced::Written(_)) => {}
            Ok(Fenced::Refused(_)) => return Ok(false),
            Err(error) => {
                warn(&error);
                return Err(());
            }
        }
        telemetry::count_request(response.status.as_str(), job.priority.as_str());
        let total = Duration::from_millis(response.timing.total_ms);
        telemetry::observe_request(response.status.as_str(), total);
        if let Some(inbox) = &job.reply_to {
            self.bus.reply_with(inbox, &response, job.bare, job.encoding).await;
        }
        Ok(true)
    }

    /// Has a running call ended by its owner, who writes how the request ended. `true`: there is no owner any more,
    /// and the call is lost; `false`: the record has changed.
    async fn end_call(&self, job: &Job, sequence: u64, started: &Started) -> bool {
        let question = Question { identity: job.identity.clone(), attempt: started.attempt };
        let mut silence = Silence::new(&self.bus);
        loop {
            let asked = Instant::now();
            let answer = self.bus.abort_attempt(&started.owner, &question).await;
            let mut silent = silence.note(&self.bus, answer, asked, LOOK);
            match self.bus.last_record(&job.identity, Patience::NORMAL).await {
                Ok(Last::Started { sequence: last, .. }) if last == sequence => {}
                Ok(_) => return false,
                Err(_) => silent = Duration::ZERO,
            }
            if answer == Some(Answer::NotMine) || silent >= self.settings.lease {
                return true;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
