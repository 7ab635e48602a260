//! The one world of a run: the server, the documents, who answers questions, and what is seen of it all.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::{Rc, Weak};

use chrono::TimeDelta;
use tollgate_model::{Ack, ConsumerConfig, Micros, Publish, Refused, Server, StreamConfig};
use tollgate_policy::health::{ProviderHealth, TargetHealth};
use tollgate_protocol::budget::{Counter, Entry, Spent};
use tollgate_protocol::job::{Job, Target};
use tollgate_protocol::record;
use tollgate_protocol::record::Answered;
use tollgate_protocol::response::Response;
use tollgate_protocol::usage::UsageEvent;
use tollgate_protocol::{Identity, Timestamp};

use crate::bug::Bug;
use crate::checks::Checks;
use crate::exec::{Exec, Pid};
use crate::ledger::Ledger;
use crate::ledger::book::Book;
use crate::plan::{ACK_WAIT, MS, Plan, Request, SECOND};
use crate::provider::Provider;
use crate::rng::Rng;
use crate::router::Router;
use crate::worker::Worker;

/// What messages carry.
#[derive(Clone, Debug)]
pub enum Body {
    /// A request as it was published.
    Request(Rc<Request>),
    /// A request on its way.
    Job(Rc<Job>),
    /// An entry of a record, and who wrote it.
    Run(u64, Rc<record::Entry>),
    /// A response, and who wrote it.
    Answer(u64, Rc<Answer>),
    /// A usage event.
    Usage(Rc<UsageEvent>),
    /// An entry of a counter.
    Entry(Rc<Entry>),
    /// A cancellation, or a dead letter.
    Of(Identity),
    /// Numbers of a limit of requests per minute.
    Number,
}

/// A stored response.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What its headers say.
    pub answered: Answered,
    /// The response.
    pub response: Response,
    /// The event of a request that no attempt ended.
    pub unpaid: Option<UsageEvent>,
}

/// Documents that all share, with their revisions.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    /// Health by provider.
    pub providers: HashMap<String, (ProviderHealth, u64)>,
    /// Health by target.
    pub targets: HashMap<Target, (TargetHealth, u64)>,
    /// What is spent.
    pub spent: HashMap<Counter, Spent>,
}

/// Everybody who is there.
#[derive(Default)]
pub struct Present {
    /// Routers by name.
    pub routers: BTreeMap<String, Weak<Router>>,
    /// Workers by name, which is the owner of their claims.
    pub workers: BTreeMap<String, Weak<Worker>>,
    /// The ledger.
    pub ledger: Option<Weak<Ledger>>,
}

/// The world.
pub struct World {
    /// What this run is.
    pub plan: Plan,
    /// The rule that is broken on purpose, if any is.
    pub bug: Option<Bug>,
    /// Time and tasks.
    pub exec: Exec,
    /// The server.
    pub server: RefCell<Server<Body>>,
    /// Whether it is there.
    pub is_up: Cell<bool>,
    /// Documents.
    pub documents: RefCell<Documents>,
    /// Who is there.
    pub present: RefCell<Present>,
    /// The ledger's disk.
    pub book: RefCell<Book>,
    /// The providers.
    pub provider: RefCell<Provider>,
    /// What must hold.
    pub checks: RefCell<Checks>,
    /// Chance on the network.
    pub network: RefCell<Rng>,
    /// Chance of faults.
    pub fate: RefCell<Rng>,
    /// Chance of decisions.
    pub chance: RefCell<Rng>,
    /// Faults that are left.
    pub faults_left: Cell<u32>,
    /// Whether faults happen.
    pub is_faulty: Cell<bool>,
    /// Numbers processes, tries and writes.
    pub numbered: Cell<u64>,
    /// Who waits for messages: stream, and whom to poke.
    pub pulling: RefCell<Vec<(String, crate::exec::Slot<()>)>>,
    /// When a look at the schedules is planned.
    pub look_at: Cell<Micros>,
}

/// The subject of a provider's dispatch stream.
pub fn dispatch_stream(provider: &str) -> String {
    format!("LLM_DISPATCH_{provider}")
}

/// 2026-09-21, on the hour: when every run begins.
const BEGIN_US: i64 = 1_790_002_800_000_000;

