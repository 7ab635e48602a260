//! The index: what waits in a stream where no consumer delivers it now. As `src/router/src/index.rs`.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use chrono::TimeDelta;
use tollgate_model::{Micros, Stored};
use tollgate_policy::answer::End;
use tollgate_policy::claim::Stop;
use tollgate_policy::health::Availability;
use tollgate_policy::index::{Entry, Released, Shelf, Waiting, Waits, caretaker, request_hash};
use tollgate_policy::route::awaited;
use tollgate_protocol::job::{Job, Target};
use tollgate_protocol::record::Source;
use tollgate_protocol::response::Status;
use tollgate_protocol::{ErrorCode, Identity, Problem, Timestamp};

use super::{GRACE_MS, Permit, Router, job, micros_of};
use crate::net::Held;
use crate::world::{Body, World, dispatch_stream, timestamp};

const TICK_MS: u64 = 400;
const BATCH: usize = 500;
const YOUNG_MS: i64 = 1_000;
const ENDING_MAX: usize = 256;
const AGAIN_MS: i64 = 500;

enum Known {
    Plain(Shelf),
    Held(Waiting),
}

struct Place {
    stream: String,
    filter: String,
    /// How long after the deadline a request there is ended: a worker ends its own calls.
    grace_ms: i64,
    known: Known,
    next: u64,
}

struct Out {
    filter: String,
    entry: Entry,
    waits: Option<Waits>,
    is_released: bool,
}

/// The index of one router.
pub(super) struct Index {
    places: BTreeMap<String, Place>,
    out: HashMap<Source, Out>,
    released: Released,
}

const HOLD: &str = "llm.retry.hold.>";

impl Index {
    pub(super) fn new(world: &World) -> Self {
        let place = |stream: &str, filter: &str, known, grace_ms| Place {
            stream: stream.to_owned(),
            filter: filter.to_owned(),
            grace_ms,
            known,
            next: 1,
        };
        let mut places = vec![
            place("LLM_REQ", "llm.lane.>", Known::Plain(Shelf::default()), 0),
            place("LLM_RETRY", "llm.retry.due.>", Known::Plain(Shelf::default()), 0),
            place("LLM_RETRY", HOLD, Known::Held(Waiting::default()), 0),
        ];
        for provider in &world.plan.providers {
            let filter = format!("llm.dispatch.{}.*", provider.name);
            let grace = i64::try_from(GRACE_MS).unwrap_or(0);
            places.push(place(
                &dispatch_stream(&provider.name),
                &filter,
                Known::Plain(Shelf::default()),
                grace,
            ));
        }
        let places = places.into_iter().map(|place| (place.filter.clone(), place)).collect();
        Self { places, out: HashMap::new(), released: Released::default() }
    }

    fn back(&mut self, source: &Source, is_done: bool, now: Timestamp) {
        let Some((place, out)) = self.put_away(source).filter(|_| !is_done) else { return };
        match (&mut place.known, &out.waits, out.is_released) {
            (Known::Held(waiting), Some((team, targets)), true) => waiting.put_back(out.entry, team, targets),
            (known, waits, _) => {
                let entry =
                    Entry { due: out.entry.due.max(now + TimeDelta::milliseconds(AGAIN_MS)), ..out.entry };
                match (known, waits) {
                    (Known::Held(waiting), Some((team, targets))) => waiting.insert(entry, team, targets),
                    (Known::Held(_), None) => {}
                    (Known::Plain(shelf), _) => shelf.insert(entry),
                }
            }
        }
    }

    /// Puts back what has rested.
    fn wake(&mut self, source: &Source) {
        if let Some((place, Out { entry, waits: Some((team, targets)), .. })) = self.put_away(source)
            && let Known::Held(waiting) = &mut place.known
        {
            waiting.insert(entry, &team, &targets);
        }
    }

    fn put_away(&mut self, source: &Source) -> Option<(&mut Place, Out)> {
        let out = self.out.remove(source)?;
        let waits = out.waits.as_ref().filter(|_| out.is_released);
        waits.into_iter().for_each(|waits| self.released.remove(waits));
        Some((self.places.get_mut(&out.filter)?, out))
    }
}

