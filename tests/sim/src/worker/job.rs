//! One message, from its delivery to its acknowledgement.

use std::rc::Rc;

use tollgate_model::Micros;
use tollgate_policy::answer::{self, End};
use tollgate_policy::claim::{self, Hand, Verdict};
use tollgate_policy::estimate;
use tollgate_policy::failure::Class;
use tollgate_policy::health::Probe;
use tollgate_policy::inputs::Inputs;
use tollgate_policy::retry::{self, AfterLost};
use tollgate_protocol::job::{Job, Target};
use tollgate_protocol::record::{Dead, Ended, Entry, Last, Next, Started};
use tollgate_protocol::response::{Attempt, Outcome};
use tollgate_protocol::usage::millis_between;
use tollgate_protocol::{ErrorCode, JsonText, NanoUsd, Price, Sequence, Timestamp, TokenUsage};

use super::waiting::Waited;
use super::{InHand, Worker};
use crate::bug::Bug;
use crate::exec::{First, first};
use crate::net::{Fenced, Held, NotStored, PAID, Written};
use crate::plan::{LEASE_MS, SECOND};
use crate::provider::Connection;
use crate::world::{Body, timestamp};

/// What becomes of the message.
#[derive(Debug)]
pub(super) enum Fate {
    /// Everything about it is done.
    Ack,
    /// To be delivered again after this time.
    HandBack(Micros),
    /// Somebody else has it now.
    Abandon,
}

/// The message in hand and what is known of its request.
pub(super) struct Work {
    pub(super) worker: Rc<Worker>,
    pub(super) provider: String,
    pub(super) job: Job,
    pub(super) hand: Hand,
    pub(super) expected: Sequence,
    pub(super) history: Vec<Attempt>,
    pub(super) dead: Option<Dead>,
    pub(super) permit: Option<Probe>,
}

/// A finished call.
pub(super) struct Called {
    pub(super) attempt: Attempt,
    pub(super) result: Result<JsonText, Failed>,
    pub(super) seen: Seen,
}

/// What a call says about its target.
#[derive(Clone, Copy)]
pub(super) enum Seen {
    Answer,
    Failure(Class),
    Nothing,
}

/// Why there is no answer.
pub(super) enum Failed {
    Call { class: Class, by_deadline: bool },
    Aborted,
}

/// Works on one message until its fate is known.
pub(super) async fn work(worker: &Rc<Worker>, provider: &str, message: Held) {
    let Body::Job(job) = &message.body else { return message.ack().await };
    let job = Job::clone(job);
    let mut work = Work {
        worker: Rc::clone(worker),
        provider: provider.to_owned(),
        hand: Hand { from: message.source.clone(), digest: job.digest },
        expected: job.run,
        history: job.history.clone(),
        dead: None,
        permit: job.probe.map(|stage| Probe { stage }),
        job,
    };
    let mut message = Some(message);
    let fate = loop {
        if worker.process.world.has(Bug::WorkerAcksFirst)
            && let Some(message) = message.take()
        {
            message.ack().await;
        }
        if let Some(fate) = Box::pin(work.turn()).await {
            break fate;
        }
    };
    if let (Some(permit), Some(target)) = (work.permit, work.job.current_target()) {
        worker.health.give_back(target, permit).await;
    }
    let Some(message) = message else { return };
    match fate {
        Fate::Ack => message.ack().await,
        Fate::HandBack(delay) => message.hand_back(delay).await,
        Fate::Abandon => message.abandon(),
    }
}

impl Work {
    pub(super) fn now(&self) -> Timestamp {
        self.worker.process.now()
    }

    /// One try to bring the request further. `None`: something was learnt, try again.
    async fn turn(&mut self) -> Option<Fate> {
        if self.now() >= self.job.deadline {
            return self.end_unpaid(End::expired(&self.history)).await;
        }
        let target = self.job.current_target().cloned()?;
        let price = self.worker.process.world.plan.prices.get(&target).copied()?;
        if self.may_call(&target) { self.attempt(target, price).await } else { self.pass_by().await }
    }

    fn may_call(&self, target: &Target) -> bool {
        self.worker.health.may_call(target, self.permit, self.now())
    }

