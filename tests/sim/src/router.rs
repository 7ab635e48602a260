//! A router, in the order of steps of `src/router/`: read, choose a target, order, reserve, dispatch, acknowledge.

mod dispatch;
mod gates;
mod index;
mod permit;
mod reserve;
mod stop;
mod turn;

use std::cell::{Cell, RefCell};
use std::num::NonZeroU32;
use std::rc::Rc;

use tollgate_model::Micros;
use tollgate_policy::answer::{self, End};
use tollgate_policy::budget::{Budget, Need, Needs};
use tollgate_policy::claim::Stop;
use tollgate_policy::estimate;
use tollgate_policy::health::Availability;
use tollgate_policy::inputs::{Inputs, text_alone};
use tollgate_policy::order::{Gate, Place, Queue};
use tollgate_policy::outputs::Outputs;
use tollgate_policy::route::{Route, route, still_goes};
use tollgate_policy::served::Served;
use tollgate_protocol::job::{Job, Target, Typed};
use tollgate_protocol::request::Endpoint;
use tollgate_protocol::response::{Outcome, Status};
use tollgate_protocol::usage::{Kind, UsageEvent};
use tollgate_protocol::{Digest, Encoding, ErrorCode, Identity, Meta, Problem, RequestId, Team, Timestamp};

use crate::health::Health;
use crate::net::{Held, Proc, Process};
use crate::plan::{Request, SECOND};
use crate::roles;
use crate::world::{Body, Documents, World};
use dispatch::{Dispatched, Left};
use gates::Gates;
use index::Index;
use reserve::Reserved;

pub use permit::Permit;
pub(crate) use reserve::add;

/// How long a worker is left to end a call at its deadline by itself, in milliseconds.
const GRACE_MS: u64 = 1_000;

/// A request in hand, ready to be dispatched.
struct Item {
    message: Held,
    job: Job,
    target: Target,
    /// Its message has the permit for that, or it takes one when it goes.
    is_probe: bool,
    place: Place,
    message_id: String,
    needs: Needs,
    amounts: Vec<Need>,
    waits: u32,
    reserved: Option<Vec<Reserved>>,
    /// When it may begin under limits of requests per minute that it has a number of.
    turns: Vec<(usize, Timestamp)>,
    attempt: u32,
}

/// A router process.
pub struct Router {
    process: Proc,
    health: Health,
    /// What is spent, as the ledger told it.
    spent: RefCell<Documents>,
    queue: RefCell<Queue<Box<Item>>>,
    gates: RefCell<Gates>,
    served: RefCell<Served>,
    inputs: RefCell<Inputs>,
    outputs: RefCell<Outputs>,
    in_flight: Cell<usize>,
    /// When gates are looked at again by themselves.
    look_at: Cell<Option<Micros>>,
    in_hand: Rc<Cell<usize>>,
    index: RefCell<Index>,
    started_at: Timestamp,
}

/// The digest of a request.
pub fn digest(request: &Request) -> Digest {
    Digest::of(format!("{}/{}", request.number, request.variant).as_bytes())
}

/// Whose a request is.
pub fn identity(request: &Request) -> Identity {
    let tokens = format!("{}.sim.q{}", request.team, request.number);
    Identity::from_tokens(&tokens).unwrap_or_else(|| Identity {
        team: Team::as_published(&request.team),
        group: tollgate_protocol::Group::none(),
        id: RequestId::from_sequence(request.number),
    })
}

/// A request as a job, before it has gone anywhere.
fn job(request: &Request, message: &Held) -> Job {
    let meta = Meta { user: Some(request.user.clone()), ..Meta::default() };
    let ttl = chrono::TimeDelta::milliseconds(i64::try_from(request.ttl_ms).unwrap_or(0));
    Job {
        identity: identity(request),
        run: 0,
        digest: digest(request),
        sequence: message.source.sequence,
        priority: request.priority,
        endpoint: Endpoint::ChatCompletions,
        encoding: Encoding::default(),
        bare: false,
        requested_model: request.targets.first().map_or_else(String::new, |target| target.model.clone()),
        targets: request.targets.clone(),
        typed: Typed::default(),
        target: 0,
        probe: None,
        history: Vec::new(),
        accepted_at: message.stored_at,
        deadline: message.stored_at + ttl,
        meta,
        reply_to: None,
        traceparent: None,
        reserved: None,
        output_tokens_max: request.output_tokens_max,
        choices: 1,
        model_at: (0, 0),
        body: vec![b'x'; request.body_bytes].into(),
        body_digest: None,
        body_ref: None,
        input_tokens: None,
        media: 0,
        media_bytes: 0,
        rejects_on_limit: false,
        reserved_prices: Vec::new(),
    }
}

