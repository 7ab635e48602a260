//! A process on the network: every word with the server is a step, before and after which it may die, and whose
//! message, or whose answer, may be lost.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use chrono::TimeDelta;
use tollgate_model::{Ack, Expect, Micros, Publish, Refused, Stored};
use tollgate_protocol::record::{Last, Source};
use tollgate_protocol::subject::Subjects;
use tollgate_protocol::{Identity, Sequence, Timestamp, record};

use crate::exec::{First, Pid, first, never};
use crate::plan::{ACK_WAIT, MS, SECOND, TRY_TIMEOUT};
use crate::roles::{Kind, boot};
use crate::router::Permit;
use crate::world::{Answer, Body, World, timestamp};

/// For writes whose sender can come again.
pub const NORMAL: Micros = 3 * SECOND;
/// For what is not to be given up.
pub const PAID: Micros = 90 * SECOND;

/// Why something is not known to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotStored {
    /// The server said no.
    Refused(Refused),
    /// It said nothing.
    NoAnswer,
}

/// What became of a fenced write.
pub enum Fenced {
    /// It is the last entry now.
    Written(Sequence),
    /// Another one was first.
    Refused(Box<Last>),
}

/// A process.
pub struct Process {
    /// The world it is in.
    pub world: Rc<World>,
    /// Which one it is.
    pub pid: Pid,
    /// Its name, new for each start.
    pub name: String,
    kind: Kind,
    /// How far its clock is ahead.
    skew_ms: Cell<i64>,
    /// Messages in hand, to be kept by heartbeats.
    beats: RefCell<BTreeMap<(String, String, u64), usize>>,
}

/// A process, shared by its tasks.
pub type Proc = Rc<Process>;

/// The subjects.
pub fn subjects() -> Subjects {
    Subjects::default()
}

impl Process {
    /// Starts one.
    pub fn start(world: &Rc<World>, kind: Kind) -> Proc {
        let pid = world.exec.start();
        let name = format!("{kind}-{}", world.number());
        world.note(|| format!("{name} starts"));
        let process = Rc::new(Self {
            world: Rc::clone(world),
            pid,
            name,
            kind,
            skew_ms: Cell::new(0),
            beats: RefCell::default(),
        });
        let beating = Rc::clone(&process);
        process.spawn(async move { beating.beat().await });
        process
    }

    /// Its clock.
    pub fn now(&self) -> Timestamp {
        timestamp(self.world.exec.now()) + TimeDelta::milliseconds(self.skew_ms.get())
    }

    /// A random number for a decision.
    pub fn chance(&self) -> u64 {
        self.world.chance.borrow_mut().draw()
    }