/// A time of the server's clock.
pub fn timestamp(at: Micros) -> Timestamp {
    Timestamp::from_timestamp_micros(BEGIN_US).unwrap_or_default()
        + TimeDelta::microseconds(i64::try_from(at).unwrap_or(i64::MAX / 4))
}

/// The simulated time that a time of the server's clock is.
pub fn micros(time: Timestamp) -> Micros {
    u64::try_from(time.timestamp_micros() - BEGIN_US).unwrap_or(0)
}

impl World {
    /// The world of a seed, with nobody in it.
    pub fn new(plan: Plan, bug: Option<Bug>) -> Rc<Self> {
        let seed = plan.seed;
        let exec = Exec::default();
        let server = RefCell::new(server(&plan));
        Rc::new(Self {
            checks: RefCell::new(Checks::new(&plan)),
            provider: RefCell::new(Provider::new(&plan)),
            bug,
            exec,
            server,
            is_up: Cell::new(true),
            documents: RefCell::default(),
            book: RefCell::new(Book::new(plan.budgets.clone())),
            present: RefCell::default(),
            network: RefCell::new(Rng::new(seed, 2)),
            fate: RefCell::new(Rng::new(seed, 3)),
            chance: RefCell::new(Rng::new(seed, 4)),
            faults_left: Cell::new(plan.faults.most),
            is_faulty: Cell::new(true),
            numbered: Cell::new(0),
            pulling: RefCell::default(),
            look_at: Cell::new(Micros::MAX),
            plan,
        })
    }

    /// Whether this rule is broken on purpose.
    pub fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// A number that nobody had.
    pub fn number(&self) -> u64 {
        self.numbered.set(self.numbered.get() + 1);
        self.numbered.get()
    }

    /// How long a message takes.
    pub fn latency(&self) -> Micros {
        let most = if self.is_faulty.get() { self.plan.faults.latency_max } else { 2 * MS };
        self.network.borrow_mut().of(50..most)
    }

    /// Stores a message, and has it looked at.
    pub fn store(self: &Rc<Self>, publish: Publish<Body>) -> Result<Ack, Refused> {
        let now = self.exec.now();
        let (subject, schedule) = (publish.subject.clone(), publish.schedule.clone());
        let body = publish.payload.clone();
        let (increment, id) = (publish.increment, publish.id.clone());
        let stored = self.server.borrow_mut().publish(publish, now);
        if let Ok(ack) = stored
            && !ack.duplicate
        {
            let mut checks = self.checks.borrow_mut();
            checks.stored(&subject, &body, &ack, increment, now);
            checks.handed_over(&subject, &body, id.as_deref());
            checks.bounds(&self.server.borrow());
            drop(checks);
            self.poke(&subject);
            if let Body::Usage(event) = &body {
                crate::router::heard(self, event);
            }
            if let Some(schedule) = schedule {
                self.look_at_schedules(schedule.at);
            }
        }
        stored
    }

    /// Something may be there for who pulls this subject.
    pub fn poke(&self, subject: &str) {
        let mut pulling = self.pulling.borrow_mut();
        let (poked, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut *pulling)
            .into_iter()
            .partition(|(prefix, _)| subject.starts_with(prefix.as_str()));
        *pulling = kept;
        drop(pulling);
        poked.into_iter().for_each(|(_, slot)| slot.put(()));
    }

    /// The same for all of a stream.
    pub fn poke_stream(&self, stream: &str) {
        let prefix = match stream.strip_prefix("LLM_").unwrap_or_default().split_once('_') {
            Some((_, provider)) => format!("llm.dispatch.{provider}"),
            None if stream == "LLM_RETRY" => "llm.retry.due".to_owned(),
            None => "llm".to_owned(),
        };
        let mut pulling = self.pulling.borrow_mut();
        let (poked, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut *pulling).into_iter().partition(|(of, _)| of.starts_with(prefix.as_str()));
        *pulling = kept;
        drop(pulling);
        poked.into_iter().for_each(|(_, slot)| slot.put(()));
    }

