//! The index: what waits in a stream where no consumer delivers it now.
//!
//! One router at a time keeps it for a stream (two would do the same twice, and the record lets it happen once). It
//! reads the stream without taking anything from it, and knows of each message only when it is due, whose it is, and
//! what it waits for. Three things come of it: requests end at their deadline wherever they lie, held requests are
//! released when a target of theirs is up, and what lies in the stream of a provider that is no longer configured is
//! moved out of it.

mod place;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tollgate_bus::presence::Presence;
use tollgate_policy::claim::Stop;
use tollgate_policy::health::Availability;
use tollgate_policy::hot::Hot;
use tollgate_policy::index::{Entry, Released, Waits, caretaker, request_hash};
use tollgate_protocol::job::{Job, Target};
use tollgate_protocol::record::Source;
use tollgate_protocol::{Identity, Team};
use tollgate_telemetry as telemetry;

use crate::Context;
use crate::holding::{Back, Holding};
use crate::intake::{self, NotTaken};
use crate::stop::GRACE_MS;
use place::{Kind, Place};

/// How often the streams are looked at.
const TICK: Duration = Duration::from_millis(200);
/// How often the list of streams, and the size of the index, are looked at.
const REVIEW: Duration = Duration::from_secs(10);
/// Messages that are ended at a time.
const ENDING_MAX: usize = 256;
/// How long a stopping router finishes what its index has begun.
const ENDING_WAIT: Duration = Duration::from_secs(5);
/// How soon a message is looked at again that could not be ended.
const AGAIN_MS: u64 = 500;

/// A message that the index gave away.
struct Out {
    filter: String,
    entry: Entry,
    /// Of a held one.
    waits: Option<Waits>,
    /// Whether it was released.
    is_released: bool,
    /// Whether it counts among what is released.
    is_counted: bool,
}

/// The index of one router.
pub(crate) struct Index {
    context: Arc<Context>,
    presence: Presence,
    /// By filter.
    places: HashMap<String, Place>,
    out: HashMap<Source, Out>,
    /// How many of `out` there are of each set of targets and team.
    released: Released,
    /// Those of `out` that are to be looked at again later, and when.
    resting: Vec<(Instant, Source)>,
    desk: mpsc::Sender<Holding>,
    back: mpsc::UnboundedReceiver<Back>,
    ending: Arc<Semaphore>,
    tasks: TaskTracker,
    reviewed: Option<Instant>,
}

impl Index {
    pub(crate) fn new(
        context: Arc<Context>,
        presence: Presence,
        desk: mpsc::Sender<Holding>,
        back: mpsc::UnboundedReceiver<Back>,
    ) -> Self {
        Self {
            context,
            presence,
            places: HashMap::new(),
            out: HashMap::new(),
            released: Released::default(),
            resting: Vec::new(),
            desk,
            back,
            ending: Arc::new(Semaphore::new(ENDING_MAX)),
            tasks: TaskTracker::new(),
            reviewed: None,
        }
    }