    /// A task of its own.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.world.exec.spawn(self.pid, task);
    }

    /// Waits.
    pub async fn sleep(&self, time: Micros) {
        self.world.exec.sleep(time).await;
    }

    /// Here it may die, or be stopped.
    pub async fn point(self: &Rc<Self>) {
        let world = &self.world;
        if !world.is_faulty.get() || world.faults_left.get() == 0 || self.kind == Kind::Client {
            return;
        }
        let faults = world.plan.faults;
        let (crash, stop, skew) = {
            let mut fate = world.fate.borrow_mut();
            (fate.per_mille(faults.crash), fate.per_mille(faults.stop), fate.per_mille(3))
        };
        if crash {
            world.faults_left.set(world.faults_left.get() - 1);
            self.die();
            never().await;
        }
        if stop {
            world.faults_left.set(world.faults_left.get() - 1);
            let time = world.fate.borrow_mut().of(100 * MS..8 * SECOND);
            self.pause(time);
            self.sleep(1).await;
        }
        if skew && faults.skew_ms > 0 {
            self.skew_ms.set(i64::try_from(world.fate.borrow_mut().of(0..faults.skew_ms)).unwrap_or(0));
        }
    }

    /// `kill -9`, and a new start after a while.
    pub fn die(&self) {
        let (world, kind) = (Rc::clone(&self.world), self.kind);
        world.note(|| format!("{} dies", self.name));
        {
            let mut present = world.present.borrow_mut();
            present.routers.remove(&self.name);
            present.workers.remove(&self.name);
        }
        world.exec.kill(self.pid);
        let delay = world.fate.borrow_mut().of(10 * MS..3 * SECOND);
        let again = Rc::clone(&world);
        world.exec.after(delay, move || boot(&again, kind));
    }

    /// SIGSTOP, and SIGCONT after a while.
    pub fn pause(&self, time: Micros) {
        let (exec, pid) = (self.world.exec.clone(), self.pid);
        self.world.note(|| format!("{} is stopped for {} ms", self.name, time / MS));
        exec.stop(pid);
        let again = exec.clone();
        exec.after(time, move || again.cont(pid));
    }

    /// Whether a message of the two is lost: on its way there, on its way back.
    fn is_lost(&self) -> (bool, bool) {
        let world = &self.world;
        if !world.is_faulty.get() {
            return (false, false);
        }
        let faults = world.plan.faults;
        let mut network = world.network.borrow_mut();
        (network.per_mille(faults.lost_there), network.per_mille(faults.lost_back))
    }

    /// Says something to the server that is answered. `None`: no answer came.
    pub async fn io<R: 'static>(self: &Rc<Self>, op: impl FnOnce(&Rc<World>) -> R + 'static) -> Option<R> {
        self.point().await;
        let world = Rc::clone(&self.world);
        let slot = world.exec.slot::<Option<R>>();
        let (lost_there, lost_back) = self.is_lost();
        let (there, put) = (Rc::clone(&world), slot.clone());
        if lost_there {
            world.exec.after(TRY_TIMEOUT, move || put.put(None));
        } else {
            world.exec.after(world.latency(), move || {
                // Who hears nothing waits until it is clear that nothing comes.
                let result = there.is_up.get().then(|| op(&there));
                let answered = result.is_some() && !lost_back;
                let back = if answered { there.latency() } else { TRY_TIMEOUT };
                there.exec.after(back, move || put.put(result.filter(|_| answered)));
            });
        }
        let result = slot.get().await;
        self.point().await;
        result
    }

    /// Says something to the server that is not answered.
    pub fn send(&self, op: impl FnOnce(&Rc<World>) + 'static) {
        let world = Rc::clone(&self.world);
        let (lost, _) = self.is_lost();
        if lost || !world.exec.is_alive(self.pid) {
            return;
        }
        let there = Rc::clone(&world);
        world.exec.after(world.latency(), move || {
            if there.is_up.get() {
                op(&there);
            }
        });
    }

    /// The same with an answer, again and again until patience is over.
    pub async fn ask<R: 'static>(
        self: &Rc<Self>,
        patience: Micros,
        op: impl Fn(&Rc<World>) -> R + Clone + 'static,
    ) -> Option<R> {
        let (until, mut pause) = (self.world.exec.now() + patience, 20 * MS);
        loop {
            if let Some(result) = self.io(op.clone()).await {
                return Some(result);
            }
            if self.world.exec.now() + pause > until {
                return None;
            }
            self.sleep(pause).await;
            pause = (pause * 2).min(SECOND);
        }
    }

    /// Publishes, again and again under the same id until patience is over.
    pub async fn publish(
        self: &Rc<Self>,
        publish: Publish<Body>,
        patience: Micros,
    ) -> Result<Ack, NotStored> {
        let stored = self.ask(patience, move |world| world.store(publish.clone())).await;
        stored.ok_or(NotStored::NoAnswer)?.map_err(NotStored::Refused)
    }

    /// Writes to a record if it has not changed since `expected`.
    pub async fn write_record(
        self: &Rc<Self>,
        identity: &Identity,
        entry: Written,
        expected: Sequence,
        patience: Micros,
    ) -> Result<Fenced, NotStored> {
        let nonce = self.world.number();
        let (subject, body) = match entry {
            Written::Run(entry) => (subjects().run(identity), Body::Run(nonce, Rc::new(*entry))),
            Written::Answer(answer) => (subjects().response(identity), Body::Answer(nonce, Rc::new(*answer))),
        };
        let expect = Some(Expect { last: expected, filter: subjects().record(identity) });
        let publish = Publish { expect, ..Publish::new(subject, body) };
        let (until, mut pause) = (self.world.exec.now() + patience, 20 * MS);
        loop {
            match self.publish(publish.clone(), patience).await {
                Ok(ack) => return Ok(Fenced::Written(ack.sequence)),
                Err(NotStored::Refused(Refused::WrongLast)) => {}
                Err(error) => return Err(error),
            }
            let (last, wrote) = self.read_last(identity, patience).await?;
            let sequence = sequence_of(&last);
            if wrote == Some(nonce) {
                return Ok(Fenced::Written(sequence));
            }
            if sequence != expected {
                return Ok(Fenced::Refused(Box::new(last)));
            }
            if self.world.exec.now() + pause > until {
                return Err(NotStored::NoAnswer);
            }
            self.sleep(pause).await;
            pause = (pause * 2).min(SECOND);
        }
    }

    /// The last entry of a record.
    pub async fn last_record(self: &Rc<Self>, identity: &Identity) -> Result<Last, NotStored> {
        Ok(self.read_last(identity, NORMAL).await?.0)
    }

    async fn read_last(
        self: &Rc<Self>,
        identity: &Identity,
        patience: Micros,
    ) -> Result<(Last, Option<u64>), NotStored> {
        let filter = subjects().record(identity);
        let read = self.ask(patience, move |world| {
            let server = world.server.borrow();
            let Some(stored) = server.last("LLM_RECORD", &filter) else { return (Last::None, None) };
            let sequence = stored.sequence;
            match &stored.payload {
                Body::Run(wrote, entry) => match entry.as_ref().clone() {
                    record::Entry::Started(started) => (Last::Started { sequence, started }, Some(*wrote)),
                    record::Entry::Ended(ended) => (Last::Ended { sequence, ended }, Some(*wrote)),
                },
                Body::Answer(wrote, answer) => {
                    (Last::Answered { sequence, answered: answer.answered.clone() }, Some(*wrote))
                }
                _ => (Last::Foreign { sequence }, None),
            }
        });
        read.await.ok_or(NotStored::NoAnswer)
    }

    /// The stored response.
    pub async fn response_of(self: &Rc<Self>, identity: &Identity) -> Result<Option<Rc<Answer>>, NotStored> {
        let subject = subjects().response(identity);
        let read = self.ask(NORMAL, move |world| {
            match &world.server.borrow().last("LLM_RECORD", &subject)?.payload {
                Body::Answer(_, answer) => Some(Rc::clone(answer)),
                _ => None,
            }
        });
        read.await.ok_or(NotStored::NoAnswer)
    }

    /// Keeps what is in hand.
    async fn beat(self: Rc<Self>) {
        loop {
            self.sleep(ACK_WAIT / 3).await;
            let held: Vec<_> = self.beats.borrow().keys().cloned().collect();
            for (stream, consumer, sequence) in held {
                self.send(move |world| {
                    let now = world.exec.now();
                    world.server.borrow_mut().progress(&stream, &consumer, sequence, now);
                });
            }
        }
    }

    /// Pulls what a consumer delivers, as much as there are places for.
    pub async fn pull(
        self: Rc<Self>,
        stream: String,
        consumer: &'static str,
        prefix: String,
        places: impl Fn() -> usize,
        on: impl Fn(Held),
    ) {
        loop {
            let most = places();
            if most == 0 {
                self.sleep(25 * MS).await;
                continue;
            }
            let poked = self.world.exec.slot();
            self.world.pulling.borrow_mut().push((prefix.clone(), poked.clone()));
            let of = stream.clone();
            let fetched = self.io(move |world| {
                let now = world.exec.now();
                world.server.borrow_mut().fetch(&of, consumer, most, now)
            });
            let delivered = fetched.await.unwrap_or_default();
            if delivered.is_empty() {
                let wait = self.world.network.borrow_mut().of(300 * MS..900 * MS);
                match first(poked.get(), self.sleep(wait)).await {
                    First::One(()) | First::Other(()) => {}
                }
            }
            for message in delivered {
                let place = (stream.clone(), consumer.to_owned(), message.sequence);
                *self.beats.borrow_mut().entry(place).or_default() += 1;
                on(Held {
                    process: Rc::clone(&self),
                    subject: message.subject,
                    source: Source { stream: stream.clone(), sequence: message.sequence },
                    stored_at: timestamp(message.stored_at),
                    body: message.payload,
                    way: Way::Pulled(consumer),
                    permit: None,
                });
            }
        }
    }
}

