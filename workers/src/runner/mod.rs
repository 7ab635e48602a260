//! The one runner: pull, claim, heartbeat, call, answer, usage, reply; the acknowledgement last.

mod call;
mod finish;
mod health;
mod job;
mod registry;
mod turn;
mod waiting;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tollgate_bus::heartbeat::Heartbeats;
use tollgate_bus::{Bus, topology};
use tollgate_health::Health;
use tollgate_policy::hot::Hot;
use tollgate_policy::inputs::{By, Inputs};
use tollgate_policy::retention::Retention;
use tollgate_policy::retry::Rules;
use tollgate_protocol::Price;
use tollgate_protocol::job::{Job, Target};
use tollgate_telemetry::{self as telemetry, Role};

use crate::codec::Codec;
use crate::http::Endpoint;
pub use crate::http::Timeouts;
use health::Observed;
use registry::Registry;

/// Source of this role's events.
const SOURCE: &str = "tollgate/worker";

/// Free places are announced at once, and those of the next moment together. A message for each would cost the
/// server, the worker and every router more than it tells them.
const BETWEEN_ANNOUNCEMENTS: Duration = Duration::from_millis(1);

/// What a worker needs to know.
#[derive(Clone)]
pub struct Settings {
    /// What models cost and what accounts take in a minute, now and from now on.
    pub hot: watch::Receiver<Arc<Hot>>,
    /// The providers it works for.
    pub providers: Vec<Provider>,
    /// How long a message may be silent before the server gives it to somebody else.
    pub ack_wait: Duration,
    /// How long an owner may be silent before its attempt is lost.
    pub lease: Duration,
    /// How long to finish what is in hand after being told to stop.
    pub drain: Duration,
    /// How long records and responses are kept.
    pub retention: Retention,
    /// Bounds of retries.
    pub rules: Rules,
}

/// One provider.
#[derive(Clone)]
pub struct Provider {
    /// Its name in the configuration.
    pub name: String,
    /// How it is spoken to.
    pub codec: Arc<dyn Codec>,
    /// Where it is.
    pub base_url: String,
    /// Its credentials.
    pub api_keys: Vec<String>,
    /// Calls at once, over all workers.
    pub max_in_flight: u32,
    /// When a call is given up.
    pub timeouts: Timeouts,
}

/// Why a worker cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A provider cannot be called with these settings.
    #[error("provider {provider}: {reason}")]
    Provider {
        /// Its name.
        provider: String,
        /// What is wrong.
        reason: String,
    },
}

/// One provider's part of the worker.
struct Shop {
    name: String,
    codec: Arc<dyn Codec>,
    endpoint: Endpoint,
    /// Calls at once, over all workers.
    max_in_flight: u32,
    /// What this process has seen of it.
    observed: Observed,
    /// A place became free.
    freed: Notify,
}

/// What every task of the worker shares.
struct Context {
    bus: Bus,
    owner: String,
    settings: Settings,
    registry: Registry,
    health: Health,
    /// What is known of the inputs of models.
    inputs: Mutex<Inputs>,
    stop: CancellationToken,
}

impl Context {
    /// How many tokens the input of a request has for a target, and by what that is known.
    fn input_tokens(&self, job: &Job, target: &Target) -> (u64, By) {
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner).tokens(job, target)
    }

    /// A provider counted them.
    fn note_input(&self, job: &Job, target: &Target, estimate: (u64, By), reported: u64) {
        telemetry::observe_input_estimate(&target.provider, estimate.1.as_str(), estimate.0, reported);
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner).note(target, job, reported);
    }
}

/// A random number, for the decisions that want one.
fn chance() -> u64 {
    u64::from_le_bytes(uuid::Uuid::new_v4().into_bytes()[..8].try_into().unwrap_or_default())
}

