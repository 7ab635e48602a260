//! One message, from its delivery to its acknowledgement.
//!
//! What may be done is decided by `policy::claim` and `policy::failure`; here it is done, in an order in
//! which the process may be killed between any two lines.

use std::time::Duration;

use tollgate_bus::publish::PublishError;
use tollgate_bus::pull::Held;
use tollgate_bus::record::{Fenced, Write};
use tollgate_bus::retry::Patience;
use tollgate_policy::answer::{self, End};
use tollgate_policy::claim::{self, Hand, Verdict};
use tollgate_policy::estimate;
use tollgate_policy::health::Probe;
use tollgate_policy::retry::{self, AfterLost, Standing};
use tollgate_protocol::event::{Kind, LifecycleEvent};
use tollgate_protocol::job::{Job, Target};
use tollgate_protocol::record::{Dead, Ended, Entry, Last, Next, Started};
use tollgate_protocol::request::is_led_here;
use tollgate_protocol::response::Attempt;
use tollgate_protocol::usage::millis_between;
use tollgate_protocol::{ErrorCode, Price, Problem, Sequence, Timestamp};
use tollgate_telemetry::{self as telemetry, Role};

use super::waiting::Waited;
use super::{Context, SOURCE, Shop, call};

/// How long a message rests that this version cannot read.
const UNREADABLE: Duration = Duration::from_secs(30);
/// How soon the routers look for another target of a request, in milliseconds.
const SKIPPED_MS: u64 = 1_000;
/// How long a message rests when the store does not answer.
const REST: Duration = Duration::from_secs(1);

/// What becomes of the message.
#[derive(Debug)]
pub(super) enum Fate {
    /// Everything about it is done.
    Ack,
    /// To be delivered again after this time.
    HandBack(Duration),
    /// Somebody else has it now.
    Abandon,
}

/// The message in hand and what is known about its request.
pub(super) struct Work<'a> {
    pub(super) context: &'a Context,
    pub(super) shop: &'a Shop,
    pub(super) job: Job,
    pub(super) hand: Hand,
    /// When the message was stored, by the server's clock.
    pub(super) stored_at: Timestamp,
    /// The last record entry known.
    pub(super) expected: Sequence,
    /// Attempts up to now.
    pub(super) history: Vec<Attempt>,
    /// Whether the request becomes a dead letter when it ends.
    pub(super) dead: Option<Dead>,
    /// The permit that came with the message, until a call has used it.
    pub(super) permit: Option<Probe>,
}

/// Works on one message until its fate is known.
pub(super) async fn work(context: &Context, shop: &Shop, mut message: Held) {
    let job = match Job::decode(&message.payload) {
        Ok(job) => job,
        // Nobody wrote it: a reply subject led an acknowledgement or a copy here.
        Err(_) if is_led_here(&message.header_view(), &message.payload) => {
            telemetry::count_drained_acknowledgement();
            return message.ack().await;
        }
        Err(error) => {
            // A request of a newer version, perhaps: kept for a process that can read it.
            tracing::error!(%error, message = %message.source, "a dispatch message cannot be read by this version");
            return message.hand_back(UNREADABLE).await;
        }
    };
    tollgate_bus::point("worker.taken");
    // The job has its own copy of the body.
    message.payload = bytes::Bytes::new();
    let mut work = Work {
        context,
        shop,
        hand: Hand { from: message.source.clone(), digest: job.digest },
        stored_at: message.stored_at,
        expected: job.run,
        history: job.history.clone(),
        dead: None,
        permit: job.probe.map(|stage| Probe { stage }),
        job,
    };
    let fate = loop {
        if context.stop.is_cancelled() {
            break Fate::HandBack(Duration::ZERO);
        }
        if let Some(fate) = Box::pin(work.turn()).await {
            break fate;
        }
    };
    if let (Some(permit), Some(target)) = (work.permit, work.job.current_target()) {
        context.health.give_back(target, permit, tollgate_bus::now()).await;
    }
    tollgate_bus::point("worker.done");
    match fate {
        Fate::Ack => message.ack().await,
        Fate::HandBack(delay) => message.hand_back(delay).await,
        Fate::Abandon => message.abandon(),
    }
}