impl Place {
    /// Notes what was found. `false`: it is too young to be waiting.
    fn note(&mut self, stored: &Stored<Body>, now: Timestamp) -> bool {
        let is_held = matches!(self.known, Known::Held(_));
        let stored_at = timestamp(stored.stored_at);
        if !is_held && stored_at > now - TimeDelta::milliseconds(YOUNG_MS) {
            return false;
        }
        self.next = stored.sequence + 1;
        let (identity, deadline) = match &stored.payload {
            Body::Request(request) => {
                let ttl = i64::try_from(request.ttl_ms).unwrap_or(0);
                (super::identity(request), stored_at + TimeDelta::milliseconds(ttl))
            }
            Body::Job(job) => (job.identity.clone(), job.deadline),
            _ => return true,
        };
        let due = deadline + TimeDelta::milliseconds(self.grace_ms);
        let entry = Entry { sequence: stored.sequence, due, request: request_hash(&identity) };
        match (&mut self.known, &stored.payload) {
            (Known::Held(waiting), Body::Job(job)) => waiting.insert(entry, &identity.team, &awaited(job)),
            (Known::Held(_), _) => {}
            (Known::Plain(shelf), _) => shelf.insert(entry),
        }
        true
    }
}

enum Best {
    Up,
    Probe(Target),
    Down,
}

impl Router {
    pub(super) async fn tick(self: Rc<Self>) {
        loop {
            self.process.sleep(micros_of(TICK_MS)).await;
            let live: Vec<String> = self.process.world.present.borrow().routers.keys().cloned().collect();
            let filters: Vec<String> = self.index.borrow().places.keys().cloned().collect();
            for filter in &filters {
                let Some(stream) = self.index.borrow().places.get(filter).map(|place| place.stream.clone())
                else {
                    continue;
                };
                let keeper = caretaker(&stream, live.iter().map(String::as_str));
                if keeper == Some(self.process.name.as_str()) {
                    self.read(filter, &stream).await;
                    self.end_overdue(filter);
                } else {
                    self.forget(filter);
                }
            }
            self.release().await;
        }
    }

    fn forget(&self, filter: &str) {
        if let Some(place) = self.index.borrow_mut().places.get_mut(filter)
            && place.next > 1
        {
            place.next = 1;
            place.known = match place.known {
                Known::Plain(_) => Known::Plain(Shelf::default()),
                Known::Held(_) => Known::Held(Waiting::default()),
            };
        }
    }

    async fn read(&self, filter: &str, stream: &str) {
        let next = self.index.borrow().places.get(filter).map_or(1, |place| place.next);
        let (of, wanted) = (stream.to_owned(), filter.to_owned());
        let found = self.process.io(move |world| world.server.borrow().scan(&of, &wanted, next, BATCH)).await;
        let now = self.now();
        let mut index = self.index.borrow_mut();
        let Some(place) = index.places.get_mut(filter) else { return };
        for stored in found.unwrap_or_default() {
            if !place.note(&stored, now) {
                return;
            }
        }
    }

    /// Ends what is over its deadline.
    fn end_overdue(self: &Rc<Self>, filter: &str) {
        let now = self.now();
        let mut index = self.index.borrow_mut();
        let Some(place) = index.places.get_mut(filter) else { return };
        let due: Vec<(Entry, Option<Waits>)> = match &mut place.known {
            Known::Plain(shelf) => {
                shelf.take_due(now, ENDING_MAX).into_iter().map(|entry| (entry, None)).collect()
            }
            Known::Held(waiting) => waiting.take_due(now, ENDING_MAX),
        };
        let stream = place.stream.clone();
        for (entry, waits) in due {
            let source = Source { stream: stream.clone(), sequence: entry.sequence };
            if index.out.contains_key(&source) {
                continue;
            }
            let out = Out { filter: filter.to_owned(), entry, waits, is_released: false };
            index.out.insert(source.clone(), out);
            let router = Rc::clone(self);
            self.process.spawn(async move { router.end_found(source).await });
        }
    }

    async fn find_message(self: &Rc<Self>, source: Source) -> Option<Held> {
        let of = source.clone();
        let found =
            self.process.io(move |world| world.server.borrow().get(&of.stream, of.sequence).cloned()).await;
        let gone = |is_done| self.index.borrow_mut().back(&source, is_done, self.now());
        match found {
            Some(Some(stored)) => {
                let (router, of) = (Rc::clone(self), source.clone());
                let back = Box::new(move |again| router.back(of, again));
                Some(Held::found(&self.process, &source.stream, stored, back))
            }
            Some(None) => {
                gone(true);
                None
            }
            None => {
                gone(false);
                None
            }
        }
    }

    async fn end_found(self: &Rc<Self>, source: Source) {
        let Some(message) = self.find_message(source).await else { return };
        let job = match &message.body {
            Body::Request(request) if request.is_invalid => {
                let job = job(request, &message);
                let problem = Problem::new(ErrorCode::UnknownModel, "there is no such model");
                return self.end(message, &job, End::Unpaid(Status::Rejected, problem)).await;
            }
            Body::Request(request) => job(request, &message),
            Body::Job(job) => Job::clone(job),
            _ => return,
        };
        let stop = Stop::Expired { deadline: job.deadline, grace_ms: GRACE_MS };
        self.stop(message, &job, stop).await;
    }

