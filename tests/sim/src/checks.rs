//! What must hold, checked at each step that could break it, and at the end. It is told what is stored and what is
//! called, and knows nothing of how the broker comes to do so: no code of `tollgate-policy` decides anything here.

mod end;
mod fair;
mod pace;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use tollgate_model::{Ack, Micros, Server};
use tollgate_policy::budget::{Measure, Per, Reserve};
use tollgate_protocol::budget::{Counter, EntryKind};
use tollgate_protocol::job::{Job, Target};
use tollgate_protocol::record::{Entry, Next};
use tollgate_protocol::response::{Attempt, Outcome, Status};
use tollgate_protocol::usage::{Kind, UsageEvent};
use tollgate_protocol::{Digest, Identity, Timestamp};

use crate::plan::{MS, Plan};
use crate::world::{Answer, Body, World, timestamp};

/// A stored request.
#[derive(Clone, Debug)]
struct Accepted {
    deadline: Micros,
    digest: Digest,
    is_invalid: bool,
}

/// A call.
#[derive(Clone, Debug)]
struct Calling {
    target: Target,
    user: Option<String>,
    /// What it costs at most: each byte of the body a token, and each token of the answer that it allows.
    bound: i64,
}

/// The last entry of a record.
#[derive(Clone, Debug)]
enum Stage {
    /// An attempt is claimed.
    Claimed(u32),
    /// It waits between two.
    Ended,
}

#[derive(Clone, Debug)]
struct Answered {
    at: Micros,
    answer: Rc<Answer>,
}

/// What was seen.
#[derive(Debug)]
pub struct Checks {
    plan: Plan,
    broken: Vec<String>,
    accepted: BTreeMap<Identity, Vec<Accepted>>,
    cancelled: BTreeSet<Identity>,
    answered: BTreeMap<Identity, Answered>,
    stages: BTreeMap<Identity, (Stage, Vec<Attempt>, Timestamp)>,
    /// Every call: for whom, accepted when, which attempt.
    called: BTreeMap<(Identity, Timestamp, u32), Calling>,
    /// By counted id: what counts.
    usage: BTreeMap<String, Rc<UsageEvent>>,
    lost: BTreeSet<String>,
    dead: BTreeSet<Identity>,
    counters: BTreeMap<Counter, i64>,
    /// How often what was seen: a simulation in which nothing happens finds nothing.
    pub seen: BTreeMap<&'static str, u64>,
    fairness: Option<fair::Fairness>,
    starts: pace::Starts,
    /// What happened, for who replays a seed.
    trace: Option<Vec<String>>,
}

impl Checks {
    /// Of a plan.
    pub fn new(plan: &Plan) -> Self {
        Self {
            plan: plan.clone(),
            broken: Vec::new(),
            accepted: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            answered: BTreeMap::new(),
            stages: BTreeMap::new(),
            called: BTreeMap::new(),
            usage: BTreeMap::new(),
            lost: BTreeSet::new(),
            dead: BTreeSet::new(),
            counters: BTreeMap::new(),
            seen: BTreeMap::new(),
            fairness: plan.is_backlog.then(|| fair::Fairness::new(plan)),
            starts: pace::Starts::default(),
            trace: None,
        }
    }

    /// Writes down what happens from now on.
    pub fn keep_trace(&mut self) {
        self.trace = Some(Vec::new());
    }

