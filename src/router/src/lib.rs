//! The router's shell: lanes → decode → admit → order → dispatch.
//!
//! Messages in, `policy` decides, messages out. A message of a lane is acknowledged only after what it
//! became is stored: a dispatch message, or a terminal response. Any number of routers may run; what two of
//! them do twice, the record lets happen once.

mod aside;
mod budget;
mod cancel;
mod desk;
mod dispatch;
mod due;
mod ending;
mod evacuate;
mod express;
mod gates;
mod holding;
mod index;
mod intake;
mod measure;
mod permit;
mod route;
mod spending;
mod stop;
mod tally;
mod turn;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tollgate_bus::heartbeat::Heartbeats;
use tollgate_bus::presence::Presence;
use tollgate_bus::pull::PullFrom;
use tollgate_bus::{Bus, topology};
use tollgate_health::Health;
use tollgate_policy::hot::Hot;
use tollgate_policy::retention::Retention;
use tollgate_protocol::subject::LANES;
use tollgate_protocol::{Identity, Priority, Timestamp};

use holding::Back;
use permit::Unused;
use spending::Spending;
use tally::Tally;
use turn::Spare;

/// Source of this role's events.
const SOURCE: &str = "tollgate/router";

/// Messages of one lane that a router holds at a time. Enough to keep one team's lane busy over a round
/// trip, few enough that order is made among all that wait and memory stays small.
const PREFETCH: usize = 32;

/// Cancellations that a router works on at a time.
const CANCELS_MAX: usize = 256;
/// Requests that may be asked for faster than they are looked for.
const FINDS_MAX: usize = 1_024;
/// Released requests between the index and the desk.
const RELEASES_MAX: usize = 64;

/// What a router needs to know.
#[derive(Clone)]
pub struct Settings {
    /// Who may ask for what, and what may be spent, now and from now on.
    pub hot: watch::Receiver<Arc<Hot>>,
    /// Shares of the priorities, the highest first.
    pub shares: [u32; 3],
    /// Default time to live per priority, in milliseconds.
    pub ttl_ms: [u64; 3],
    /// How long a message may be silent before the server gives it to somebody else.
    pub ack_wait: Duration,
    /// How long the owner of a call may be silent before the call is lost.
    pub lease: Duration,
    /// How long to finish what is in hand after being told to stop.
    pub drain: Duration,
    /// How long records and responses are kept.
    pub retention: Retention,
}

/// Why a router cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A subscription was refused.
    #[error("cannot subscribe to {subject}: {reason}")]
    Subscribe {
        /// To what.
        subject: String,
        /// Why not.
        reason: String,
    },
}

/// What every task of the router shares.
struct Context {
    bus: Bus,
    settings: Settings,
    health: Health,
    /// When this process began to look at anything.
    started_at: Timestamp,
    /// Where the index hears of what it gave away.
    back: mpsc::UnboundedSender<Back>,
    /// Where permits go that were not used.
    unused: mpsc::UnboundedSender<Unused>,
    /// What is in hand.
    tally: Tally,
    /// What is spent.
    spending: Spending,
    /// Numbers of limits that are left over.
    spare: Spare,
}

impl Context {
    /// What is in force now. Whoever does something in several steps takes it once.
    fn hot(&self) -> Arc<Hot> {
        Arc::clone(&self.settings.hot.borrow())
    }
}