/// What is written to a record.
pub enum Written {
    /// A claim or a hand-over.
    Run(Box<record::Entry>),
    /// The response.
    Answer(Box<Answer>),
}

fn sequence_of(last: &Last) -> Sequence {
    match last {
        Last::None => 0,
        Last::Foreign { sequence }
        | Last::Started { sequence, .. }
        | Last::Ended { sequence, .. }
        | Last::Answered { sequence, .. } => *sequence,
    }
}

/// How a message came into hand.
pub enum Way {
    /// A consumer delivered it.
    Pulled(&'static str),
    /// The index found it, and hears what became of it: done with, or how soon it is to be looked at again.
    Found(Box<dyn FnOnce(Option<Micros>)>),
    /// It was let go.
    Gone,
}

/// A message in hand.
pub struct Held {
    process: Proc,
    /// Its subject.
    pub subject: String,
    /// Which one it is.
    pub source: Source,
    /// When it was stored.
    pub stored_at: Timestamp,
    /// What it carries.
    pub body: Body,
    /// How it came.
    pub way: Way,
    /// The permit of a router that it goes with.
    pub permit: Option<Permit>,
}

impl Held {
    /// A message that the index found.
    pub fn found(
        process: &Proc,
        stream: &str,
        stored: Stored<Body>,
        back: Box<dyn FnOnce(Option<Micros>)>,
    ) -> Self {
        Self {
            process: Rc::clone(process),
            source: Source { stream: stream.to_owned(), sequence: stored.sequence },
            stored_at: timestamp(stored.stored_at),
            subject: stored.subject,
            body: stored.payload,
            way: Way::Found(back),
            permit: None,
        }
    }

