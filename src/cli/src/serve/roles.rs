//! Where the roles are started: each from the one configuration, with settings of its own. The only file
//! that changes when a role's entry point does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tollgate_bus::Bus;
use tollgate_config::{Provider, ProviderKind, Settings};
use tollgate_policy::hot::Hot;
use tollgate_policy::retention::Retention;
use tollgate_telemetry::Role;
use tollgate_workers::codec::Codec;
use tollgate_workers::openai::OpenAi;

use super::role_failure;
use crate::failure::Failure;

/// What every role gets.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) bus: Bus,
    pub(super) settings: Settings,
    /// What of them may change.
    pub(super) hot: watch::Receiver<Arc<Hot>>,
    /// The data folder; only the ledger keeps something in it.
    pub(super) data: PathBuf,
    pub(super) stop: CancellationToken,
}

/// Runs a role until `stop`, and until it has drained. Calls `ready` once it is at work.
pub(super) async fn run(role: Role, context: Context, ready: impl FnOnce() + Send) -> Result<(), Failure> {
    let Context { bus, settings, hot, data, stop } = context;
    match role {
        Role::Router => tollgate_router::run(bus, router(&settings, hot), ready, stop)
            .await
            .map_err(|error| role_failure::router(&error)),
        Role::Worker => tollgate_workers::run(bus, worker(&settings, hot), ready, stop)
            .await
            .map_err(|error| role_failure::worker(&error)),
        Role::Ask => tollgate_ask::run(bus, ask(&settings), ready, stop)
            .await
            .map_err(|error| role_failure::ask(&error)),
        Role::Ledger => {
            let own = tollgate_ledger::Settings { hot, ..tollgate_ledger::Settings::default() };
            tollgate_ledger::run(bus, own, &data, stop, ready)
                .await
                .map_err(|error| role_failure::ledger(&error))
        }
    }
}

fn router(settings: &Settings, hot: watch::Receiver<Arc<Hot>>) -> tollgate_router::Settings {
    tollgate_router::Settings {
        hot,
        shares: settings.shares,
        ttl_ms: settings.timing.ttl_ms,
        ack_wait: Duration::from_millis(settings.timing.ack_wait_ms),
        lease: Duration::from_millis(settings.timing.lease_ms),
        drain: Duration::from_millis(settings.timing.drain_ms),
        retention: retention(settings),
    }
}

fn worker(settings: &Settings, hot: watch::Receiver<Arc<Hot>>) -> tollgate_workers::Settings {
    tollgate_workers::Settings {
        hot,
        providers: settings.providers.iter().map(|(name, provider)| shop(name, provider)).collect(),
        ack_wait: Duration::from_millis(settings.timing.ack_wait_ms),
        lease: Duration::from_millis(settings.timing.lease_ms),
        drain: Duration::from_millis(settings.timing.drain_ms),
        retention: retention(settings),
        rules: settings.retry,
    }
}

fn shop(name: &str, provider: &Provider) -> tollgate_workers::Provider {
    let codec: Arc<dyn Codec> = match provider.kind {
        ProviderKind::OpenAi | ProviderKind::Compatible | ProviderKind::Simulator(_) => Arc::new(OpenAi),
    };
    tollgate_workers::Provider {
        name: name.to_owned(),
        codec,
        // A simulator's address was filled in when it was started.
        base_url: provider.base_url.clone().unwrap_or_default(),
        api_keys: provider.api_keys.iter().map(|key| key.expose().to_owned()).collect(),
        max_in_flight: provider.max_in_flight,
        timeouts: tollgate_workers::Timeouts {
            connect: Duration::from_millis(provider.timeouts.connect_ms),
            first_byte: Duration::from_millis(provider.timeouts.first_byte_ms),
            idle: Duration::from_millis(provider.timeouts.idle_ms),
            total: Duration::from_millis(provider.timeouts.total_ms),
        },
    }
}

fn ask(settings: &Settings) -> tollgate_ask::Settings {
    tollgate_ask::Settings {
        timeout: Duration::from_millis(settings.timing.ask_timeout_ms),
        drain: Duration::from_millis(settings.timing.drain_ms),
    }
}

fn retention(settings: &Settings) -> Retention {
    Retention {
        response_ms: settings.retention.response_ms,
        after_deadline_ms: settings.retention.record_after_deadline_ms,
    }
}
