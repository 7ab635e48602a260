//! The router's one loop: what comes in is ordered, what may go goes.

mod close;
mod configured;
mod repeated;
mod stuck;
mod used;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tollgate_bus::heartbeat::Heartbeats;
use tollgate_bus::pull::Held;
use tollgate_policy::answer::End;
use tollgate_policy::claim::Stop;
use tollgate_policy::hot::Hot;
use tollgate_policy::inputs::Inputs;
use tollgate_policy::order::{Place, Queue};
use tollgate_policy::outputs::Outputs;
use tollgate_policy::repeats::{self, Repeats};
use tollgate_policy::route::{Route, still_goes};
use tollgate_policy::served::Served;
use tollgate_policy::stuck::Stuck;
use tollgate_protocol::Identity;
use tollgate_protocol::budget::Counter;
use tollgate_protocol::job::Job;
use tollgate_telemetry::{self as telemetry, Role};

use crate::dispatch::{Dispatched, Left, dispatch};
use crate::gates::{Gates, Seen};
use crate::holding::Holding;
use crate::intake::{self, Item, NotTaken};
use crate::permit::Permit;
use crate::tally::Way;
use crate::{Context, aside};

/// Dispatches in flight, over all providers.
const IN_FLIGHT_MAX: usize = 512;
/// How often the server is asked how many requests wait.
const MEASURE_EVERY_SECONDS: u64 = 5;
/// How often what waits for a budget makes room for others.
const ASIDE_EVERY: Duration = Duration::from_millis(250);
/// Messages taken in before dispatching again, so that neither waits for the other.
const INTAKE_MAX: usize = 64;

/// What a task of the desk came to.
enum Done {
    /// A dispatch ended.
    Dispatched(Box<Dispatched>),
    /// A due message is to be looked at like one that has just come.
    Woken(Box<(Holding, Job)>),
    /// A message is to be ordered.
    Due(Box<(Holding, Job)>),
    /// Its target is decided.
    Decided(Box<(Holding, Job)>),
    /// What the ledger says of these: what is reserved for some of them already.
    Reserved(Vec<(Identity, u32)>, Option<Vec<(String, Counter)>>),
}

/// What comes to the desk.
pub(crate) struct Incoming {
    /// What consumers deliver.
    pub(crate) messages: mpsc::Receiver<Held>,
    /// What the index releases.
    pub(crate) released: mpsc::Receiver<Holding>,
    /// What is taken past a flood.
    pub(crate) expressed: mpsc::Receiver<Holding>,
    /// What clients take back.
    pub(crate) cancels: mpsc::Receiver<Held>,
    /// Requests that are looked for.
    pub(crate) finds: mpsc::Receiver<Identity>,
    /// Announcements of free places.
    pub(crate) frees: async_nats::Subscriber,
    /// Usage events of all.
    pub(crate) usage: async_nats::Subscriber,
}

/// The state of the loop.
pub(crate) struct Desk {
    context: Arc<Context>,
    /// What is in force at this desk. Budgets in its queue and gates are numbered as here.
    hot: Arc<Hot>,
    heartbeats: Heartbeats,
    queue: Queue<Box<Item>>,
    gates: Gates,
    stuck: Stuck,
    /// Whether the ledger is being asked what is reserved for whom.
    is_asking: bool,
    served: Served,
    inputs: Inputs,
    outputs: Outputs,
    repeats: Repeats,
    in_flight: usize,
    /// Seconds since the start.
    ticks: u64,
    tasks: TaskTracker,
    done_sender: mpsc::UnboundedSender<Done>,
    done: mpsc::UnboundedReceiver<Done>,
}

impl Desk {
    pub(crate) fn new(context: Arc<Context>, heartbeats: Heartbeats) -> Self {
        // Not bounded by itself, but by what produces it: one entry per message in hand.
        let (done_sender, done) = mpsc::unbounded_channel();
        let queue = Queue::new(context.settings.shares);
        let tasks = TaskTracker::new();
        Self {
            hot: context.hot(),
            context,
            heartbeats,
            queue,
            gates: Gates::default(),
            stuck: Stuck::default(),
            is_asking: false,
            served: Served::default(),
            inputs: Inputs::default(),
            outputs: Outputs::default(),
            repeats: Repeats::default(),
            in_flight: 0,
            ticks: 0,
            tasks,
            done_sender,
            done,
        }
    }