    fn release(&mut self) -> Way {
        let way = std::mem::replace(&mut self.way, Way::Gone);
        if let Way::Pulled(consumer) = &way {
            let place = (self.source.stream.clone(), (*consumer).to_owned(), self.source.sequence);
            let mut beats = self.process.beats.borrow_mut();
            if let Some(count) = beats.get_mut(&place) {
                *count -= 1;
                if *count == 0 {
                    beats.remove(&place);
                }
            }
        }
        way
    }

    /// Done with.
    pub async fn ack(mut self) {
        self.process.clone().point().await;
        let Source { stream, sequence } = self.source.clone();
        match self.release() {
            Way::Pulled(consumer) => self.process.send(move |world| {
                world.server.borrow_mut().ack(&stream, consumer, sequence);
                world.poke_stream(&stream);
            }),
            Way::Found(back) => {
                let removed =
                    self.process.io(move |world| world.server.borrow_mut().delete(&stream, sequence)).await;
                back(if removed.is_some() { None } else { Some(0) });
            }
            Way::Gone => {}
        }
    }

    /// To be delivered again after a while.
    pub async fn hand_back(mut self, delay: Micros) {
        self.process.clone().point().await;
        let Source { stream, sequence } = self.source.clone();
        match self.release() {
            Way::Pulled(consumer) => self.process.send(move |world| {
                let now = world.exec.now();
                world.server.borrow_mut().nak(&stream, consumer, sequence, delay, now);
                let there = Rc::clone(world);
                world.exec.after(delay, move || there.poke_stream(&stream));
            }),
            Way::Found(back) => back(Some(delay)),
            Way::Gone => {}
        }
    }

    /// Somebody else has it.
    pub fn abandon(mut self) {
        self.release();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Way::Found(back) = self.release() {
            back(Some(0));
        }
    }
}