impl Work<'_> {
    /// One try to bring the request further. `None`: something was learnt, try again.
    async fn turn(&mut self) -> Option<Fate> {
        if tollgate_bus::now() >= self.job.deadline {
            return self.end_unpaid(End::expired(&self.history)).await;
        }
        match self.callable() {
            Some((price, target)) if self.may_call(&target).await => match self.fetch_body().await {
                Some(fate) => fate,
                None if self.wait_for_turn(&target).await => self.attempt(target, price).await,
                None => None,
            },
            Some(_) => self.pass_by().await,
            None => self.skip_target().await,
        }
    }

    /// Claims the next attempt and makes its call.
    async fn attempt(&mut self, target: Target, price: Price) -> Option<Fate> {
        let number = self.history.last().map_or(1, |attempt| attempt.number.saturating_add(1));
        let input = self.context.input_tokens(&self.job, &target);
        // Noted before the claim is written: whoever reads the claim may ask at once.
        let in_hand = self.context.registry.take(self.question(number));
        let started = Started {
            attempt: number,
            from: self.hand.from.clone(),
            owner: self.context.owner.clone(),
            digest: self.job.digest,
            accepted_at: self.job.accepted_at,
            deadline: self.job.deadline,
            provider: target.provider.clone(),
            model: target.model.clone(),
            estimate: estimate::attempt(input.0, self.job.output_tokens_max, &price),
            started_at: tollgate_bus::now(),
            history: self.history.clone(),
        };
        let started_at = started.started_at;
        // With all patience: a claim that is given up may be stored all the same, and would count as lost.
        let claim = match self.write_run(&Entry::Started(started), Patience::CLAIM).await {
            Ok(Fenced::Written(sequence)) => sequence,
            Ok(Fenced::Refused(last)) => {
                drop(in_hand);
                return self.judge(*last).await;
            }
            Err(error) => return Some(self.rest(&error)),
        };
        tollgate_bus::point("worker.claimed");
        // A process that was stopped between claim and call may have been taken for lost meanwhile.
        let paused = millis_between(started_at, tollgate_bus::now());
        if u128::from(paused) > self.context.settings.lease.as_millis() / 2 {
            match self.context.bus.last_record(&self.job.identity, Patience::NORMAL).await {
                Ok(Last::Started { sequence, .. }) if sequence == claim => {}
                Ok(last) => {
                    drop(in_hand);
                    return self.judge(last).await;
                }
                Err(error) => return Some(self.rest(&error)),
            }
        }
        // Ended before it began: no call, no attempt.
        if tollgate_bus::now() >= self.job.deadline || in_hand.is_aborted() {
            self.expected = claim;
            let end = if in_hand.is_aborted() { End::cancelled() } else { End::expired(&self.history) };
            return self.end_unpaid(end).await;
        }
        // A pause may have been asked for while the claim was written.
        if !self.may_call(&target).await {
            let fate = self.withdraw(claim).await;
            drop(in_hand);
            return fate;
        }
        let begun_at = tollgate_bus::now();
        let called = tokio::select! {
            called = call::call(self.context, self.shop, &self.job, (&target, &price), (number, input)) => called,
            // Dropping the call closes its connection.
            () = in_hand.aborted() => call::aborted(&self.job, (&target, &price), (number, input.0), begun_at),
        };
        tollgate_bus::point("worker.called");
        let fate = self.conclude(claim, called).await;
        drop(in_hand);
        fate
    }

    /// A write was refused: does what the record says.
    pub(super) async fn judge(&mut self, last: Last) -> Option<Fate> {
        telemetry::count_record_conflict(Role::Worker);
        let mut last = last;
        loop {
            match claim::judge(&self.hand, last) {
                Verdict::Claim { expected, history } => return self.goes_on_from(expected, history).await,
                Verdict::HandOver { run, ended } => {
                    self.history = ended.history;
                    if !self.repeat_usage_before(&ended.next).await {
                        return Some(Fate::HandBack(REST));
                    }
                    return self.hand_over(run, &ended.next).await;
                }
                Verdict::AskOwner { sequence, started } => {
                    match self.wait_for_owner(sequence, &started).await {
                        Waited::Changed(now_last) => last = *now_last,
                        Waited::Lost => {
                            return self.record_lost(sequence, started).await;
                        }
                        Waited::Stopped => return Some(Fate::HandBack(Duration::ZERO)),
                        Waited::Failed(error) => return Some(self.rest(&error)),
                    }
                }
                Verdict::Finish { mine, dead } => {
                    self.dead = dead;
                    return Some(self.finish_again(mine).await);
                }
                Verdict::Copy => return Some(self.drop_copy().await),
                Verdict::Conflict => {
                    self.report_conflict().await;
                    return Some(Fate::Ack);
                }
            }
        }
    }

    /// The request goes on from this entry of its record. `Some`: not now.
    async fn goes_on_from(&mut self, expected: Sequence, history: Option<Vec<Attempt>>) -> Option<Fate> {
        self.expected = expected;
        self.history = history?;
        // The usage of its last call may have died with the process that wrote the entry.
        let is_counted = self.repeat_last_usage().await;
        (!is_counted).then_some(Fate::HandBack(REST))
    }

    /// The worker of an attempt is gone: its cost is recorded as an estimate, then the next one is claimed.
    async fn record_lost(&mut self, sequence: Sequence, started: Started) -> Option<Fate> {
        let attempt = answer::lost(&started);
        telemetry::count_lost_attempt(&attempt.provider);
        let event = LifecycleEvent {
            attempt: attempt.number,
            provider: Some(attempt.provider.clone()),
            model: Some(attempt.model.clone()),
            code: attempt.code,
            ..self.event(Kind::Lost, "the worker of the call was lost")
        };
        self.history = started.history;
        self.history.push(attempt);
        self.expected = sequence;
        // Without the event on the ledger there is no next attempt. If a budget has to be asked for that, the routers do it.
        let next = Next::Fallback { target: self.job.target };
        if !self.repeat_usage_before(&next).await {
            return Some(Fate::HandBack(REST));
        }
        tollgate_bus::point("worker.lost");
        self.publish_event(&event).await;
        match retry::after_lost(&self.history, tollgate_bus::now(), self.job.deadline, super::chance()) {
            AfterLost::ClaimNext if self.needs_routers(self.job.target) => {
                Box::pin(self.go_on(sequence, next, ErrorCode::AttemptLost)).await
            }
            // Its claim stands in the record, so only another claim, or its end, brings the request further.
            AfterLost::ClaimNext => match self.elsewhere().await {
                Some(next) => Box::pin(self.go_on(sequence, next, ErrorCode::AttemptLost)).await,
                None => None,
            },
            AfterLost::Later { at } => {
                let next = Next::Later { at };
                Box::pin(self.go_on(sequence, next, ErrorCode::AttemptLost)).await
            }
            AfterLost::Bury { times } => {
                self.dead = Some(Dead::Poison);
                Box::pin(self.end_unpaid(End::lost_too_often(times))).await
            }
        }
    }

    /// Sees to it that the body is here. `Some`: it is not.
    pub(super) async fn fetch_body(&mut self) -> Option<Option<Fate>> {
        let body = self.job.body_ref.as_ref().filter(|_| self.job.body.is_empty())?;
        match self.context.bus.fetch(body).await {
            Ok(Some(body)) => {
                self.job.body = body;
                None
            }
            Ok(None) => {
                tracing::error!(request = %self.job.identity, "a large body is gone");
                let problem = Problem::new(ErrorCode::Internal, "the body of the request is gone");
                let end = End::Unpaid(tollgate_protocol::response::Status::Failed, problem);
                Some(self.end_unpaid(end).await)
            }
            Err(error) => {
                tracing::warn!(error, request = %self.job.identity, "a large body cannot be fetched, the message will come again");
                Some(Some(Fate::HandBack(REST)))
            }
        }
    }

    /// Whether the target may be called now: it is up, or this is one of the calls that are to show whether it is; and a
    /// key for it is usable.
    pub(super) async fn may_call(&self, target: &Target) -> bool {
        let now = tollgate_bus::now();
        if let Err(until) = self.shop.key_now(now) {
            // Everybody has to know, or it would be sent here again at once.
            self.context.health.throttle(&self.shop.name, until, now).await;
            return false;
        }
        self.context.health.may_call(&target.provider, &target.model, self.permit, now)
    }

    /// The target is down: another one, or a wait until one is up.
    async fn pass_by(&mut self) -> Option<Fate> {
        self.pass_on(None).await
    }

    /// Where to is known, or is to be found out.
    async fn pass_on(&mut self, next: Option<Next>) -> Option<Fate> {
        let last = match self.context.bus.last_record(&self.job.identity, Patience::NORMAL).await {
            Ok(last) => last,
            Err(error) => return Some(self.rest(&error)),
        };
        match claim::judge_unclaimed(&self.hand, self.expected, last.clone()) {
            Verdict::Claim { expected, history } => {
                if let Some(fate) = self.goes_on_from(expected, history).await {
                    return Some(fate);
                }
            }
            _ => return self.judge(last).await,
        }
        let next = next.unwrap_or_else(|| self.another());
        self.end_uncalled(self.expected, &next, Patience::NORMAL).await
    }

    /// Hands on what was not called. It is written first: were it only handed on, another delivery of this message could
    /// claim it meanwhile, the copy be dropped for that, and the acknowledgement that follows take the message from whoever
    /// claimed it.
    async fn end_uncalled(&mut self, expected: Sequence, next: &Next, patience: Patience) -> Option<Fate> {
        match self.write_ended(expected, next, patience).await {
            Ok(Fenced::Written(run)) => self.hand_over(run, next).await,
            Ok(Fenced::Refused(last)) => self.judge(*last).await,
            Err(error) => Some(self.rest(&error)),
        }
    }

    /// Another target that is up, or the wait for one.
    fn another(&self) -> Next {
        let standings = self.standings();
        let candidates = self.job.candidates();
        let standing = |index: &usize| standings.get(*index);
        let other = candidates.filter(|index| *index != self.job.target).find(|index| {
            standing(index).is_some_and(|target| target.is_up && !retry::is_spent(&self.history, target))
        });
        other.map_or(Next::Hold, |target| Next::Fallback { target })
    }

    /// The attempt is claimed, and now its target may not be called any more: the claim ends without a call. The next
    /// one has the same number. With all patience: it would count as lost.
    async fn withdraw(&mut self, claim: Sequence) -> Option<Fate> {
        let next = self.another();
        self.end_uncalled(claim, &next, Patience::PAID).await
    }

    /// Every target of the request, as this worker sees it.
    pub(super) fn standings(&self) -> Vec<Standing<'_>> {
        self.context.health.standings(&self.job.targets, tollgate_bus::now())
    }

    /// This worker's configuration does not have the target.
    async fn skip_target(&mut self) -> Option<Fate> {
        self.pass_on(Some(self.skipped())).await
    }

    /// The next target, or back to the routers, who may know more.
    fn skipped(&self) -> Next {
        let next = self.job.candidates().find(|index| *index > self.job.target);
        let at = retry::later(tollgate_bus::now(), SKIPPED_MS, self.job.deadline);
        next.map_or(Next::Later { at }, |target| Next::Fallback { target })
    }

    /// Where the request goes if its target cannot be called here and now; `None`: it can.
    async fn elsewhere(&self) -> Option<Next> {
        match self.callable() {
            Some((_, target)) => (!self.may_call(&target).await).then(|| self.another()),
            None => Some(self.skipped()),
        }
    }

    /// The target and its price, if this worker knows them.
    fn callable(&self) -> Option<(Price, Target)> {
        let target = self.job.current_target().filter(|target| target.provider == self.shop.name)?;
        Some((self.context.price(&self.job, target)?, target.clone()))
    }

    pub(super) async fn write_ended(
        &self,
        expected: Sequence,
        next: &Next,
        patience: Patience,
    ) -> Result<Fenced, PublishError> {
        let ended = Ended {
            attempt: self.history.last().map_or(0, |attempt| attempt.number),
            from: self.hand.from.clone(),
            digest: self.job.digest,
            accepted_at: self.job.accepted_at,
            deadline: self.job.deadline,
            next: next.clone(),
            history: self.history.clone(),
        };
        self.write(&Entry::Ended(ended), expected, patience).await
    }

    async fn write_run(&self, entry: &Entry, patience: Patience) -> Result<Fenced, PublishError> {
        self.write(entry, self.expected, patience).await
    }

    async fn write(
        &self,
        entry: &Entry,
        expected: Sequence,
        patience: Patience,
    ) -> Result<Fenced, PublishError> {
        let payload = serde_json::to_vec(entry)
            .map_err(|error| PublishError::Refused { code: 0, description: error.to_string() })?;
        let write = Write {
            identity: &self.job.identity,
            subject: self.context.bus.subjects().run(&self.job.identity),
            headers: async_nats::HeaderMap::new(),
            ttl_seconds: self.context.settings.retention.seconds(self.job.deadline, tollgate_bus::now()),
            payload: payload.into(),
            expected,
        };
        self.context.bus.write_record(write, patience).await
    }

    /// The store did not take a write. The message comes again.
    pub(super) fn rest(&self, error: &PublishError) -> Fate {
        tracing::warn!(%error, request = %self.job.identity, "the record cannot be written, the message will come again");
        Fate::HandBack(REST)
    }

    pub(super) fn event(&self, kind: Kind, message: &str) -> LifecycleEvent {
        LifecycleEvent::about(&self.job.identity, kind, tollgate_bus::now(), message)
    }

    pub(super) async fn publish_event(&self, event: &LifecycleEvent) {
        let id = format!("{}.{}.{}", self.job.identity, event.attempt, event.kind.as_str());
        self.context.bus.publish_event(event, SOURCE, &id).await;
    }
}
