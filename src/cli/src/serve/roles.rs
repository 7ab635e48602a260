//! Where the roles are started: each from the one configuration, with settings of its own. The only file
//! that changes when a role's entry point does.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;
use tollgate_bus::Bus;
use tollgate_config::Settings;
use tollgate_telemetry::Role;

use crate::failure::Failure;

/// What every role gets.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) bus: Bus,
    pub(super) settings: Settings,
    /// The data folder; only the ledger keeps something in it.
    pub(super) data: PathBuf,
    pub(super) stop: CancellationToken,
}

/// Runs a role until `stop`, and until it has drained. Calls `ready` once it is at work.
pub(super) async fn run(role: Role, context: Context, ready: impl FnOnce() + Send) -> Result<(), Failure> {
    match role {
        Role::Router | Role::Worker | Role::Ledger | Role::Ask => idle(role, context, ready).await,
    }
}

/// Stands in for a role that is not part of this build yet.
async fn idle(role: Role, context: Context, ready: impl FnOnce() + Send) -> Result<(), Failure> {
    tracing::warn!(role = role.as_str(), data = %context.data.display(), "this role is not part of this build");
    let _ = (&context.bus, &context.settings);
    ready();
    context.stop.cancelled().await;
    Ok(())
}