    /// Serves until `stop`, then hands back what waits and finishes what is under way.
    pub(crate) async fn serve(mut self, mut incoming: Incoming, stop: &CancellationToken, drain: Duration) {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asides = tokio::time::interval(ASIDE_EVERY);
        asides.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(INTAKE_MAX);
        let mut news = self.context.spending.news();
        let mut hot = self.context.settings.hot.clone();
        // What came between the beginning of this desk and now, too.
        hot.mark_changed();
        loop {
            let reopen = self.dispatch_open();
            tokio::select! {
                () = stop.cancelled() => break,
                count = incoming.messages.recv_many(&mut batch, INTAKE_MAX) => {
                    if count == 0 {
                        break;
                    }
                    for message in batch.drain(..) {
                        self.take_in(message);
                    }
                }
                Some(done) = self.done.recv() => self.note(done),
                Some(released) = incoming.released.recv() => self.released(released),
                Some(message) = incoming.expressed.recv() => self.take(message),
                Some(usage) = incoming.usage.next() => self.used(&usage),
                Some(cancel) = incoming.cancels.recv() => {
                    let context = Arc::clone(&self.context);
                    self.tasks.spawn(async move { Box::pin(context.cancel(cancel)).await });
                }
                Some(identity) = incoming.finds.recv() => self.cancel(&identity),
                news = news.recv() => self.settled(news),
                Ok(()) = hot.changed() => {
                    let hot = Arc::clone(&hot.borrow_and_update());
                    self.configured(hot);
                }
                Some(message) = incoming.frees.next() => self.freed(message.subject.as_str()),
                () = tokio::time::sleep_until(reopen.unwrap_or_else(far)), if reopen.is_some() => {}
                _ = seconds.tick() => self.each_second(),
                _ = asides.tick(), if !self.hot.budgets.is_empty() => {
                    aside::make_room(&mut self.queue, &self.gates, &self.hot.budgets, tollgate_bus::now());
                }
            }
        }
        self.close(incoming, drain).await;
    }

    /// Dispatches everything that may go now; says when a closed gate is to be tried again.
    fn dispatch_open(&mut self) -> Option<Instant> {
        let reopen = self.gates.reopen(now());
        while self.in_flight < IN_FLIGHT_MAX {
            let gates = &self.gates;
            let next = self.queue.pop(
                |priority, provider| gates.is_open(provider, priority),
                |budgets| gates.has_room(budgets),
            );
            let Some((_, mut item)) = next else { break };
            if item.deadline <= tollgate_bus::now() {
                self.queue.refund(&item.place);
                self.expire(item);
                continue;
            }
            // Its target has gone down since it was chosen.
            let available = self.context.availability(&self.hot, &item.target);
            if !still_goes(available, item.is_probe, item.message.permit.is_some()) {
                self.queue.refund(&item.place);
                self.choose_again(item);
                continue;
            }
            if !item.needs.budgets.is_empty() {
                let most = self.outputs.most(&item.identity.team, &item.model, None);
                item.amounts = item.needs.amounts(&item.hot.budgets, most);
            }
            self.gates.sent(&item.place);
            for settlement in self.served.note(&item.identity, &item.place, tollgate_bus::now()) {
                self.queue.settle(&settlement);
            }
            self.served.note_text(&item.identity, item.text_bytes);
            self.in_flight += 1;
            let (context, done) = (Arc::clone(&self.context), self.done_sender.clone());
            self.tasks.spawn(async move {
                let dispatched = dispatch(&context, item).await;
                // The desk outlives its tasks; if it does not, the message comes again.
                let _ = done.send(Done::Dispatched(Box::new(dispatched)));
            });
        }
        // With nothing to send there is nothing to wake up for.
        reopen.filter(|_| !self.queue.is_empty())
    }

    fn take_in(&mut self, message: Held) {
        if message.redelivered {
            telemetry::count_redelivery(Role::Router);
        }
        tollgate_bus::point("router.taken");
        let mut message = Holding::from(message);
        message.count(&self.context.tally, Way::Lane);
        self.take(message);
    }

