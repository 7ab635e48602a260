//! The ledger's shell: follows the usage stream, publishes the events of requests that no attempt ended,
//! and answers queries. Every choice is made in the pure modules.

use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tollgate_bus::Bus;

use crate::store::sled::SledStore;
use crate::{Caps, Error, Home, Ledger};

pub(crate) mod follow;
mod service;
pub mod standing;
mod unpaid;

#[cfg(test)]
mod server_tests;

/// What the ledger can be told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Most rows per team and hour.
    pub caps: Caps,
}

/// Runs the ledger of the data folder `data` until `stop`, or until it cannot go on. `ready` is called
/// once, when the usage stream was found to be the right one and queries are answered. The streams must
/// exist.
///
/// Losing the server, a consumer or the connection only delays it. When it returns, everything that was
/// folded is on the disk and no task of it is left.
pub async fn run(
    bus: Bus,
    settings: Settings,
    data: &Path,
    stop: CancellationToken,
    ready: impl FnOnce() + Send,
) -> Result<(), Error> {
    let data = data.to_owned();
    let (_home, ledger) = in_background(move || {
        let home = Home::claim(&data)?;
        let folder = home.folder();
        let store = SledStore::open(&folder)?;
        Ok((home, Arc::new(Ledger::open(Box::new(store), &folder, settings.caps)?)))
    })
    .await?;

    let stop = stop.child_token();
    let outcome = Box::pin(serve(&bus, &ledger, &stop, ready)).await;
    stop.cancel();
    let flushed = in_background(move || Ok(ledger.flush()?)).await;
    outcome.and(flushed)
}

async fn serve(
    bus: &Bus,
    ledger: &Arc<Ledger>,
    stop: &CancellationToken,
    ready: impl FnOnce() + Send,
) -> Result<(), Error> {
    let Some(()) = follow::first_look(bus, ledger, stop).await? else { return Ok(()) };
    let queries = service::Queries::start(bus, ledger).await?;
    ready();
    let follow = async {
        let outcome = follow::follow(bus, ledger, follow::Until::Stopped, stop).await;
        // It ends on its own only when it cannot go on; then nothing else should.
        stop.cancel();
        outcome
    };
    let (outcome, (), ()) = tokio::join!(follow, unpaid::publish(bus, stop), queries.answer(stop));
    outcome.map(drop)
}

/// Does blocking work off the async threads.
pub(crate) async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Blocking tasks are cancelled only when the runtime is going away.
            Err(_) => Err(Error::Interrupted),
        },
    }
}