impl Router {
    /// Starts one.
    pub fn boot(world: &Rc<World>, slot: usize) {
        let process = Process::start(world, roles::Kind::Router(slot));
        let router = Rc::new(Self {
            health: Health::new(&process),
            spent: RefCell::new(world.documents.borrow().clone()),
            queue: RefCell::new(Queue::new([16, 4, 1])),
            gates: RefCell::new(Gates::new(&world.plan.budgets)),
            served: RefCell::default(),
            inputs: RefCell::default(),
            outputs: RefCell::default(),
            in_flight: Cell::new(0),
            look_at: Cell::new(None),
            in_hand: Rc::default(),
            index: RefCell::new(Index::new(world)),
            started_at: process.now(),
            process: Rc::clone(&process),
        });
        world.present.borrow_mut().routers.insert(process.name.clone(), Rc::downgrade(&router));
        let due = ("LLM_RETRY", "due", "llm.retry.due".to_owned());
        let lanes = ["high", "normal", "low"].map(|lane| ("LLM_REQ", lane, format!("llm.lane.{lane}")));
        for (stream, consumer, prefix) in lanes.into_iter().chain([due]) {
            let (room, on) = (Rc::clone(&router.in_hand), Rc::clone(&router));
            let prefetch = world.plan.prefetch;
            let places = move || (4 * prefetch).saturating_sub(room.get()).min(prefetch);
            let take = move |message| on.take(message);
            process.spawn(Rc::clone(&process).pull(stream.to_owned(), consumer, prefix, places, take));
        }
        let on = Rc::clone(&router);
        let cancel = move |message| {
            let router = Rc::clone(&on);
            on.process.spawn(async move { router.cancel(message).await });
        };
        process.spawn(Rc::clone(&process).pull(
            "LLM_CANCEL".into(),
            "routers",
            "llm.cancel".into(),
            || 8,
            cancel,
        ));
        let ticking = Rc::clone(&router);
        process.spawn(async move { ticking.tick().await });
        let seconds = Rc::clone(&router);
        process.spawn(async move {
            loop {
                seconds.process.sleep(SECOND).await;
                seconds.each_second();
            }
        });
    }

    fn now(&self) -> Timestamp {
        self.process.now()
    }

    /// A message is in hand.
    fn take(self: &Rc<Self>, message: Held) {
        match &message.body {
            Body::Request(request) => {
                let (request, router) = (Rc::clone(request), Rc::clone(self));
                let job = job(&request, &message);
                if request.is_invalid {
                    let problem = Problem::new(ErrorCode::UnknownModel, "there is no such model");
                    self.process.spawn(async move {
                        router.end(message, &job, End::Unpaid(Status::Rejected, problem)).await
                    });
                } else {
                    self.choose(message, job);
                    self.dispatch_open();
                }
            }
            Body::Job(_) => {
                let router = Rc::clone(self);
                self.process.spawn(async move {
                    if let Some((message, job)) = router.due(message).await {
                        router.choose(message, job);
                        router.dispatch_open();
                    }
                });
            }
            _ => self.process.spawn(message.ack()),
        }
    }

    fn availability(&self, target: &Target) -> Option<Availability> {
        let is_known = self.process.world.plan.prices.contains_key(target);
        is_known.then(|| self.health.availability(target, self.now()))
    }

    /// Chooses a target for a request, now.
    fn choose(self: &Rc<Self>, mut message: Held, mut job: Job) {
        (message.permit, job.probe) = (None, None);
        let router = Rc::clone(self);
        match route(&job, |target| self.availability(target)) {
            Route::To(target) => {
                job.target = target;
                self.order(message, job);
            }
            Route::Probe(target) => self.process.spawn(async move {
                let Some(to) = job.targets.get(target).cloned() else { return };
                if let Some(permit) = router.permit(&to).await {
                    (job.target, message.permit) = (target, Some(permit));
                    router.order(message, job);
                    router.dispatch_open();
                } else {
                    router.hold(message, &job).await;
                }
            }),
            Route::Hold | Route::Gone => self.process.spawn(async move { router.hold(message, &job).await }),
        }
    }