    /// Schedules fire at their time.
    pub fn look_at_schedules(self: &Rc<Self>, at: Micros) {
        if at >= self.look_at.get() {
            return;
        }
        self.look_at.set(at);
        let world = Rc::clone(self);
        let delay = at.saturating_sub(self.exec.now());
        self.exec.after(delay, move || {
            world.look_at.set(Micros::MAX);
            let now = world.exec.now();
            let next = {
                let mut server = world.server.borrow_mut();
                server.tick(now);
                server.next_schedule()
            };
            world.poke_stream("LLM_RETRY");
            if let Some(next) = next {
                world.look_at_schedules(next.max(now + MS));
            }
        });
    }

    /// The server is killed and started again. It forgets what it had only in memory.
    pub fn restart_server(self: &Rc<Self>, down: Micros) {
        self.note(|| format!("the server is killed, and down for {} ms", down / MS));
        self.is_up.set(false);
        self.server.borrow_mut().restart();
        let world = Rc::clone(self);
        self.exec.after(down, move || {
            world.is_up.set(true);
            world.poke_stream("LLM");
        });
    }

    /// Whether a process may be asked.
    pub fn is_running(&self, process: Pid) -> bool {
        self.exec.is_running(process)
    }

    /// Writes down what happens.
    pub fn note(&self, what: impl FnOnce() -> String) {
        self.checks.borrow_mut().note(self.exec.now(), what);
    }

    /// Something is not as it must be.
    pub fn broken(&self, what: String) {
        self.checks.borrow_mut().broken(what);
    }
}

fn server(plan: &Plan) -> Server<Body> {
    let mut server = Server::default();
    let base = |name: &str, subjects: &[&str]| StreamConfig {
        name: name.to_owned(),
        subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
        duplicate_window: 30 * SECOND,
        ..StreamConfig::default()
    };
    server.add_stream(StreamConfig {
        work_queue: true,
        discard_new: true,
        per_subject_max: plan.lane_max,
        duplicate_window: 100 * MS,
        ..base("LLM_REQ", &["llm.lane.>"])
    });
    server.add_stream(StreamConfig {
        work_queue: true,
        schedules: true,
        ..base("LLM_RETRY", &["llm.retry.>"])
    });
    server.add_stream(StreamConfig {
        per_subject_max: 1,
        ..base("LLM_RECORD", &["llm.run.*.*.*", "llm.res.*.*.*"])
    });
    server.add_stream(base("LLM_USAGE", &["llm.usage.>"]));
    server.add_stream(StreamConfig {
        counter: true,
        duplicate_window: 120 * SECOND,
        ..base("LLM_BUDGET", &["llm.budget.*.*"])
    });
    server.add_stream(StreamConfig {
        counter: true,
        per_subject_max: 1,
        duplicate_window: 120 * SECOND,
        ..base("LLM_PACE", &["llm.pace.*.*"])
    });
    server.add_stream(StreamConfig {
        work_queue: true,
        per_subject_max: 1,
        ..base("LLM_CANCEL", &["llm.cancel.>"])
    });
    server.add_stream(StreamConfig { per_subject_max: 1, ..base("LLM_DEAD", &["llm.dead.>"]) });
    let consumer = |name: &str, filter: &str, ack_pending_max| ConsumerConfig {
        name: name.to_owned(),
        filter: filter.to_owned(),
        ack_wait: ACK_WAIT,
        ack_pending_max,
    };
    for priority in ["high", "normal", "low"] {
        server.add_consumer("LLM_REQ", consumer(priority, &format!("llm.lane.{priority}.>"), 65_536));
    }
    server.add_consumer("LLM_RETRY", consumer("due", "llm.retry.due.>", 65_536));
    server.add_consumer("LLM_CANCEL", consumer("routers", "llm.cancel.>", 1_024));
    server.add_consumer("LLM_RECORD", consumer("unpaid", "llm.res.>", 4_096));
    for provider in &plan.providers {
        let (places, extra) = (provider.max_in_flight as usize, (provider.max_in_flight as usize / 8).max(1));
        let stream = dispatch_stream(&provider.name);
        server.add_stream(StreamConfig {
            work_queue: true,
            discard_new: true,
            per_subject_max: places + extra,
            messages_max: places + 3 * extra,
            ..base(&stream, &[&format!("llm.dispatch.{}.*", provider.name)])
        });
        server.add_consumer(&stream, consumer("workers", "llm.dispatch.>", places));
    }
    server
}
