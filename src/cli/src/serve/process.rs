//! The life of a broker process: connect, see to the topology, start the roles, say that it is ready, and on
//! request drain and end. Roles end first, then what they needed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tollgate_bus::bucket::{ALERTS, CONFIG, LEASE, SPENT};
use tollgate_bus::topology::{self, TopologyError};
use tollgate_bus::{Bus, ConnectSettings, Connection};
use tollgate_config::Settings;
use tollgate_protocol::applied;
use tollgate_telemetry::{self as telemetry, Health, Role, RoleState};

use super::follow::Follower;
use super::ready::{self, Addresses};
use super::settings::Own;
use super::signals::Signals;
use super::{drain, roles, simulators};
use crate::failure::{Exit, Failure};

/// How often the connection is looked at for `/healthz`.
const LOOK: Duration = Duration::from_millis(250);
/// What the simulators and the HTTP server may take to end when all roles have ended.
const LATE: Duration = Duration::from_secs(3);
/// The same after an end that was not in order.
const HURRY: Duration = Duration::from_millis(100);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What is to run.
pub(super) struct Plan {
    pub(super) roles: Vec<Role>,
    pub(super) settings: Settings,
    /// The text that they are from.
    pub(super) own: Own,
    pub(super) connect: ConnectSettings,
    pub(super) listener: TcpListener,
    pub(super) data: PathBuf,
}

/// The roles under way.
struct Running {
    roles: JoinSet<(Role, Result<(), Failure>)>,
    ready: mpsc::UnboundedReceiver<Role>,
    health: watch::Sender<Health>,
    stop: CancellationToken,
    limit: Duration,
}

/// Runs until a signal, or until a role ends by itself. `announce` is called once, when all roles are ready.
pub(super) async fn run(
    plan: Plan,
    signals: &mut Signals,
    announce: impl FnOnce(&Addresses, &Settings, u64),
) -> Result<(), Failure> {
    let (tracker, late) = (TaskTracker::new(), CancellationToken::new());
    let done = {
        // Whatever ends this, nobody goes on.
        let _late = late.clone().drop_guard();
        run_with(plan, signals, announce, &tracker, &late).await
    };
    tracker.close();
    // Whoever could not wait for the roles does not wait for what only serves them.
    let patience = if matches!(&done, Err(failure) if failure.exit == Exit::Failed) { HURRY } else { LATE };
    if tokio::time::timeout(patience, tracker.wait()).await.is_err() {
        tracing::warn!("not everything ended in time");
    }
    done
}

async fn run_with(
    plan: Plan,
    signals: &mut Signals,
    announce: impl FnOnce(&Addresses, &Settings, u64),
    tracker: &TaskTracker,
    late: &CancellationToken,
) -> Result<(), Failure> {
    let Plan { roles: names, mut settings, own, connect, listener, data } = plan;
    let http =
        listener.local_addr().map_err(|error| Failure::failed(format!("no local address: {error}")))?;
    let addresses = Addresses { nats: ready::shown_server(&connect.server), http: ready::http_url(http) };
    let (health, seen) = watch::channel(Health::starting(&names));
    install_metrics()?;
    tracker.spawn({
        let late = late.clone();
        async move {
            if let Err(error) = telemetry::serve_http(listener, seen, late).await {
                tracing::error!(%error, "metrics and health are not served any more");
            }
        }
    });

    let bus = tokio::select! {
        bus = connected(&connect, &settings) => bus?,
        () = signals.next() => return Ok(()),
    };
    tracker.spawn(watch_connection(bus.clone(), health.clone(), late.clone()));
    let follower = Arc::new(Follower::begin(&bus, own, &names, &mut settings).await?);
    tracker.spawn({
        let (follower, late) = (Arc::clone(&follower), late.clone());
        async move { follower.run(late).await }
    });
    if names.contains(&Role::Worker) {
        simulators::start(&mut settings, &bus, tracker, late).await?;
    }

    let mut running = start(&names, bus, &settings, &follower, data, health);
    let ended = tokio::select! {
        ended = running.all_ready(names.len()) => ended,
        () = signals.next() => return running.drain(signals).await,
    };
    if let Some(failure) = ended {
        // Why it ends is what counts, not how the others took it.
        let _ = running.drain(signals).await;
        return Err(failure);
    }
    announce(&addresses, &settings, follower.version());
    tokio::select! {
        failure = running.first_end() => {
            tracing::error!(error = failure.message, "stopping everything");
            let _ = running.drain(signals).await;
            Err(failure)
        }
        () = signals.next() => running.drain(signals).await,
    }
}