    fn order(&self, message: Held, mut job: Job) {
        let plan = &self.process.world.plan;
        let Some(target) = job.current_target().cloned() else { return };
        let needs = plan.budgets.needs(&job, &plan.prices, &self.inputs.borrow());
        job.probe = message.permit.as_ref().and_then(Permit::stage);
        job.reserved.clone_from(&needs.covers);
        let expected =
            self.outputs.borrow().expected(&job.identity.team, &job.requested_model, job.output_tokens_max);
        let input_tokens = self.inputs.borrow().tokens_now(&job);
        let tokens = estimate::tokens_expected(input_tokens, job.output_tokens_max, expected);
        let weight = plan.teams.get(job.identity.team.as_str()).copied().and_then(NonZeroU32::new);
        let place = Place {
            priority: job.priority,
            team: job.identity.team.clone(),
            weight: weight.unwrap_or(NonZeroU32::MIN),
            gate: Gate { provider: target.provider.clone(), budgets: needs.budgets.clone() },
            tokens,
        };
        self.in_hand.set(self.in_hand.get() + 1);
        let mut item = Item {
            message_id: format!("{}/{}", job.identity, message.source),
            attempt: job.history.last().map_or(1, |attempt| attempt.number.saturating_add(1)),
            place: place.clone(),
            target,
            is_probe: job.probe.is_some(),
            needs,
            amounts: Vec::new(),
            waits: 0,
            reserved: None,
            turns: Vec::new(),
            message,
            job,
        };
        if !self.gates.borrow().has_room(&place.gate.budgets) {
            item.set_permit(None);
        }
        self.queue.borrow_mut().push(place, Box::new(item));
    }

    fn left_queue(&self) {
        self.in_hand.set(self.in_hand.get().saturating_sub(1));
    }

    /// Dispatches everything that may go now.
    fn dispatch_open(self: &Rc<Self>) {
        let reopen = self.gates.borrow_mut().reopen(self.process.world.exec.now());
        loop {
            let next = {
                let gates = self.gates.borrow();
                self.queue.borrow_mut().pop(
                    |priority, provider| gates.is_open(provider, priority),
                    |budgets| gates.has_room(budgets),
                )
            };
            let Some((_, mut item)) = next else { break };
            if item.job.deadline <= self.now() {
                self.queue.borrow_mut().refund(&item.place);
                self.expire(item);
                continue;
            }
            if !still_goes(self.availability(&item.target), item.is_probe, item.message.permit.is_some()) {
                self.queue.borrow_mut().refund(&item.place);
                self.choose_again(item);
                continue;
            }
            if !item.needs.budgets.is_empty() {
                let most =
                    self.outputs.borrow().most(&item.job.identity.team, &item.job.requested_model, None);
                item.amounts = item.needs.amounts(&self.process.world.plan.budgets, most);
            }
            self.gates.borrow_mut().sent(&item.place);
            let settled = self.served.borrow_mut().note(&item.job.identity, &item.place, self.now());
            settled.iter().for_each(|settlement| self.queue.borrow_mut().settle(settlement));
            self.served.borrow_mut().note_text(&item.job.identity, text_alone(&item.job));
            self.in_flight.set(self.in_flight.get() + 1);
            let router = Rc::clone(self);
            self.process.spawn(async move {
                let dispatched = router.dispatch(item).await;
                router.note(dispatched);
                router.dispatch_open();
            });
        }
        let is_sooner = |at: &Micros| self.look_at.get().is_none_or(|known| *at < known);
        if let Some(at) = reopen.filter(|_| !self.queue.borrow().is_empty()).filter(is_sooner) {
            let (router, now) = (Rc::clone(self), self.process.world.exec.now());
            self.look_at.set(Some(at));
            self.process.spawn(async move {
                router.process.sleep(at.saturating_sub(now).max(1)).await;
                // One looks at a time: each look may begin the next.
                if router.look_at.get() == Some(at) {
                    router.look_at.set(None);
                    router.dispatch_open();
                }
            });
        }
    }

    fn choose_again(self: &Rc<Self>, item: Box<Item>) {
        self.left_queue();
        let Item { message, job, reserved, attempt, .. } = *item;
        if let Some(held) = reserved {
            let (router, identity) = (Rc::clone(self), job.identity.clone());
            self.process.spawn(async move {
                router.take_back(&identity, attempt, held).await;
            });
        }
        self.choose(message, job);
    }

    fn note(self: &Rc<Self>, dispatched: Dispatched) {
        let Dispatched { place, seen, left } = dispatched;
        self.in_flight.set(self.in_flight.get() - 1);
        self.gates.borrow_mut().seen(&place, seen, self.process.world.exec.now());
        match left {
            Left::Nothing => self.left_queue(),
            Left::Item(mut item) => {
                self.served.borrow_mut().forget(&item.job.identity);
                if !seen.is_tried_soon() {
                    item.set_permit(None);
                }
                let (needs, is_reserved) = (&item.needs.budgets, item.reserved.is_some());
                item.place.gate.budgets = self.gates.borrow_mut().behind(&place, seen, needs, is_reserved);
                self.queue.borrow_mut().put_back(item.place.clone(), item);
            }
            Left::Unserved(identity) => {
                self.left_queue();
                self.unserved(&identity, &place);
            }
            Left::Again(message, job) => {
                self.left_queue();
                self.unserved(&job.identity, &place);
                self.choose(*message, *job);
            }
        }
    }

