//! Messages that are not this worker's to go on with: waiting for an owner, handing over.

use std::pin::Pin;

use tollgate_model::{Publish, Schedule};
use tollgate_policy::answer::End;
use tollgate_policy::claim::{OwnerVerdict, Said, owner_rule};
use tollgate_protocol::Sequence;
use tollgate_protocol::job::Job;
use tollgate_protocol::record::{Last, Next, Source, Started};

use super::job::{Fate, Work};
use super::{Answer, ask_owner};
use crate::net::{NORMAL, NotStored, Proc, subjects};
use crate::plan::{LEASE_MS, MS, SECOND};
use crate::world::{Body, micros};

/// How waiting for an owner ended.
pub(super) enum Waited {
    /// The record has another last entry.
    Changed(Box<Last>),
    /// The attempt is lost.
    Lost,
    /// The store does not answer.
    Failed,
}

impl Work {
    /// Keeps the message until the owner of its attempt answered the request, says that it has not got it, or was silent
    /// for a whole lease.
    pub(super) async fn wait_for_owner(&self, sequence: Sequence, started: &Started) -> Waited {
        let process = &self.worker.process;
        let pause_ms = (LEASE_MS / 20).clamp(50, 1_000);
        let question = (self.job.identity.clone(), started.attempt);
        let mut silent_ms = 0;
        loop {
            let asked = process.world.exec.now();
            let answer = if started.owner == process.name {
                Some(self.worker.asked(&question, false))
            } else {
                ask_owner(process, &started.owner, &question, false).await
            };
            // The time that was listened, not the time that has passed: this process may have been stopped as well.
            let listened_ms = ((process.world.exec.now() - asked) / MS).min(2_000) + pause_ms;
            silent_ms = if answer.is_some() { 0 } else { silent_ms + listened_ms };
            let said = match answer {
                Some(Answer::Holding) => Said::Holding,
                Some(Answer::NotMine) => Said::NotMine,
                None => Said::Silent { for_ms: silent_ms },
            };
            // Asked first, read after: an owner that has just ended its attempt has written so before it let go.
            match process.last_record(&self.job.identity).await {
                Ok(Last::Started { sequence: last, .. }) if last == sequence => {}
                Ok(last) => return Waited::Changed(Box::new(last)),
                Err(_) => return Waited::Failed,
            }
            if owner_rule(said, LEASE_MS) == OwnerVerdict::Lost {
                return Waited::Lost;
            }
            process.sleep(pause_ms * MS).await;
        }
    }

    /// Does what the record says comes next. May be done twice: the record lets one of the copies go on.
    pub(super) async fn hand_over(&mut self, run: Sequence, next: &Next) -> Option<Fate> {
        if self.now() >= self.job.deadline {
            self.expected = run;
            return self.end_unpaid_again(End::expired(&self.history)).await;
        }
        Some(self.try_hand_over(run, next).await.unwrap_or(Fate::HandBack(SECOND)))
    }

    fn end_unpaid_again(&mut self, end: End) -> Pin<Box<dyn Future<Output = Option<Fate>> + '_>> {
        Box::pin(self.end_unpaid(end))
    }

    async fn try_hand_over(&self, run: Sequence, next: &Next) -> Result<Fate, NotStored> {
        let process = &self.worker.process;
        let target = match next {
            Next::Retry { delay_ms } => return Ok(Fate::HandBack(*delay_ms * MS)),
            Next::Fallback { target } => *target,
            Next::Later { .. } | Next::Hold => self.job.candidates().start,
        };
        let job = Job { run, target, probe: None, history: self.history.clone(), ..self.job.clone() };
        match next {
            Next::Later { at } => {
                let at = micros(*at);
                return park(process, &job, &self.hand.from, at).await.map(|()| Fate::Ack);
            }
            Next::Hold => {
                let subject = subjects().retry_hold(job.priority, &job.identity.team);
                return requeue(process, subject, &job, &self.hand.from).await.map(|()| Fate::Ack);
            }
            Next::Retry { .. } | Next::Fallback { .. } => {}
        }
        let back = subjects().retry_due(job.priority, &job.identity.team);
        let Some(to) = job.current_target().filter(|_| !self.needs_routers(job.target)) else {
            return requeue(process, back, &job, &self.hand.from).await.map(|()| Fate::Ack);
        };
        let subject = subjects().dispatch(&to.provider, job.priority);
        let id = format!("{}/{}/{}", job.identity, self.hand.from, job.run);
        let publish = Publish::new(subject, Body::Job(job.clone().into())).id(id);
        if process.publish(publish, 2 * SECOND).await.is_err() {
            requeue(process, back, &job, &self.hand.from).await?;
        }
        Ok(Fate::Ack)
    }
}

/// Stores a request until a time.
pub(crate) async fn park(process: &Proc, job: &Job, from: &Source, at: u64) -> Result<(), NotStored> {
    let subject = subjects().retry_at(&job.identity, &format!("{}-{}", from.stream, from.sequence));
    let target = subjects().retry_due(job.priority, &job.identity.team);
    let publish = Publish {
        schedule: Some(Schedule { at, target }),
        ..Publish::new(subject, Body::Job(job.clone().into()))
    };
    process.publish(publish, NORMAL).await.map(drop)
}

/// Gives a request to the routers, or stores it until a target is up.
pub(crate) async fn requeue(
    process: &Proc,
    subject: String,
    job: &Job,
    from: &Source,
) -> Result<(), NotStored> {
    let id = format!("{}/{from}/{}", job.identity, job.run);
    process.publish(Publish::new(subject, Body::Job(job.clone().into())).id(id), NORMAL).await.map(drop)
}