    /// Looks after its streams until `stop`.
    pub(crate) async fn run(mut self, mut finds: mpsc::Receiver<Identity>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut health = self.context.health.changed();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => self.tick().await,
                Some(back) = self.back.recv() => {
                    self.take_back(back);
                    while let Ok(back) = self.back.try_recv() {
                        self.take_back(back);
                    }
                    self.release().await;
                }
                Some(identity) = finds.recv() => self.cancel(&identity),
                Ok(()) = health.changed() => self.release().await,
            }
        }
        self.tasks.close();
        if tokio::time::timeout(ENDING_WAIT, self.tasks.wait()).await.is_err() {
            tracing::debug!(left = self.tasks.len(), "what the index had begun is left to the next one");
        }
    }

    async fn tick(&mut self) {
        if self.reviewed.is_none_or(|last| last.elapsed() >= REVIEW) {
            self.reviewed = Some(Instant::now());
            self.review().await;
        }
        let live = self.presence.live();
        let own = self.presence.process();
        let mine: Vec<String> = self
            .places
            .iter()
            .filter(|(_, place)| caretaker(&place.stream, live.iter().map(String::as_str)) == Some(own))
            .map(|(filter, _)| filter.clone())
            .collect();
        for (filter, place) in &mut self.places {
            if !mine.contains(filter) {
                place.forget();
            }
        }
        for filter in &mine {
            if let Some(place) = self.places.get_mut(filter) {
                place.read(&self.context).await;
            }
            self.end_overdue(filter);
            self.evacuate(filter);
        }
        self.wake();
        self.release().await;
        telemetry::set_indexed(self.places.values().map(Place::len).sum());
        telemetry::set_held(self.places.values().map(Place::held).sum());
    }

    /// Which streams there are, and whether what is known of them is much more than they hold.
    async fn review(&mut self) {
        let bus = &self.context.bus;
        let names: Vec<String> = match bus.jetstream().stream_names().try_collect().await {
            Ok(names) => names,
            Err(error) => return tracing::debug!(%error, "the streams cannot be listed"),
        };
        let providers: HashSet<&str> =
            names.iter().filter_map(|name| bus.subjects().parse_dispatch_stream(name)).collect();
        let wanted = Place::all(bus.subjects(), providers.into_iter());
        self.places.retain(|filter, _| wanted.iter().any(|place| place.filter == *filter));
        for place in wanted {
            self.places.entry(place.filter.clone()).or_insert(place);
        }
        for place in self.places.values_mut() {
            place.review(&self.context).await;
        }
    }

    /// Ends what is over its deadline.
    fn end_overdue(&mut self, filter: &str) {
        let room = self.ending.available_permits();
        let Some(place) = self.places.get_mut(filter) else { return };
        let (kind, stream) = (place.kind.clone(), place.stream.clone());
        for (entry, waits) in place.take_due(tollgate_bus::now(), room) {
            let Ok(permit) = Arc::clone(&self.ending).try_acquire_owned() else { return };
            let source = Source { stream: stream.clone(), sequence: entry.sequence };
            // Whoever has it in hand ends it, or gives it back.
            if self.out.contains_key(&source) {
                continue;
            }
            let out = Out { filter: filter.to_owned(), entry, waits, is_released: false, is_counted: false };
            self.out.insert(source.clone(), out);
            let (context, kind) = (Arc::clone(&self.context), kind.clone());
            self.tasks.spawn(async move {
                context.end_found(source, &kind).await;
                drop(permit);
            });
        }
    }

    /// Moves what lies in the stream of a provider that is not configured any more.
    fn evacuate(&mut self, filter: &str) {
        let Some(place) = self.places.get_mut(filter) else { return };
        let Kind::Dispatch { provider } = &place.kind else { return };
        let is_configured =
            self.context.hot().catalog.prices.keys().any(|target| target.provider == *provider);
        // Others may be about to start with a configuration that has it, or to end with one.
        let grace = self.context.settings.lease + Duration::from_secs(5);
        if is_configured || !place.is_abandoned(is_configured, grace) {
            return;
        }
        for entry in place.take_all(self.ending.available_permits()) {
            let Ok(permit) = Arc::clone(&self.ending).try_acquire_owned() else { return };
            let source = Source { stream: place.stream.clone(), sequence: entry.sequence };
            if self.out.contains_key(&source) {
                continue;
            }
            let (filter, waits) = (filter.to_owned(), None);
            let out = Out { filter, entry, waits, is_released: false, is_counted: false };
            self.out.insert(source.clone(), out);
            let context = Arc::clone(&self.context);
            self.tasks.spawn(async move {
                context.evacuate(source).await;
                drop(permit);
            });
        }
    }

    /// Releases what may go.
    async fn release(&mut self) {
        let filter = self.context.bus.subjects().retry_hold_all();
        let Some(place) = self.places.get_mut(&filter) else { return };
        let hot = self.context.hot();
        let sets: Vec<(usize, Vec<Target>)> = place.sets();
        for (set, targets) in sets {
            loop {
                // What was read twice, since the place was read anew, is in hand already.
                let (out, released, stream) = (&self.out, &self.released, place.stream.clone());
                let is_not_in_hand = |(entry, _): &(Entry, Team)| {
                    !out.contains_key(&Source { stream: stream.clone(), sequence: entry.sequence })
                };
                let may = |team: &Team| released.may(&targets, team);
                // Before a permit is taken for it.
                if !place.has(set, may) {
                    break;
                }
                let mut permit = None;
                let is_no_stranger = |team: &Team| hot.teams.contains_key(team) || !may(team);
                let stranger =
                    std::iter::from_fn(|| place.release_stranger(set, is_no_stranger)).find(is_not_in_hand);
                match best(&self.context, &hot, &targets) {
                    _ if stranger.is_some() => {}
                    Best::Up => {}
                    Best::Down => break,
                    Best::Probe(target) => {
                        permit = self.context.permit(&target).await;
                        if permit.is_none() {
                            break;
                        }
                    }
                }
                let next =
                    stranger.or_else(|| std::iter::from_fn(|| place.release(set, may)).find(is_not_in_hand));
                let Some((entry, team)) = next else { break };
                let source = Source { stream: place.stream.clone(), sequence: entry.sequence };
                let waits = (team, targets.clone());
                self.released.add(&waits);
                let (filter, waits) = (filter.clone(), Some(waits));
                let out = Out { filter, entry, waits, is_released: true, is_counted: true };
                self.out.insert(source.clone(), out);
                let (context, desk) = (Arc::clone(&self.context), self.desk.clone());
                self.tasks.spawn(async move {
                    let Some(mut message) = context.find(source).await else { return };
                    message.permit = permit;
                    // The desk outlives its index; if it does not, the message is found again.
                    let _ = desk.send(message).await;
                });
            }
        }
    }

    /// A message that was given away is done with, or is to be looked at again.
    fn take_back(&mut self, back: Back) {
        let Some(out) = self.out.get_mut(&back.source) else { return };
        if back.is_aside {
            let waits = out.waits.as_ref().filter(|_| out.is_counted);
            waits.into_iter().for_each(|waits| self.released.remove(waits));
            out.is_counted = false;
        } else if out.is_released && !back.is_done && !back.delay.is_zero() {
            // Until then it counts: of what comes back again and again, only so much does in that time.
            self.resting.push((Instant::now() + back.delay, back.source));
        } else if let Some((place, out)) = self.put_away(&back.source).filter(|_| !back.is_done) {
            match (&out.waits, out.is_released) {
                (Some(waits), true) => place.put_back(out.entry, waits),
                (waits, _) => place.look_again(out.entry, waits.as_ref(), tollgate_bus::now(), AGAIN_MS),
            }
        }
    }

    /// Puts back what has rested.
    fn wake(&mut self) {
        let now = Instant::now();
        for (_, source) in self.resting.extract_if(.., |(until, _)| *until <= now).collect::<Vec<_>>() {
            if let Some((place, Out { entry, waits: Some(waits), .. })) = self.put_away(&source) {
                place.put_last(entry, &waits);
            }
        }
    }

    /// A message is not in hand any more: where it is from, and what is known of it.
    fn put_away(&mut self, source: &Source) -> Option<(&mut Place, Out)> {
        let out = self.out.remove(source)?;
        let waits = out.waits.as_ref().filter(|_| out.is_counted);
        waits.into_iter().for_each(|waits| self.released.remove(waits));
        Some((self.places.get_mut(&out.filter)?, out))
    }

    /// Ends a request that its client took back, if it is here.
    fn cancel(&mut self, identity: &Identity) {
        let hash = request_hash(identity);
        for place in self.places.values() {
            for sequence in place.find(hash) {
                let source = Source { stream: place.stream.clone(), sequence };
                let (context, kind, identity) =
                    (Arc::clone(&self.context), place.kind.clone(), identity.clone());
                self.tasks.spawn(async move {
                    let Some(message) = context.find(source).await else { return };
                    let job = match kind {
                        Kind::Lanes => match intake::take_request(&context, &context.hot(), &message) {
                            Ok(job) => Some(job),
                            Err(NotTaken::NotBefore(job, _)) => Some(*job),
                            Err(NotTaken::Rejected(..) | NotTaken::Drained) => None,
                        },
                        _ => Job::decode(&message.payload).ok(),
                    };
                    if let Some(job) = job.filter(|job| job.identity == identity) {
                        context.stop(message, &job, Stop::Cancelled).await;
                    }
                });
            }
        }
    }
}