async fn connected(connect: &ConnectSettings, settings: &Settings) -> Result<Bus, Failure> {
    let connection = Connection::open(connect).await?;
    let replicas = replicas(connection.client().server_info().cluster.as_deref());
    let bus = Bus::new(connection, settings.subjects.clone());
    let kept = bus.ensure_topology(&plan(settings, replicas)).await.map_err(|error| match error {
        TopologyError::Differs { .. } => Failure::usage(error.to_string()),
        TopologyError::Refused { .. } => Failure::unreachable(error.to_string()),
    })?;
    for (name, description, history) in [
        (SPENT, "what is spent of each budget", 1),
        (ALERTS, "what was told of each budget", 1),
        (LEASE, "who does what only one may do", 1),
        (CONFIG, "teams, budgets, models and prices that were applied", applied::KEPT),
    ] {
        bus.ensure_bucket(name, description, history, replicas).await.map_err(|reason| {
            Failure::failed(format!("the key-value bucket {name} cannot be set up: {reason}"))
        })?;
    }
    tollgate_health::ensure(&bus, replicas).await.map_err(|reason| {
        Failure::unreachable(format!("the bucket of the targets' health cannot be set up: {reason}"))
    })?;
    bus.ensure_blobs(replicas).await.map_err(|reason| {
        Failure::unreachable(format!("the bucket of large bodies cannot be set up: {reason}"))
    })?;
    for kept in kept {
        let (stream, difference) = (kept.stream, kept.difference.to_string());
        tracing::warn!(
            stream,
            difference,
            "a bound stays higher than configured: lowering it could lose requests"
        );
    }
    Ok(bus)
}

/// An entry of the record lives until its deadline and a while longer, or a while from now: never so long.
fn record_max_age(settings: &Settings) -> std::time::Duration {
    let longest = settings.retention.response_ms.max(settings.retention.record_after_deadline_ms);
    std::time::Duration::from_millis(tollgate_protocol::request::TTL_MS_MAX.saturating_add(longest)) + DAY
}

fn plan(settings: &Settings, replicas: usize) -> topology::Plan {
    topology::Plan {
        team_requests_max: settings.queue.team_requests_max,
        requests_bytes_max: settings.queue.total_bytes_max,
        record_max_age: record_max_age(settings),
        usage_max_age: DAY * settings.retention.usage_days,
        providers: settings
            .providers
            .iter()
            .map(|(name, provider)| (name.clone(), provider.max_in_flight))
            .collect(),
        replicas,
    }
}

/// A cluster is there to survive the loss of a node, which takes three copies.
fn replicas(cluster: Option<&str>) -> usize {
    if cluster.is_some_and(|name| !name.is_empty()) { 3 } else { 1 }
}

fn start(
    names: &[Role],
    bus: Bus,
    settings: &Settings,
    follower: &Follower,
    data: PathBuf,
    health: watch::Sender<Health>,
) -> Running {
    let (said, ready) = mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let context =
        roles::Context { bus, settings: settings.clone(), hot: follower.hot(), data, stop: stop.clone() };
    let mut running = JoinSet::new();
    for role in names.iter().copied() {
        let (context, said, health) = (context.clone(), said.clone(), health.clone());
        running.spawn(async move {
            let ready = || {
                health.send_modify(|health| health.set(role, RoleState::Ready));
                // Nobody listens any more when we are ending already.
                let _ = said.send(role);
            };
            let ended = roles::run(role, context, ready).await;
            health.send_modify(|health| health.set(role, RoleState::Stopped));
            (role, ended)
        });
    }
    Running { roles: running, ready, health, stop, limit: drain::limit(settings) }
}

