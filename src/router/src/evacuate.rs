//! What lies in the stream of a provider that is not configured any more goes back to the routers.

use std::time::Duration;

use async_nats::HeaderMap;
use tokio::time::Instant;
use tollgate_bus::owner::{Answer, Question, Silence};
use tollgate_bus::publish::PublishError;
use tollgate_bus::record::{Fenced, Write};
use tollgate_bus::retry::Patience;
use tollgate_policy::answer::{End, response};
use tollgate_policy::claim::{self, Hand, Known, Verdict};
use tollgate_protocol::job::Job;
use tollgate_protocol::record::{Ended, Entry, Next, Source, Started};
use tollgate_protocol::response::Attempt;
use tollgate_protocol::{Sequence, Timestamp};

use crate::Context;
use crate::ending::Caller;
use crate::holding::Holding;

/// How often the owner of a call is asked whether it still has it.
const ASK_EVERY: Duration = Duration::from_millis(250);

impl Context {
    /// Moves one message.
    pub(crate) async fn evacuate(&self, source: Source) {
        let Some(message) = self.find(source).await else { return };
        // Nobody could run what this version cannot read.
        let Ok(job) = Job::decode(&message.payload) else { return };
        let hand = Hand { from: message.source.clone(), digest: job.digest };
        let last = match self.bus.last_record(&job.identity, Patience::NORMAL).await {
            Ok(last) => last,
            Err(error) => return self.stays(&job, &error),
        };
        let moved = match claim::judge_unclaimed(&hand, job.run, last) {
            Verdict::Claim { expected, history } => {
                let is_called = history.is_some();
                let history = history.unwrap_or_else(|| job.history.clone());
                // Written first: a worker could claim it before it is let go of, be it after a rest.
                let known = Known { accepted_at: job.accepted_at, history };
                match self.write_ended(&message, &job, expected, &known).await {
                    Ok(Some(run)) if is_called => self.move_on(&message, &job, run, known.history).await,
                    Ok(Some(run)) => {
                        let job = Job { run, probe: None, ..job.clone() };
                        self.bus.give_back(&job, &message.source).await
                    }
                    Ok(None) => return,
                    Err(error) => Err(error),
                }
            }
            Verdict::HandOver { run, ended } => self.move_on(&message, &job, run, ended.history).await,
            Verdict::AskOwner { sequence, started } => {
                if !self.is_lost(&job, &started).await {
                    return;
                }
                match self.give_up(&message, &job, sequence, &started).await {
                    Ok(Some((run, history))) => self.move_on(&message, &job, run, history).await,
                    // The record has changed.
                    Ok(None) => return,
                    Err(error) => Err(error),
                }
            }
            Verdict::Finish { mine, dead } => {
                let is_whole = match mine {
                    Some(attempt) => self.finish_for(&job, attempt, dead).await,
                    None => true,
                };
                if !is_whole || !self.reply_stored(&Caller::of(&job)).await {
                    return;
                }
                Ok(())
            }
            // Somebody may wait for a reply to this copy.
            Verdict::Copy if job.reply_to.is_some() => {
                self.bus.look_again(&job, &message.source, message.stored_at).await
            }
            Verdict::Copy => Ok(()),
            Verdict::Conflict => {
                let form = response(&job, &[], End::expired(&[]), tollgate_bus::now());
                self.report_conflict(&Caller::of(&job), form).await;
                Ok(())
            }
        };
        match moved {
            Ok(()) => message.ack().await,
            Err(error) => self.stays(&job, &error),
        }
    }

    fn stays(&self, job: &Job, error: &PublishError) {
        tracing::warn!(%error, request = %job.identity, "a request cannot be moved to another provider now");
    }

    async fn move_on(
        &self,
        message: &Holding,
        job: &Job,
        run: Sequence,
        history: Vec<Attempt>,
    ) -> Result<(), PublishError> {
        // The worker that ended the last call may have died before it said what that cost.
        self.repeat_usage(job, &history).await?;
        tracing::info!(request = %job.identity, "its provider is not configured any more: another target is looked for");
        let job = Job { run, history, probe: None, ..job.clone() };
        self.bus.give_back(&job, &message.source).await
    }

    /// Whether nobody has the call in hand: its owner says so, or is silent for a whole lease.
    async fn is_lost(&self, job: &Job, started: &Started) -> bool {
        let question = Question { identity: job.identity.clone(), attempt: started.attempt };
        let mut silence = Silence::new(&self.bus);
        loop {
            let asked = Instant::now();
            let answer = self.bus.ask_owner(&started.owner, &question).await;
            let silent = silence.note(&self.bus, answer, asked, ASK_EVERY);
            match answer {
                Some(Answer::Holding) => return false,
                Some(Answer::NotMine) => return true,
                None if !self.bus.connection().health().connected => return false,
                None if silent >= self.settings.lease => return true,
                None => tokio::time::sleep(ASK_EVERY).await,
            }
        }
    }

    /// Records a lost call. `None`: the record has changed.
    async fn give_up(
        &self,
        message: &Holding,
        job: &Job,
        sequence: Sequence,
        started: &Started,
    ) -> Result<Option<(Sequence, Vec<Attempt>)>, PublishError> {
        let known = Known::lost(started);
        self.repeat_usage(&Job { accepted_at: known.accepted_at, ..job.clone() }, &known.history).await?;
        let run = self.write_ended(message, job, sequence, &known).await?;
        Ok(run.map(|run| (run, known.history)))
    }

    /// Writes that the message is handed on. `None`: the record has changed.
    async fn write_ended(
        &self,
        message: &Holding,
        job: &Job,
        expected: Sequence,
        known: &Known,
    ) -> Result<Option<Sequence>, PublishError> {
        let now: Timestamp = tollgate_bus::now();
        let ended = Entry::Ended(Ended {
            attempt: known.history.last().map_or(0, |attempt| attempt.number),
            from: message.source.clone(),
            digest: job.digest,
            accepted_at: known.accepted_at,
            deadline: job.deadline,
            next: Next::Later { at: now },
            history: known.history.clone(),
        });
        let payload = serde_json::to_vec(&ended)
            .map_err(|error| PublishError::Refused { code: 0, description: error.to_string() })?;
        let write = Write {
            identity: &job.identity,
            subject: self.bus.subjects().run(&job.identity),
            headers: HeaderMap::new(),
            ttl_seconds: self.settings.retention.seconds(job.deadline, now),
            payload: payload.into(),
            expected,
        };
        match self.bus.write_record(write, Patience::NORMAL).await? {
            Fenced::Written(run) => Ok(Some(run)),
            Fenced::Refused(_) => Ok(None),
        }
    }
}