    fn unserved(&self, identity: &Identity, place: &Place) {
        if self.served.borrow_mut().forget(identity) {
            self.queue.borrow_mut().refund(place);
        }
    }

    /// A worker has a free place.
    pub fn freed(self: &Rc<Self>, provider: &str) {
        self.gates.borrow_mut().freed(provider);
        self.dispatch_open();
    }

    /// Documents have changed.
    pub fn told(self: &Rc<Self>, documents: &Documents) {
        self.health.note(documents);
        let mut changed = Vec::new();
        {
            let mut known = self.spent.borrow_mut();
            for (counter, spent) in &documents.spent {
                if known.spent.get(counter) != Some(spent) {
                    known.spent.insert(counter.clone(), spent.clone());
                    changed.push(counter.budget.clone());
                }
            }
        }
        let budgets = &self.process.world.plan.budgets.0;
        let is_news = |budget: &Budget| changed.contains(&budget.name) && !self.is_full(budget);
        for index in (0..budgets.len()).filter(|index| is_news(&budgets[*index])) {
            self.gates.borrow_mut().settled(index);
        }
        self.dispatch_open();
    }

    /// A call has ended somewhere.
    pub fn used(&self, event: &UsageEvent) {
        if !self.served.borrow().knows(&event.identity())
            || !matches!(event.kind, Kind::Attempt | Kind::Unpaid)
        {
            return;
        }
        if event.outcome == Some(Outcome::Succeeded) {
            self.outputs.borrow_mut().note(&event.team, &event.requested_model, event.usage.output_tokens);
            if let (Some(provider), Some(model), false) = (&event.provider, &event.model, event.estimated) {
                let target = Target { provider: provider.clone(), model: model.clone() };
                let bytes = self.served.borrow().text_bytes(&event.identity());
                self.inputs.borrow_mut().note_bytes(&target, bytes, event.usage.input_tokens);
            }
        }
        let tokens = event.usage.input_tokens.saturating_add(event.usage.output_tokens);
        let settlement = self.served.borrow_mut().used(&event.identity(), tokens);
        if let Some(settlement) = settlement {
            self.queue.borrow_mut().settle(&settlement);
        }
    }

    fn each_second(self: &Rc<Self>) {
        let time = self.now();
        let mut overdue = self.queue.borrow_mut().take_out(|item| item.job.deadline <= time);
        // Teams come in any order, and a seed is always to do the same.
        overdue.sort_by_key(|(_, item)| item.job.sequence);
        overdue.into_iter().for_each(|(_, item)| self.expire(item));
        self.give_back_idle();
        let settled = self.served.borrow_mut().overdue(time);
        settled.iter().for_each(|settlement| self.queue.borrow_mut().settle(settlement));
        self.dispatch_open();
    }

    fn expire(self: &Rc<Self>, item: Box<Item>) {
        let stop = Stop::Expired { deadline: item.job.deadline, grace_ms: GRACE_MS };
        self.stop_item(item, stop);
    }

    fn stop_item(self: &Rc<Self>, item: Box<Item>, stop: Stop) {
        self.left_queue();
        let router = Rc::clone(self);
        self.process.spawn(async move { router.stop(item.message, &item.job, stop).await });
    }

    /// Requests of this identity end, wherever this router has them.
    pub fn find(self: &Rc<Self>, identity: &Identity) {
        let found = self.queue.borrow_mut().take_out(|item| item.job.identity == *identity);
        found.into_iter().for_each(|(_, item)| self.stop_item(item, Stop::Cancelled));
        self.find_in_index(identity);
    }

    /// What usage events of a router's ends have in common.
    fn response(&self, job: &Job, end: End) -> tollgate_protocol::response::Response {
        answer::response(job, &job.history, end, self.now())
    }
}

/// Everybody hears of a usage event.
pub fn heard(world: &Rc<World>, event: &Rc<UsageEvent>) {
    for router in world.present.borrow().routers.values() {
        let router = std::rc::Weak::clone(router);
        let event = Rc::clone(event);
        world.exec.after(world.latency(), move || {
            if let Some(router) = router.upgrade() {
                router.used(&event);
            }
        });
    }
}

/// How long in simulated time.
fn micros_of(ms: u64) -> Micros {
    ms * crate::plan::MS
}
