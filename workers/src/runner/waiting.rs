//! Messages that are not this worker's to go on with: waiting for an owner, handing over, copies.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::Instant;
use tollgate_bus::owner::{Answer, Question, Silence};
use tollgate_bus::publish::PublishError;
use tollgate_bus::retry::Patience;
use tollgate_policy::answer::{self, End};
use tollgate_policy::claim::{OwnerVerdict, Said, owner_rule};
use tollgate_protocol::event::Kind;
use tollgate_protocol::job::Job;
use tollgate_protocol::record::{Last, Next, Started};
use tollgate_protocol::response::Status;
use tollgate_protocol::{ErrorCode, Problem, Sequence};
use tollgate_telemetry as telemetry;

use super::job::{Fate, Work};

/// How waiting for an owner ended.
pub(super) enum Waited {
    /// The record has another last entry.
    Changed(Box<Last>),
    /// The attempt is lost.
    Lost,
    /// This process is to stop.
    Stopped,
    /// The store does not answer.
    Failed(PublishError),
}

impl Work<'_> {
    pub(super) fn question(&self, attempt: u32) -> Question {
        Question { identity: self.job.identity.clone(), attempt }
    }

    /// Keeps the message, with heartbeats, until the owner of its attempt answered the request, says that
    /// it has not got it, or was silent for a whole lease.
    pub(super) async fn wait_for_owner(&self, sequence: Sequence, started: &Started) -> Waited {
        let lease = self.context.settings.lease;
        let pause = (lease / 20).clamp(Duration::from_millis(50), Duration::from_secs(1));
        let question = self.question(started.attempt);
        let mut silence = Silence::new(&self.context.bus);
        loop {
            let asked = Instant::now();
            let answer = if started.owner == self.context.owner {
                let holds = self.context.registry.holds(&question);
                Some(if holds { Answer::Holding } else { Answer::NotMine })
            } else {
                self.context.bus.ask_owner(&started.owner, &question).await
            };
            let silent = silence.note(&self.context.bus, answer, asked, pause);
            let said = match answer {
                Some(Answer::Holding) => Said::Holding,
                Some(Answer::NotMine) => Said::NotMine,
                None => Said::Silent { for_ms: u64::try_from(silent.as_millis()).unwrap_or(u64::MAX) },
            };
            // Asked first, read after: an owner that has just ended its attempt has written so before it let go.
            match self.context.bus.last_record(&self.job.identity, Patience::NORMAL).await {
                Ok(Last::Started { sequence: last, .. }) if last == sequence => {}
                Ok(last) => return Waited::Changed(Box::new(last)),
                Err(error) => return Waited::Failed(error),
            }
            let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
            if owner_rule(said, lease_ms) == OwnerVerdict::Lost {
                return Waited::Lost;
            }
            tokio::select! {
                () = self.context.stop.cancelled() => return Waited::Stopped,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Does what the record says comes next. May be done twice: the record lets one of the copies go on.
    pub(super) async fn hand_over(&mut self, run: Sequence, next: &Next) -> Option<Fate> {
        if tollgate_bus::now() >= self.job.deadline {
            self.expected = run;
            return self.end_unpaid_again(End::expired(&self.history)).await;
        }
        match self.try_hand_over(run, next).await {
            Ok(fate) => {
                tollgate_bus::point("worker.handed_over");
                Some(fate)
            }
            // Possible only on a server whose max_payload is smaller than it should be.
            Err(PublishError::TooLarge { .. }) => {
                let text =
                    "with what belongs to it, the request is larger than the nats-server's max_payload";
                let problem = Problem::at(ErrorCode::RequestTooLarge, "body", text);
                self.expected = run;
                self.end_unpaid_again(End::Unpaid(Status::Failed, problem)).await
            }
            Err(error) => Some(self.rest(&error)),
        }
    }

    /// From here the way can lead back here, over what the record says.
    fn end_unpaid_again(&mut self, end: End) -> Pin<Box<dyn Future<Output = Option<Fate>> + Send + '_>> {
        Box::pin(self.end_unpaid(end))
    }

    async fn try_hand_over(&self, run: Sequence, next: &Next) -> Result<Fate, PublishError> {
        let target = match next {
            Next::Retry { delay_ms } => return Ok(Fate::HandBack(Duration::from_millis(*delay_ms))),
            Next::Fallback { target } => *target,
            // It begins with the first again.
            Next::Later { .. } | Next::Hold => self.job.candidates().start,
        };
        let job = Job { run, target, probe: None, history: self.history.clone(), ..self.job.clone() };
        match next {
            Next::Later { at } => {
                return self.context.bus.park(&job, &self.hand.from, *at).await.map(|()| Fate::Ack);
            }
            Next::Hold => return self.context.bus.hold(&job, &self.hand.from).await.map(|()| Fate::Ack),
            Next::Retry { .. } | Next::Fallback { .. } => {}
        }
        let Some(to) = job.current_target() else {
            tracing::error!(request = %job.identity, "a hand-over names a target that is not there");
            // Its deadline ends it.
            return Ok(Fate::HandBack(Duration::from_secs(30)));
        };
        if self.needs_routers(job.target) {
            self.context.bus.give_back(&job, &self.hand.from).await?;
            return Ok(Fate::Ack);
        }
        let payload = match job.encode() {
            Ok(payload) => payload,
            Err(error) => {
                tracing::error!(%error, request = %job.identity, "a request cannot be encoded");
                return Ok(Fate::HandBack(Duration::from_secs(1)));
            }
        };
        let subjects = self.context.bus.subjects();
        let subject = subjects.dispatch(&to.provider, job.priority);
        let id = format!("{}/{}/{}", job.identity, self.hand.from, job.run);
        let headers = async_nats::HeaderMap::new();
        let patience = Patience(Duration::from_secs(2));
        match self.context.bus.publish(&subject, headers, Some(&id), payload, patience).await {
            Ok(_) => {}
            // A worker never waits on a full subject while it holds a place: the routers find one.
            Err(error) => {
                tracing::debug!(%error, provider = to.provider, "the next target takes nothing now, back to the routers");
                self.context.bus.give_back(&job, &self.hand.from).await?;
            }
        }
        Ok(Fate::Ack)
    }

    /// Another message of the same request goes on. If somebody waits for a reply to this one, the routers
    /// look again later whether there is an answer.
    pub(super) async fn drop_copy(&self) -> Fate {
        if self.job.reply_to.is_none() {
            return Fate::Ack;
        }
        match self.context.bus.look_again(&self.job, &self.hand.from, self.stored_at).await {
            Ok(()) => Fate::Ack,
            Err(error) => self.rest(&error),
        }
    }

    /// The identity was used before, for another body.
    pub(super) async fn report_conflict(&self) {
        telemetry::count_duplicate();
        let message = "this identity was used before for another body; this one was not run";
        self.publish_event(&self.event(Kind::DuplicateId, message)).await;
        if let Some(inbox) = &self.job.reply_to {
            let problem = Problem::at(ErrorCode::DuplicateId, "id", message);
            let end = End::Unpaid(Status::Rejected, problem);
            let response = answer::response(&self.job, &[], end, tollgate_bus::now());
            self.context.bus.reply_with(inbox, &response, self.job.bare, self.job.encoding).await;
        }
    }
}