    fn take(&mut self, message: Holding) {
        if self.context.bus.subjects().parse_retry_due(&message.subject).is_some() {
            let (context, done) = (Arc::clone(&self.context), self.done_sender.clone());
            self.tasks.spawn(async move {
                if let Some(due) = context.due(message).await {
                    let _ = done.send(Done::Woken(Box::new(due)));
                }
            });
            return;
        }
        match intake::take_request(&self.context, &self.hot, &message) {
            Ok(job) => self.come(message, job),
            Err(NotTaken::NotBefore(mut job, time)) => {
                // Then its body may be elsewhere.
                repeats::note_body(&self.hot.budgets, &mut job);
                let context = Arc::clone(&self.context);
                self.tasks.spawn(async move { context.wait_until(message, *job, time).await });
            }
            Err(NotTaken::Rejected(head, problem)) => {
                let context = Arc::clone(&self.context);
                self.tasks.spawn(async move { context.reject(message, &head, problem).await });
            }
            Err(NotTaken::Drained) => {
                telemetry::count_drained_acknowledgement();
                self.tasks.spawn(message.ack());
            }
        }
    }

    /// A held request may go on.
    fn released(&mut self, message: Holding) {
        let (context, done) = (Arc::clone(&self.context), self.done_sender.clone());
        self.tasks.spawn(async move {
            let Some((message, mut job)) = context.due(message).await else { return };
            let permitted = message.permit.as_ref().and_then(Permit::target);
            let probed = permitted.and_then(|target| job.targets.iter().position(|known| known == target));
            let decided = if let Some(target) = probed {
                job.target = target;
                Done::Decided(Box::new((message, job)))
            } else {
                Done::Due(Box::new((message, job)))
            };
            let _ = done.send(decided);
        });
    }

    /// Chooses a target for a request, now.
    fn choose(&mut self, mut message: Holding, mut job: Job) {
        (message.permit, job.probe) = (None, None);
        match self.context.route(&self.hot, &mut job) {
            Ok(Route::To(target)) => {
                job.target = target;
                self.order(message, &mut job);
            }
            Ok(Route::Probe(target)) => {
                let (context, done) = (Arc::clone(&self.context), self.done_sender.clone());
                self.tasks.spawn(async move {
                    let Some(to) = job.targets.get(target).cloned() else { return };
                    if let Some(permit) = context.permit(&to).await {
                        (job.target, message.permit) = (target, Some(permit));
                        let _ = done.send(Done::Decided(Box::new((message, job))));
                    } else {
                        context.hold(message, &job).await;
                    }
                });
            }
            Ok(Route::Hold | Route::Gone) => {
                let context = Arc::clone(&self.context);
                self.tasks.spawn(async move { context.hold(message, &job).await });
            }
            Err((status, problem)) => {
                let context = Arc::clone(&self.context);
                let end = End::Unpaid(status, problem);
                self.tasks.spawn(async move { context.end(message, &job, end).await });
            }
        }
    }

    /// The same for one that had a target.
    fn choose_again(&mut self, mut item: Box<Item>) {
        if let Some(held) = item.reserved.take() {
            let (context, identity, attempt) =
                (Arc::clone(&self.context), item.identity.clone(), item.attempt);
            self.tasks.spawn(async move { context.take_back(&identity, attempt, held).await });
        }
        match Job::decode(&item.payload) {
            Ok(job) => self.choose(item.message, job),
            Err(error) => tracing::error!(%error, "a request of our own cannot be read"),
        }
    }

    /// Ends a request that its client took back, if it is in hand.
    fn cancel(&mut self, identity: &Identity) {
        for (_, item) in self.queue.take_out(|item| item.identity == *identity) {
            self.stop(item, Stop::Cancelled);
        }
    }