    /// Notes what happened.
    pub fn note(&mut self, now: Micros, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{} {}", Self::time(now), what()));
        }
    }

    /// What was written down.
    pub fn take_trace(&mut self) -> Vec<String> {
        self.trace.take().unwrap_or_default()
    }

    /// Something is not as it must be.
    pub fn broken(&mut self, what: String) {
        self.broken.push(what);
    }

    /// Whether anything is.
    pub fn is_broken(&self) -> bool {
        !self.broken.is_empty()
    }

    /// What is.
    pub fn into_broken(self) -> Vec<String> {
        self.broken
    }

    /// How many requests were accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.len()
    }

    /// A client takes a request back.
    pub fn cancelled(&mut self, identity: &Identity) {
        self.cancelled.insert(identity.clone());
    }

    /// A message was stored.
    pub fn stored(&mut self, subject: &str, body: &Body, ack: &Ack, increment: Option<i64>, now: Micros) {
        self.note(now, || {
            let amount =
                increment.map_or_else(String::new, |amount| format!(" {amount:+} = {:?}", ack.total));
            format!("{subject} #{}{amount} {}", ack.sequence, short(body))
        });
        if let Some(fairness) = &mut self.fairness {
            self.broken.extend(fairness.stored(subject, body));
        }
        *self.seen.entry(kind(body)).or_default() += 1;
        match body {
            Body::Request(request) => {
                let accepted = Accepted {
                    deadline: now + request.ttl_ms * MS,
                    digest: crate::router::digest(request),
                    is_invalid: request.is_invalid,
                };
                self.accepted.entry(crate::router::identity(request)).or_default().push(accepted);
            }
            Body::Job(_) => {}
            Body::Run(_, entry) => self.run_entry(subject, entry),
            Body::Answer(_, answer) => self.answer(answer, now),
            Body::Usage(event) => self.usage_event(event),
            Body::Entry(_) => self.counter_entry(subject, ack, increment.unwrap_or(0)),
            Body::Of(identity) if subject.starts_with("llm.dead") => drop(self.dead.insert(identity.clone())),
            Body::Of(_) | Body::Number => {}
        }
    }

    /// No queue holds more than it may.
    pub fn bounds(&mut self, server: &Server<Body>) {
        for (config, messages, fullest) in server.sizes().filter(|(config, ..)| config.discard_new) {
            let is_within = |count: usize, most: usize| most == 0 || count <= most;
            if !is_within(messages, config.messages_max) || !is_within(fullest, config.per_subject_max) {
                self.broken.push(format!("{}: {messages} messages, {fullest} of a subject", config.name));
            }
        }
    }

    fn run_entry(&mut self, subject: &str, entry: &Entry) {
        let Some(identity) = subject.strip_prefix("llm.run.").and_then(Identity::from_tokens) else {
            return self.broken(format!("a foreign subject: {subject}"));
        };
        if self.answered.contains_key(&identity) {
            self.broken(format!("{identity}: a claim or hand-over after the answer"));
        }
        let (stage, history, deadline) = match entry {
            Entry::Started(started) => (Stage::Claimed(started.attempt), &started.history, started.deadline),
            Entry::Ended(ended) => (Stage::Ended, &ended.history, ended.deadline),
        };
        if let Some((last, known, _)) = self.stages.get(&identity).cloned() {
            let is_prefix = known.iter().zip(history).all(|(one, other)| one.number == other.number);
            if history.len() < known.len() || !is_prefix {
                self.broken(format!("{identity}: attempts are forgotten: {known:?}, then {entry:?}"));
            }
            if let (Stage::Claimed(before), Entry::Started(started)) = (last, entry)
                && !history.iter().any(|attempt| attempt.number == before)
            {
                self.broken(format!(
                    "{identity}: attempt {} is claimed over attempt {before}",
                    started.attempt
                ));
            }
        }
        if let Entry::Started(started) = entry
            && history.iter().any(|attempt| attempt.number >= started.attempt)
        {
            self.broken(format!("{identity}: attempt {} is claimed twice", started.attempt));
        }
        self.stages.insert(identity, (stage, history.clone(), deadline));
    }

    fn answer(&mut self, answer: &Rc<Answer>, now: Micros) {
        let identity = answer.response.identity();
        if self.answered.contains_key(&identity) {
            self.broken(format!("{identity}: a second response"));
        }
        if let Some((_, known, deadline)) = self.stages.get(&identity) {
            let deadline = crate::world::micros(*deadline);
            if answer.response.status == Status::Expired && now + self.skew() < deadline {
                self.broken.push(format!(
                    "{identity}: expired, and the copy that goes on has time until {}",
                    Self::time(deadline)
                ));
            }
            let kept = known
                .iter()
                .all(|one| answer.response.attempts.iter().any(|other| other.number == one.number));
            if !kept {
                self.broken(format!("{identity}: the response forgets attempts of {known:?}"));
            }
        }
        self.answered.insert(identity, Answered { at: now, answer: Rc::clone(answer) });
    }

    fn usage_event(&mut self, event: &Rc<UsageEvent>) {
        let id = event.counted_id();
        if event.kind == Kind::Lost {
            self.lost.insert(id.clone());
        }
        match self.usage.get(&id) {
            Some(known) if known.kind == event.kind => {
                let is_same = known.cost_nano_usd == event.cost_nano_usd && known.usage == event.usage;
                if !is_same {
                    self.broken(format!("{id}: two events that say different things: {known:?}, {event:?}"));
                }
                // A final one may follow one that did not know it was.
                if event.is_final {
                    self.usage.insert(id, Rc::clone(event));
                }
            }
            Some(known) if known.kind == Kind::Lost => drop(self.usage.insert(id, Rc::clone(event))),
            Some(_) => {}
            None => drop(self.usage.insert(id, Rc::clone(event))),
        }
        self.exposure();
    }

    fn counter_entry(&mut self, subject: &str, ack: &Ack, amount: i64) {
        let Some(counter) = crate::ledger::counter_of(subject) else { return };
        let total = self.counters.entry(counter.clone()).or_default();
        *total += amount;
        let (total, said) = (*total, ack.total);
        if said != Some(total) {
            self.broken(format!("{counter}: the server says {said:?}, its entries are {total}"));
        }
    }

    /// A provider is called. `running`: the calls that are under way, this one among them, and whose they are.
    pub fn called(
        &mut self,
        job: &Job,
        attempt: u32,
        target: &Target,
        running: &[(Identity, u32, String)],
        now: Timestamp,
    ) {
        let (identity, now) = (&job.identity, crate::world::micros(now));
        self.note(now, || format!("call {identity} attempt {attempt} of {target}"));
        let price = self.plan.prices.get(target).copied().unwrap_or_default();
        let most = [
            (job.body_bytes() as u64, price.input),
            (job.output_tokens_max.unwrap_or(1_000_000), price.output),
        ];
        let bound = most.iter().map(|(tokens, price)| tokens * price / 1_000_000).sum::<u64>();
        let calling = Calling {
            target: target.clone(),
            user: job.meta.user.clone(),
            bound: i64::try_from(bound).unwrap_or(i64::MAX / 1_000),
        };
        if self.called.insert((identity.clone(), job.accepted_at, attempt), calling).is_some() {
            self.broken(format!("{identity}: attempt {attempt} is called twice"));
        }
        self.exposure();
        if self.answered.contains_key(identity) {
            // A process that was stopped between its claim and its call; it is checked that this is rare and counted.
            return;
        }
        let is_current = |(identity, attempt, _): &&(Identity, u32, String)| {
            let stage = self.stages.get(identity).map(|(stage, ..)| stage);
            !self.answered.contains_key(identity)
                && matches!(stage, Some(Stage::Claimed(of)) if of == attempt)
        };
        let current: Vec<_> = running.iter().filter(is_current).collect();
        self.in_flight(&current);
        let current = current.iter().filter(|(.., provider)| *provider == target.provider).count();
        let most = self.plan.provider(&target.provider).map_or(0, |of| of.max_in_flight as usize);
        if current > most {
            self.broken(format!("{}: {current} calls at a time, of {most}", target.provider));
        }
    }

    /// No more are in flight than a limit of that says, among those that are still to be answered.
    fn in_flight(&mut self, running: &[&(Identity, u32, String)]) {
        for budget in self.plan.budgets.0.iter().filter(|budget| budget.measure == Measure::InFlight) {
            let is_of_it = |(identity, attempt, _): &&&(Identity, u32, String)| {
                self.called.iter().any(|((of, _, number), call)| {
                    of == identity && number == attempt && end::is_for_call(budget, identity, call)
                })
            };
            let requests: BTreeSet<&Identity> = running.iter().filter(is_of_it).map(|(of, ..)| of).collect();
            if i64::try_from(requests.len()).unwrap_or(i64::MAX) > budget.limit {
                let (name, limit) = (&budget.name, budget.limit);
                self.broken.push(format!("{name}: {requests:?} in flight, of {limit}"));
            }
        }
    }

    /// What the calls of a strict budget have cost, and can cost that are under way, is never more than its limit.
    fn exposure(&mut self) {
        let mut broken = Vec::new();
        for budget in self.plan.budgets.0.iter() {
            // Where windows turn it is the reservation's that counts, which is not seen from here.
            let is_strict = budget.reserve == Reserve::Strict && budget.per == Per::Total;
            if budget.measure != Measure::Money || !is_strict {
                continue;
            }
            let of_events =
                self.usage.values().filter(|event| event.kind != Kind::Unpaid && end::is_for(budget, event));
            let cost: i64 = of_events.map(|event| event.cost_nano_usd.0).sum();
            let of_calls = self.called.iter().filter(|((identity, accepted_at, attempt), call)| {
                let id = format!("{identity}.{attempt}@{}", accepted_at.timestamp_micros());
                !self.usage.contains_key(&id) && end::is_for_call(budget, identity, call)
            });
            let open: i64 = of_calls.map(|(_, call)| call.bound).sum();
            if cost + open > budget.limit {
                let (name, limit) = (&budget.name, budget.limit);
                broken.push(format!("{name}: {cost} spent and {open} under way, of {limit}"));
            }
        }
        self.broken.extend(broken);
    }

    /// Whether every attempt of a response is one that ended, and how.
    fn is_told(&self, accepted_at: Timestamp, identity: &Identity, attempt: &Attempt) -> Result<(), String> {
        let id = format!("{identity}.{}@{}", attempt.number, accepted_at.timestamp_micros());
        let Some(event) = self.usage.get(&id) else { return Err(format!("{id}: no usage event")) };
        let is_late = attempt.outcome == Outcome::Lost && event.kind == Kind::Attempt;
        if !is_late && event.cost_nano_usd != attempt.cost_nano_usd {
            return Err(format!("{id}: the event says {:?}, the response {attempt:?}", event.cost_nano_usd));
        }
        Ok(())
    }

    /// Whether nothing is left to do.
    pub fn is_quiet(&self, world: &World) -> bool {
        let server = world.server.borrow();
        let queues = server.sizes().filter(|(config, ..)| config.work_queue);
        let is_empty = queues.into_iter().all(|(_, messages, _)| messages == 0);
        let is_answered = self.accepted.keys().all(|identity| self.answered.contains_key(identity));
        let is_idle = world.provider.borrow().calls.values().all(|call| !call.is_running);
        let (entries, usage) = world.book.borrow().cursors();
        let is_read = world.plan.budgets.is_empty()
            || (server.scan("LLM_BUDGET", ">", entries + 1, 1).is_empty()
                && server.scan("LLM_USAGE", ">", usage + 1, 1).is_empty()
                && world.book.borrow().uneven().is_empty());
        is_empty && is_answered && is_idle && is_read && self.is_final_told()
    }

    /// Whether the end of each request stands among the usage events.
    fn is_final_told(&self) -> bool {
        let finals: BTreeSet<Identity> =
            self.usage.values().filter(|event| event.is_final).map(|event| event.identity()).collect();
        self.answered.keys().all(|identity| finals.contains(identity))
    }

    fn skew(&self) -> Micros {
        self.plan.faults.skew_ms * MS
    }

    /// A time for people.
    fn time(at: Micros) -> String {
        timestamp(at).format("%M:%S%.3f").to_string()
    }
}