impl Running {
    /// Waits until so many roles are ready; or for the failure of one.
    async fn all_ready(&mut self, count: usize) -> Option<Failure> {
        for _ in 0..count {
            tokio::select! {
                // A role that was ready and then ended shows in the end.
                failure = first_end(&mut self.roles) => return Some(failure),
                Some(role) = self.ready.recv() => tracing::info!(role = role.as_str(), "ready"),
            }
        }
        None
    }

    async fn first_end(&mut self) -> Failure {
        first_end(&mut self.roles).await
    }

    /// Stops all roles and waits until they have drained, not longer than the limit or the next signal.
    async fn drain(&mut self, signals: &mut Signals) -> Result<(), Failure> {
        tracing::info!(limit_ms = self.limit.as_millis(), "draining");
        self.health.send_modify(|health| {
            for (_, state) in &mut health.roles {
                if *state != RoleState::Stopped {
                    *state = RoleState::Draining;
                }
            }
        });
        self.stop.cancel();
        let draining = async {
            let mut first = Ok(());
            while let Some(ended) = self.roles.join_next().await {
                let (role, ended) =
                    ended.map_err(|error| Failure::failed(format!("a role broke off: {error}")))?;
                tracing::info!(role = role.as_str(), "drained");
                first = first.and(ended);
            }
            first
        };
        tokio::select! {
            drained = draining => drained,
            () = tokio::time::sleep(self.limit) => Err(Failure::failed(
                "stopped before everything in hand was finished: the time for it (timing.drain_ms) was over. \
                 Nothing is lost; other processes, or the next start, go on with it",
            )),
            () = signals.next() => Err(Failure::failed(
                "stopped at once by a second signal. Nothing is lost; other processes, or the next start, go on \
                 with what was in hand",
            )),
        }
    }
}

/// A role that ends while nobody asked it to is a failure, whatever it says itself.
async fn first_end(roles: &mut JoinSet<(Role, Result<(), Failure>)>) -> Failure {
    match roles.join_next().await {
        Some(Ok((role, Ok(())))) => Failure::failed(format!("the {} ended by itself", role.as_str())),
        Some(Ok((role, Err(failure)))) => {
            Failure { message: format!("the {} failed: {failure}", role.as_str()), ..failure }
        }
        Some(Err(error)) => Failure::failed(format!("a role broke off: {error}")),
        None => Failure::failed("no role is left"),
    }
}

/// Keeps health and metrics up to date on the connection.
async fn watch_connection(bus: Bus, health: watch::Sender<Health>, stop: CancellationToken) {
    let mut counted = 0;
    loop {
        let now = bus.connection().health();
        telemetry::set_nats_connected(now.connected);
        telemetry::count_nats_disconnections(now.disconnections.saturating_sub(counted));
        counted = now.disconnections;
        let nats = telemetry::Nats { connected: now.connected, violation: now.violation };
        health.send_if_modified(|health| {
            let changed = health.nats != nats;
            health.nats = nats;
            changed
        });
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// What is counted from now on shows on `/metrics`.
pub(super) fn install_metrics() -> Result<(), Failure> {
    telemetry::recorder::install()
        .map_err(|error| Failure::failed(format!("cannot count anything: {error}")))?;
    telemetry::set_build_info(env!("CARGO_PKG_VERSION"));
    Ok(())
}

/// Listens, or says how to listen elsewhere.
pub(super) async fn listen(address: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::usage(format!(
            "cannot listen on {address}: {error}. Name another address with --listen, such as 127.0.0.1:0 for a \
             free port"
        ))
    })
}

#[cfg(test)]
mod tests;