    fn stop(&self, item: Box<Item>, stop: Stop) {
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move {
            match Job::decode(&item.payload) {
                Ok(job) => drop(context.stop(item.message, &job, stop).await),
                Err(error) => tracing::error!(%error, "a request of our own cannot be read"),
            }
        });
    }

    fn order(&mut self, message: Holding, job: &mut Job) {
        match intake::item(&self.hot, message, job, (&self.inputs, &self.outputs)) {
            Ok(mut item) => {
                if !self.gates.has_room(&item.place.gate.budgets) {
                    item.set_permit(None);
                }
                self.queue.push(item.place.clone(), Box::new(item));
            }
            Err(failed) => {
                let (message, problem) = *failed;
                tracing::error!(request = %job.identity, %problem, "a request cannot be ordered");
                let (context, job) = (Arc::clone(&self.context), job.clone());
                let end = End::Unpaid(tollgate_protocol::response::Status::Failed, problem);
                self.tasks.spawn(async move { context.end(message, &job, end).await });
            }
        }
    }

    fn note(&mut self, done: Done) {
        let Dispatched { mut place, hot, seen, full, passed, left } = match done {
            Done::Dispatched(dispatched) => *dispatched,
            Done::Woken(woken) => return self.come(woken.0, woken.1),
            Done::Due(due) => return self.choose(due.0, due.1),
            Done::Decided(decided) => {
                let (message, mut job) = *decided;
                return self.order(message, &mut job);
            }
            Done::Reserved(asked, found) => return self.reserved(&asked, found),
        };
        self.in_flight -= 1;
        let is_outdated = !Arc::ptr_eq(&hot, &self.hot);
        if is_outdated {
            // Their numbers are of another configuration.
            place.gate.budgets.clear();
        } else {
            self.stuck.passed(&passed);
            full.inspect(|budget| self.stuck.refused(*budget, tollgate_bus::now()));
        }
        self.gates.seen(&place, seen, now());
        if seen == Seen::Full {
            telemetry::count_bounce(&place.gate.provider);
        }
        match left {
            Left::Nothing => {}
            Left::Item(item) if is_outdated && !configured::stays(&item, &self.hot) => {
                self.served.forget(&item.identity);
                self.queue.refund(&place);
                self.let_go(item);
            }
            Left::Item(mut item) => {
                self.served.forget(&item.identity);
                if !seen.is_tried_soon() {
                    item.set_permit(None);
                }
                item.place.gate.budgets = match seen {
                    Seen::Turn(until) => vec![self.gates.turn(&place, &item.needs.budgets, until)],
                    Seen::Alone(until) => vec![self.gates.turn(&place, &[], until)],
                    _ => item.waits_behind(),
                };
                self.queue.put_back(item.place.clone(), item);
            }
            Left::Unserved(identity) => self.unserved(&identity, &place),
            Left::Again(identity, again) => {
                self.unserved(&identity, &place);
                let (message, job) = *again;
                self.choose(message, job);
            }
        }
    }

    /// What was taken out of the order was not served after all.
    fn unserved(&mut self, identity: &Identity, place: &Place) {
        if self.served.forget(identity) {
            self.queue.refund(place);
        }
    }

    /// The ledger says something else of a budget, or of some that nobody can name any more.
    fn settled(&mut self, news: Result<String, RecvError>) {
        let budgets = &self.hot.budgets.0;
        match news {
            Ok(name) => {
                let of = budgets.iter().enumerate().find(|(_, budget)| budget.name == name);
                if let Some((index, budget)) = of
                    && !self.context.spending.is_full(budget, tollgate_bus::now())
                {
                    self.gates.settled(index);
                }
            }
            Err(_) => self.gates.all_settled(),
        }
    }

    fn freed(&mut self, subject: &str) {
        if let Some((_, provider)) = subject.rsplit_once('.') {
            self.gates.freed(provider);
        }
    }

    /// Deadlines of what waits behind a closed gate, and gauges.
    fn each_second(&mut self) {
        let time = tollgate_bus::now();
        for (_, item) in self.queue.take_out(|item| item.deadline <= time) {
            self.expire(item);
        }
        // Whatever else holds them up.
        for (_, item) in self.queue.iter_mut() {
            if item.message.permit.as_ref().is_some_and(Permit::is_idle) {
                item.set_permit(None);
            }
        }
        self.look_for_orphans(time);
        for settlement in self.served.overdue(time) {
            self.queue.settle(&settlement);
        }
        telemetry::set_in_hand(Role::Router, self.heartbeats.count());
        self.ticks += 1;
        if self.ticks.is_multiple_of(MEASURE_EVERY_SECONDS) {
            let context = Arc::clone(&self.context);
            self.tasks.spawn(async move { context.measure_lanes().await });
        }
    }

    fn expire(&self, item: Box<Item>) {
        let stop = Stop::Expired { deadline: item.deadline, grace_ms: crate::stop::GRACE_MS };
        self.stop(item, stop);
    }
}

fn now() -> Instant {
    Instant::now()
}

/// A time that the guard keeps from ever being waited for.
fn far() -> Instant {
    now() + Duration::from_secs(3_600)
}