enum Best {
    Up,
    Probe(Target),
    Down,
}

/// The best of some targets. When none of them is configured any more, the desk sees what becomes of the request.
fn best(context: &Context, hot: &Hot, targets: &[Target]) -> Best {
    let (mut probe, mut is_gone) = (None, true);
    for target in targets {
        let Some(availability) = context.availability(hot, target) else { continue };
        is_gone = false;
        match availability {
            Availability::Up => return Best::Up,
            Availability::Probe => probe = probe.or(Some(target)),
            Availability::Down { .. } => {}
        }
    }
    if is_gone {
        return Best::Up;
    }
    probe.map_or(Best::Down, |target| Best::Probe(target.clone()))
}

impl Context {
    /// A message that the index knows, if it is still there.
    pub(crate) async fn find(&self, source: Source) -> Option<Holding> {
        let gone = |is_done| drop(self.back.send(Back::at_once(source.clone(), is_done)));
        match self.bus.stored(&source.stream, source.sequence).await {
            Ok(Some(stored)) => Some(Holding::released(&self.bus, stored, self.back.clone())),
            Ok(None) => {
                gone(true);
                None
            }
            Err(error) => {
                tracing::debug!(%error, message = %source, "a message cannot be read, it is looked at again");
                gone(false);
                None
            }
        }
    }

    /// Ends the request of a message that is over its deadline.
    async fn end_found(&self, source: Source, kind: &Kind) {
        let Some(message) = self.find(source).await else { return };
        let job = match kind {
            Kind::Lanes => match intake::take_request(self, &self.hot(), &message) {
                Ok(job) => job,
                Err(NotTaken::NotBefore(job, _)) => *job,
                Err(NotTaken::Rejected(head, problem)) => return self.reject(message, &head, problem).await,
                Err(NotTaken::Drained) => {
                    telemetry::count_drained_acknowledgement();
                    return message.ack().await;
                }
            },
            Kind::Due | Kind::Hold | Kind::Dispatch { .. } => match Job::decode(&message.payload) {
                Ok(job) => job,
                // Whoever is given it by its consumer says what is wrong with it.
                Err(_) => return,
            },
        };
        let stop = Stop::Expired { deadline: job.deadline, grace_ms: GRACE_MS };
        self.stop(message, &job, stop).await;
    }
}