    /// Claims the next attempt and makes its call.
    async fn attempt(&mut self, target: Target, price: Price) -> Option<Fate> {
        let process = Rc::clone(&self.worker.process);
        let number = self.history.last().map_or(1, |attempt| attempt.number.saturating_add(1));
        let in_hand = self.worker.take((self.job.identity.clone(), number));
        let started = Started {
            attempt: number,
            from: self.hand.from.clone(),
            owner: process.name.clone(),
            digest: self.job.digest,
            accepted_at: self.job.accepted_at,
            deadline: self.job.deadline,
            provider: target.provider.clone(),
            model: target.model.clone(),
            estimate: estimate::attempt(
                Inputs::default().tokens_now(&self.job),
                self.job.output_tokens_max,
                &price,
            ),
            started_at: self.now(),
            history: self.history.clone(),
        };
        let started_at = started.started_at;
        let claim = if process.world.has(Bug::NoClaim) {
            self.expected
        } else {
            match self.write(Entry::Started(started), self.expected).await {
                Ok(Fenced::Written(sequence)) => sequence,
                Ok(Fenced::Refused(last)) => {
                    drop(in_hand);
                    return self.judge(*last).await;
                }
                Err(_) => return Some(Fate::HandBack(SECOND)),
            }
        };
        // A process that was stopped between claim and call may have been taken for lost meanwhile.
        if millis_between(started_at, self.now()) > LEASE_MS / 2 {
            match process.last_record(&self.job.identity).await {
                Ok(Last::Started { sequence, .. }) if sequence == claim => {}
                Ok(last) => {
                    drop(in_hand);
                    return self.judge(last).await;
                }
                Err(_) => return Some(Fate::HandBack(SECOND)),
            }
        }
        if self.now() >= self.job.deadline || in_hand.is_aborted() {
            self.expected = claim;
            let end = if in_hand.is_aborted() { End::cancelled() } else { End::expired(&self.history) };
            return self.end_unpaid(end).await;
        }
        if !self.may_call(&target) {
            let fate = self.withdraw(claim).await;
            drop(in_hand);
            return fate;
        }
        let called = self.call(&target, &price, number, &in_hand).await;
        process.point().await;
        let fate = self.conclude(claim, called).await;
        drop(in_hand);
        fate
    }

    async fn call(&self, target: &Target, price: &Price, number: u32, in_hand: &InHand) -> Called {
        let process = &self.worker.process;
        let world = &process.world;
        let started_at = self.now();
        if number == 1 {
            self.worker.retries.borrow_mut().entry(target.provider.clone()).or_default().deposit(started_at);
        }
        let drawn = world.provider.borrow_mut().begin(world, &self.job, target, number);
        let running = world.provider.borrow().running();
        world.checks.borrow_mut().called(&self.job, number, target, &running, timestamp(world.exec.now()));
        let connection = Connection::open(world, &drawn);
        let left = 1_000 * (millis_between(started_at, self.job.deadline) + 1);
        let ended = first(process.sleep(drawn.takes.min(left)), in_hand.aborted()).await;
        drop(connection);
        let mut attempt = attempt(target, price, number, started_at);
        attempt.duration_ms = millis_between(started_at, self.now());
        let estimated = estimate::tokens(Inputs::default().tokens_now(&self.job), self.job.output_tokens_max);
        if let First::Other(()) = ended {
            attempt.code = Some(ErrorCode::Cancelled);
            charge(&mut attempt, estimated, price, true);
            return Called { attempt, result: Err(Failed::Aborted), seen: Seen::Nothing };
        }
        let result = if drawn.takes > left { Err(Class::TimedOut) } else { drawn.result };
        match result {
            Ok(usage) => {
                attempt.outcome = Outcome::Succeeded;
                charge(&mut attempt, usage, price, false);
                let body = JsonText::from_slice(format!("{{\"call\":{}}}", drawn.call).as_bytes());
                match body {
                    Ok(body) => Called { attempt, result: Ok(body), seen: Seen::Answer },
                    Err(_) => Called { attempt, result: Err(Failed::Aborted), seen: Seen::Nothing },
                }
            }
            Err(class) => {
                attempt.code = Some(class.code());
                if class.cost_is_unknown() {
                    charge(&mut attempt, estimated, price, true);
                }
                let by_deadline = drawn.takes > left;
                let seen = if by_deadline { Seen::Nothing } else { Seen::Failure(class) };
                Called { attempt, result: Err(Failed::Call { class, by_deadline }), seen }
            }
        }
    }

    /// A write was refused: does what the record says.
    pub(super) async fn judge(&mut self, last: Last) -> Option<Fate> {
        let mut last = last;
        loop {
            match claim::judge(&self.hand, last) {
                Verdict::Claim { expected, history } => return self.goes_on_from(expected, history).await,
                Verdict::HandOver { run, ended } => {
                    self.history = ended.history;
                    if !self.repeat_usage_before(&ended.next).await {
                        return Some(Fate::HandBack(SECOND));
                    }
                    return self.hand_over(run, &ended.next).await;
                }
                Verdict::AskOwner { sequence, started } => {
                    match self.wait_for_owner(sequence, &started).await {
                        Waited::Changed(now_last) => last = *now_last,
                        Waited::Lost => return self.record_lost(sequence, started).await,
                        Waited::Failed => return Some(Fate::HandBack(SECOND)),
                    }
                }
                Verdict::Finish { mine, dead } => {
                    self.dead = dead;
                    return Some(self.finish_again(mine).await);
                }
                Verdict::Copy | Verdict::Conflict => return Some(Fate::Ack),
            }
        }
    }