/// What a message is counted as.
fn kind(body: &Body) -> &'static str {
    match body {
        Body::Request(_) => "request",
        Body::Job(_) => "job",
        Body::Run(_, entry) => match entry.as_ref() {
            Entry::Started(_) => "claim",
            Entry::Ended(ended) => match ended.next {
                Next::Retry { .. } => "retry",
                Next::Fallback { .. } => "fallback",
                Next::Later { .. } => "later",
                Next::Hold => "hold",
            },
        },
        Body::Answer(_, answer) => answer.response.status.as_str(),
        Body::Usage(event) => event.kind.as_str(),
        Body::Entry(entry) => match entry.kind {
            EntryKind::Reserve => "reserve",
            EntryKind::Undo => "undo",
            EntryKind::Settle => "settle",
            EntryKind::Open => "open",
            EntryKind::Take => "take",
            EntryKind::Correct => "correct",
        },
        Body::Of(_) => "cancel or dead letter",
        Body::Number => "number",
    }
}

/// A message in a line.
fn short(body: &Body) -> String {
    match body {
        Body::Request(request) => format!("{} ms, variant {}", request.ttl_ms, request.variant),
        Body::Job(job) => format!(
            "{} run {} target {} of {} after {} attempts, reserved {:?}",
            job.identity,
            job.run,
            job.target,
            job.targets.len(),
            job.history.len(),
            job.reserved
        ),
        Body::Run(_, entry) => match entry.as_ref() {
            Entry::Started(started) => {
                format!("started {} by {} with {}", started.attempt, started.owner, started.from)
            }
            Entry::Ended(ended) => {
                format!("ended {} with {}, next {:?}", ended.attempt, ended.from, ended.next)
            }
        },
        Body::Answer(_, answer) => format!(
            "{} by attempt {} of {}, with {}",
            answer.response.status.as_str(),
            answer.answered.attempt,
            answer.response.attempts.len(),
            answer.answered.from
        ),
        Body::Usage(event) => format!(
            "{} {} final {} requeued {} cost {}",
            event.ce_id(),
            event.kind.as_str(),
            event.is_final,
            event.requeued,
            event.cost_nano_usd.0
        ),
        Body::Entry(entry) => {
            format!("{:?} {} attempt {} {:?}", entry.kind, entry.account, entry.attempt, entry.tried)
        }
        Body::Of(identity) => identity.to_string(),
        Body::Number => String::new(),
    }
}