/// Works until `stop`, then finishes what is in hand, within the drain limit. The topology must be there.
pub async fn run(
    bus: Bus,
    settings: Settings,
    ready: impl FnOnce() + Send,
    stop: CancellationToken,
) -> Result<(), Error> {
    let drain = settings.drain;
    let heartbeats = Heartbeats::default();
    // New for each start: a process that was killed has nothing in its hands any more.
    let owner = uuid::Uuid::now_v7().simple().to_string();
    let context = Arc::new(Context {
        bus: bus.clone(),
        owner: owner.clone(),
        settings,
        registry: Registry::default(),
        health: Health::new(&bus),
        inputs: Mutex::default(),
        stop,
    });
    let (tasks, shops, jobs) = (TaskTracker::new(), TaskTracker::new(), TaskTracker::new());
    // Heartbeats and answers about attempts go on while jobs are finished.
    let drained = CancellationToken::new();

    tasks.spawn({
        let (context, drained) = (Arc::clone(&context), drained.clone());
        async move {
            let registry = context.registry.clone();
            let holds = |question: &_, abort| match abort {
                true => registry.abort(question),
                false => registry.holds(question),
            };
            context.bus.serve_owner(&context.owner, drained, holds).await;
        }
    });
    tasks.spawn({
        let (health, drained) = (context.health.clone(), drained.clone());
        async move { health.run(drained).await }
    });
    tasks.spawn({
        let (heartbeats, client, ack_wait) =
            (heartbeats.clone(), bus.client().clone(), context.settings.ack_wait);
        let drained = drained.clone();
        async move { heartbeats.run(client, ack_wait, drained).await }
    });
    context.health.load_soon().await;
    for provider in context.settings.providers.clone() {
        let endpoint = Endpoint::new(&provider.base_url, &provider.api_keys, provider.timeouts)
            .map_err(|reason| Error::Provider { provider: provider.name.clone(), reason })?;
        let shop = Arc::new(Shop {
            name: provider.name.clone(),
            codec: Arc::clone(&provider.codec),
            endpoint,
            max_in_flight: provider.max_in_flight,
            observed: Observed::new(provider.api_keys.len()),
            freed: Notify::new(),
        });
        tasks.spawn(announce(Arc::clone(&context), Arc::clone(&shop), drained.clone()));
        shops.spawn(serve(
            Arc::clone(&context),
            shop,
            provider.max_in_flight,
            heartbeats.clone(),
            jobs.clone(),
        ));
    }
    ready();
    tracing::info!(owner, "worker is ready");

    context.stop.cancelled().await;
    // What was pulled and not begun is handed back by its job.
    shops.close();
    shops.wait().await;
    jobs.close();
    if tokio::time::timeout(drain, jobs.wait()).await.is_err() {
        tracing::warn!(left = jobs.len(), "drain limit reached; what is left will be delivered again");
    }
    drained.cancel();
    tasks.close();
    tasks.wait().await;
    if let Err(error) = bus.client().flush().await {
        tracing::debug!(%error, "last flush failed");
    }
    Ok(())
}

/// Pulls the work of one provider, and has it done.
async fn serve(
    context: Arc<Context>,
    shop: Arc<Shop>,
    max_in_flight: u32,
    heartbeats: Heartbeats,
    jobs: TaskTracker,
) {
    let bus = context.bus.clone();
    let from =
        topology::dispatch_consumer(bus.subjects(), &shop.name, max_in_flight, context.settings.ack_wait);
    let places = Arc::new(Semaphore::new(max_in_flight as usize));
    let (sender, mut messages) = mpsc::channel(64);
    let pulling =
        bus.pull(from, places, max_in_flight as usize, heartbeats.clone(), sender, context.stop.clone());
    let working = async {
        while let Some(message) = messages.recv().await {
            if message.redelivered {
                telemetry::count_redelivery(Role::Worker);
            }
            let (context, shop) = (Arc::clone(&context), Arc::clone(&shop));
            jobs.spawn(async move {
                let _in_hand = telemetry::in_hand(Role::Worker);
                job::work(&context, &shop, message).await;
                shop.freed.notify_one();
            });
        }
    };
    tokio::join!(pulling, working);
}

/// Tells routers of free places. One that misses it looks again by itself.
async fn announce(context: Arc<Context>, shop: Arc<Shop>, drained: CancellationToken) {
    loop {
        tokio::select! {
            () = drained.cancelled() => return,
            () = shop.freed.notified() => {}
        }
        context.free(&shop.name).await;
        tokio::time::sleep(BETWEEN_ANNOUNCEMENTS).await;
    }
}

impl Context {
    /// What a target of a request costs: what was reserved for it, else what it costs now; `None` if it is not configured.
    fn price(&self, job: &Job, target: &Target) -> Option<Price> {
        job.reserved_price().or_else(|| self.settings.hot.borrow().catalog.price(target).copied())
    }

    /// Tells routers that places became free.
    async fn free(&self, provider: &str) {
        let subject = self.bus.subjects().free(provider);
        if let Err(error) = self.bus.client().publish(subject, bytes::Bytes::new()).await {
            tracing::debug!(%error, "a free place was not announced");
        }
    }
}