    async fn goes_on_from(&mut self, expected: Sequence, history: Option<Vec<Attempt>>) -> Option<Fate> {
        self.expected = expected;
        self.history = history?;
        let is_counted = self.repeat_last_usage().await;
        (!is_counted).then_some(Fate::HandBack(SECOND))
    }

    /// The worker of an attempt is gone.
    async fn record_lost(&mut self, sequence: Sequence, started: Started) -> Option<Fate> {
        let attempt = answer::lost(&started);
        self.history = started.history;
        self.history.push(attempt);
        self.expected = sequence;
        let next = Next::Fallback { target: self.job.target };
        if !self.repeat_usage_before(&next).await {
            return Some(Fate::HandBack(SECOND));
        }
        match retry::after_lost(&self.history, self.now(), self.job.deadline, self.worker.process.chance()) {
            AfterLost::ClaimNext if self.needs_routers(self.job.target) => {
                Box::pin(self.go_on(sequence, next)).await
            }
            AfterLost::ClaimNext => match self.job.current_target().cloned() {
                Some(target) if !self.may_call(&target) => {
                    let next = self.another();
                    Box::pin(self.go_on(sequence, next)).await
                }
                _ => None,
            },
            AfterLost::Later { at } => Box::pin(self.go_on(sequence, Next::Later { at })).await,
            AfterLost::Bury { times } => {
                self.dead = Some(Dead::Poison);
                Box::pin(self.end_unpaid(End::lost_too_often(times))).await
            }
        }
    }

    /// The target is down: another one, or a wait until one is up.
    async fn pass_by(&mut self) -> Option<Fate> {
        let Ok(last) = self.worker.process.last_record(&self.job.identity).await else {
            return Some(Fate::HandBack(SECOND));
        };
        match claim::judge_unclaimed(&self.hand, self.expected, last.clone()) {
            Verdict::Claim { expected, history } => {
                if let Some(fate) = self.goes_on_from(expected, history).await {
                    return Some(fate);
                }
            }
            _ => return self.judge(last).await,
        }
        let next = self.another();
        self.end_uncalled(self.expected, &next).await
    }

    async fn end_uncalled(&mut self, expected: Sequence, next: &Next) -> Option<Fate> {
        match self.write_ended(expected, next).await {
            Ok(Fenced::Written(run)) => self.hand_over(run, next).await,
            Ok(Fenced::Refused(last)) => self.judge(*last).await,
            Err(_) => Some(Fate::HandBack(SECOND)),
        }
    }

    fn another(&self) -> Next {
        let standings = self.worker.health.standings(&self.job.targets, self.now());
        let other = self.job.candidates().filter(|index| *index != self.job.target).find(|index| {
            let standing = standings.get(*index);
            standing.is_some_and(|target| target.is_up && !retry::is_spent(&self.history, target))
        });
        other.map_or(Next::Hold, |target| Next::Fallback { target })
    }

    async fn withdraw(&mut self, claim: Sequence) -> Option<Fate> {
        let next = self.another();
        self.end_uncalled(claim, &next).await
    }

    pub(super) async fn write_ended(&self, expected: Sequence, next: &Next) -> Result<Fenced, NotStored> {
        let ended = Ended {
            attempt: self.history.last().map_or(0, |attempt| attempt.number),
            from: self.hand.from.clone(),
            digest: self.job.digest,
            accepted_at: self.job.accepted_at,
            deadline: self.job.deadline,
            next: next.clone(),
            history: self.history.clone(),
        };
        self.write(Entry::Ended(ended), expected).await
    }

    async fn write(&self, entry: Entry, expected: Sequence) -> Result<Fenced, NotStored> {
        self.worker
            .process
            .write_record(&self.job.identity, Written::Run(Box::new(entry)), expected, PAID)
            .await
    }
}

fn charge(attempt: &mut Attempt, usage: TokenUsage, price: &Price, is_estimate: bool) {
    attempt.estimated = is_estimate;
    attempt.usage = usage;
    attempt.cost_nano_usd = price.cost(&usage);
}

fn attempt(target: &Target, price: &Price, number: u32, started_at: Timestamp) -> Attempt {
    Attempt {
        provider: target.provider.clone(),
        model: target.model.clone(),
        number,
        started_at,
        duration_ms: 0,
        outcome: Outcome::Failed,
        code: None,
        cost_nano_usd: NanoUsd::ZERO,
        usage: TokenUsage::default(),
        price_version: price.version(),
        estimated: false,
        served_model: None,
        excused: false,
    }
}