/// Routes until `stop`, then hands back what it has not dispatched. The topology must be there.
pub async fn run(
    bus: Bus,
    settings: Settings,
    ready: impl FnOnce() + Send,
    stop: CancellationToken,
) -> Result<(), Error> {
    let (ack_wait, drain) = (settings.ack_wait, settings.drain);
    let heartbeats = Heartbeats::default();
    let health = Health::new(&bus);
    // Not bounded by itself, but by what produces it: one entry per message that the index gave away.
    let (back, backs) = mpsc::unbounded_channel();
    let (unused, unuseds) = mpsc::unbounded_channel();
    let context = Arc::new(Context {
        bus: bus.clone(),
        settings,
        health: health.clone(),
        started_at: tollgate_bus::now(),
        back,
        unused,
        tally: Tally::default(),
        spending: Spending::default(),
        spare: Spare::default(),
    });
    let (pulls, beats) = (TaskTracker::new(), TaskTracker::new());
    let drained = CancellationToken::new();
    health.load_soon().await;

    let free = bus.subjects().free("*");
    let frees = bus
        .client()
        .subscribe(free.clone())
        .await
        .map_err(|error| Error::Subscribe { subject: free, reason: error.to_string() })?;
    let usage = bus.subjects().live_usage();
    let usage = bus
        .client()
        .subscribe(usage.clone())
        .await
        .map_err(|error| Error::Subscribe { subject: usage, reason: error.to_string() })?;
    beats.spawn({
        let (heartbeats, client, drained) = (heartbeats.clone(), bus.client().clone(), drained.clone());
        async move { heartbeats.run(client, ack_wait, drained).await }
    });
    beats.spawn({
        let (context, drained) = (Arc::clone(&context), drained.clone());
        async move { context.give_back(unuseds, drained).await }
    });
    // Lanes and due lanes share a channel; their own places keep one lane from filling it.
    let (sender, messages) = mpsc::channel(256);
    for from in lanes(&bus, ack_wait) {
        let (bus, sender, heartbeats, stop) = (bus.clone(), sender.clone(), heartbeats.clone(), stop.clone());
        let places = Arc::new(Semaphore::new(PREFETCH));
        pulls.spawn(async move { bus.pull(from, places, PREFETCH, heartbeats, sender, stop).await });
    }
    drop(sender);
    let (cancel_sender, cancels) = mpsc::channel(CANCELS_MAX);
    pulls.spawn({
        let from = topology::cancel_consumer(bus.subjects(), ack_wait);
        let (bus, heartbeats, stop) = (bus.clone(), heartbeats.clone(), stop.clone());
        let places = Arc::new(Semaphore::new(CANCELS_MAX));
        async move { bus.pull(from, places, CANCELS_MAX, heartbeats, cancel_sender, stop).await }
    });
    let presence = Presence::new("router", &uuid::Uuid::now_v7().simple().to_string());
    let (desk_finds, for_desk) = mpsc::channel(FINDS_MAX);
    let (index_finds, for_index) = mpsc::channel(FINDS_MAX);
    let question = bus.subjects().router_question();
    let questions = bus
        .client()
        .subscribe(question.clone())
        .await
        .map_err(|error| Error::Subscribe { subject: question, reason: error.to_string() })?;
    beats.spawn(pass_on(questions, [desk_finds, index_finds], drained.clone()));
    beats.spawn({
        let (health, drained) = (health.clone(), drained.clone());
        async move { health.run(drained).await }
    });
    beats.spawn({
        let (spending, bus, drained) = (context.spending.clone(), bus.clone(), drained.clone());
        async move { spending.run(&bus, drained).await }
    });
    // The index ends first: what it gave away is not taken up again here.
    pulls.spawn({
        let (presence, bus, stop) = (presence.clone(), bus.clone(), stop.clone());
        async move { presence.run(&bus, stop).await }
    });
    let (releases, released) = mpsc::channel(RELEASES_MAX);
    let (expresses, expressed) = mpsc::channel(RELEASES_MAX);
    let express =
        express::Express::new(Arc::clone(&context), presence.clone(), lanes(&bus, ack_wait), expresses);
    pulls.spawn(express.run(stop.clone()));
    let index = index::Index::new(Arc::clone(&context), presence, releases, backs);
    pulls.spawn(index.run(for_index, stop.clone()));
    pulls.close();
    beats.close();
    ready();
    tracing::info!("router is ready");

    let desk = desk::Desk::new(Arc::clone(&context), heartbeats);
    let incoming = desk::Incoming { messages, released, expressed, cancels, finds: for_desk, frees, usage };
    desk.serve(incoming, &stop, drain).await;
    pulls.wait().await;
    drained.cancel();
    beats.wait().await;
    if let Err(error) = bus.client().flush().await {
        tracing::debug!(%error, "last flush failed");
    }
    Ok(())
}

/// Gives each identity that is asked for to all who may have it. Who is too busy to hear it is asked again.
async fn pass_on(
    mut questions: async_nats::Subscriber,
    to: [mpsc::Sender<Identity>; 2],
    stop: CancellationToken,
) {
    loop {
        let question = tokio::select! {
            () = stop.cancelled() => return,
            question = questions.next() => question,
        };
        let Some(question) = question else { return };
        let identity = std::str::from_utf8(&question.payload).ok().and_then(Identity::from_tokens);
        for (sender, identity) in to.iter().zip(identity.iter().cycle()) {
            let _ = sender.try_send(identity.clone());
        }
    }
}

fn lanes(bus: &Bus, ack_wait: Duration) -> Vec<PullFrom> {
    let subjects = bus.subjects();
    Priority::ALL
        .into_iter()
        .flat_map(|priority| (0..LANES).map(move |lane| (priority, lane)))
        .flat_map(|(priority, lane)| {
            [
                topology::lane_consumer(subjects, priority, lane, ack_wait),
                topology::due_consumer(subjects, priority, lane, ack_wait),
            ]
        })
        .collect()
}