    /// Releases what may go.
    async fn release(self: &Rc<Self>) {
        let sets: Vec<(usize, Vec<Target>)> =
            match self.index.borrow().places.get(HOLD).map(|place| &place.known) {
                Some(Known::Held(waiting)) => {
                    waiting.sets().into_iter().map(|(set, targets)| (set, targets.to_vec())).collect()
                }
                _ => return,
            };
        for (set, targets) in sets {
            while self.has_held(set, &targets) {
                let mut permit = None;
                match self.best(&targets) {
                    Best::Up => {}
                    Best::Down => break,
                    Best::Probe(target) => {
                        permit = self.permit(&target).await;
                        if permit.is_none() {
                            break;
                        }
                    }
                }
                let Some(source) = self.next_released(set, &targets) else { break };
                let router = Rc::clone(self);
                self.process.spawn(async move { router.released(source, permit).await });
            }
        }
    }

    /// Whether anything may be released.
    fn has_held(&self, set: usize, targets: &[Target]) -> bool {
        let Index { places, released, .. } = &mut *self.index.borrow_mut();
        match places.get_mut(HOLD).map(|place| &mut place.known) {
            Some(Known::Held(waiting)) => waiting.has(set, |team| released.may(targets, team)),
            _ => false,
        }
    }

    /// A message that was given away is done with, or is to be looked at again.
    fn back(self: &Rc<Self>, source: Source, again: Option<Micros>) {
        let is_released = self.index.borrow().out.get(&source).is_some_and(|out| out.is_released);
        match again.filter(|delay| is_released && *delay > 0) {
            Some(delay) => {
                let router = Rc::clone(self);
                self.process.spawn(async move {
                    router.process.sleep(delay).await;
                    router.index.borrow_mut().wake(&source);
                });
            }
            None => self.index.borrow_mut().back(&source, again.is_none(), self.now()),
        }
    }

    fn next_released(&self, set: usize, targets: &[Target]) -> Option<Source> {
        let mut index = self.index.borrow_mut();
        let Index { places, out, released } = &mut *index;
        let place = places.get_mut(HOLD)?;
        let Known::Held(waiting) = &mut place.known else { return None };
        let source = |entry: &Entry| Source { stream: place.stream.clone(), sequence: entry.sequence };
        let (entry, team) = std::iter::from_fn(|| waiting.release(set, |team| released.may(targets, team)))
            .find(|(entry, _)| !out.contains_key(&source(entry)))?;
        let of = source(&entry);
        let waits = (team, targets.to_vec());
        released.add(&waits);
        let waits = Some(waits);
        out.insert(of.clone(), Out { filter: HOLD.to_owned(), entry, waits, is_released: true });
        Some(of)
    }

    async fn released(self: &Rc<Self>, source: Source, permit: Option<Permit>) {
        let Some(mut message) = self.find_message(source).await else { return };
        message.permit = permit;
        let Some((message, mut job)) = self.due(message).await else { return };
        let permitted = message.permit.as_ref().and_then(Permit::target);
        let probed = permitted.and_then(|target| job.targets.iter().position(|known| known == target));
        if let Some(target) = probed {
            job.target = target;
            self.order(message, job);
        } else {
            self.choose(message, job);
        }
        self.dispatch_open();
    }

    fn best(&self, targets: &[Target]) -> Best {
        let mut probe = None;
        for target in targets {
            match self.availability(target) {
                Some(Availability::Up) => return Best::Up,
                Some(Availability::Probe) => probe = probe.or(Some(target)),
                Some(Availability::Down { .. }) | None => {}
            }
        }
        probe.map_or(Best::Down, |target| Best::Probe(target.clone()))
    }

    /// Ends a request that its client took back, if it is here.
    pub(super) fn find_in_index(self: &Rc<Self>, identity: &Identity) {
        let hash = request_hash(identity);
        let mut found = Vec::new();
        for place in self.index.borrow().places.values() {
            let shelf = match &place.known {
                Known::Plain(shelf) => shelf,
                Known::Held(waiting) => waiting.shelf(),
            };
            found.extend(
                shelf
                    .find(hash)
                    .into_iter()
                    .map(|sequence| Source { stream: place.stream.clone(), sequence }),
            );
        }
        for source in found {
            let (router, identity) = (Rc::clone(self), identity.clone());
            self.process.spawn(async move {
                let Some(message) = router.find_message(source).await else { return };
                let job = match &message.body {
                    Body::Request(request) if !request.is_invalid => job(request, &message),
                    Body::Job(job) => Job::clone(job),
                    _ => return,
                };
                if job.identity == identity {
                    router.stop(message, &job, Stop::Cancelled).await;
                }
            });
        }
    }
}
