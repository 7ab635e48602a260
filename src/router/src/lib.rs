//! The router's shell: lanes → decode → admit → order → dispatch.
//!
//! Messages in, `policy` decides, messages out. A message of a lane is acknowledged only after what it
//! became is stored: a dispatch message, or a terminal response. Any number of routers may run; what two of
//! them do twice, the record lets happen once.

mod desk;
mod dispatch;
mod due;
mod ending;
mod gates;
mod intake;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tollgate_bus::heartbeat::Heartbeats;
use tollgate_bus::pull::PullFrom;
use tollgate_bus::{Bus, topology};
use tollgate_policy::catalog::{Catalog, Teams};
use tollgate_policy::retention::Retention;
use tollgate_protocol::Priority;
use tollgate_protocol::subject::LANES;

/// Source of this role's events.
const SOURCE: &str = "tollgate/router";

/// Messages of one lane that a router holds at a time. Enough to keep one team's lane busy over a round
/// trip, few enough that order is made among all that wait and memory stays small.
const PREFETCH: usize = 32;

/// What a router needs to know.
#[derive(Clone)]
pub struct Settings {
    /// Models and what they cost.
    pub catalog: Catalog,
    /// Who may ask.
    pub teams: Teams,
    /// Shares of the priorities, the highest first.
    pub shares: [u32; 3],
    /// Default time to live per priority, in milliseconds.
    pub ttl_ms: [u64; 3],
    /// How long a message may be silent before the server gives it to somebody else.
    pub ack_wait: Duration,
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
    let context = Arc::new(Context { bus: bus.clone(), settings });
    let (pulls, beats) = (TaskTracker::new(), TaskTracker::new());
    let drained = CancellationToken::new();

    let free = bus.subjects().free("*");
    let frees = bus
        .client()
        .subscribe(free.clone())
        .await
        .map_err(|error| Error::Subscribe { subject: free, reason: error.to_string() })?;
    beats.spawn({
        let (heartbeats, client, drained) = (heartbeats.clone(), bus.client().clone(), drained.clone());
        async move { heartbeats.run(client, ack_wait, drained).await }
    });
    // Lanes and due lanes share a channel; their own places keep one lane from filling it.
    let (sender, messages) = mpsc::channel(256);
    for from in lanes(&bus, ack_wait) {
        let (bus, sender, heartbeats, stop) = (bus.clone(), sender.clone(), heartbeats.clone(), stop.clone());
        let places = Arc::new(Semaphore::new(PREFETCH));
        pulls.spawn(async move { bus.pull(from, places, PREFETCH, heartbeats, sender, stop).await });
    }
    drop(sender);
    pulls.close();
    beats.close();
    ready();
    tracing::info!("router is ready");

    let desk = desk::Desk::new(Arc::clone(&context), heartbeats);
    desk.serve(messages, frees, &stop, drain).await;
    pulls.wait().await;
    drained.cancel();
    beats.wait().await;
    if let Err(error) = bus.client().flush().await {
        tracing::debug!(%error, "last flush failed");
    }
    Ok(())
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
