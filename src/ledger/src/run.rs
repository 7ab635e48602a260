//! The ledger's shell: follows the usage stream, publishes the events of requests that no attempt ended,
//! and answers queries. Every choice is made in the pure modules.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tollgate_bus::Bus;
use tollgate_policy::hot::Hot;

use crate::store::sled::SledStore;
use crate::{Caps, Error, Home, Ledger};

mod alert;
mod entries;
pub(crate) mod follow;
mod forget;
pub(crate) mod lease;
pub(crate) mod open;
mod service;
pub(crate) mod settle;
pub mod standing;
mod tell;
mod unpaid;

#[cfg(test)]
mod server_tests;

/// What the ledger can be told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Most rows per team and hour.
    pub caps: Caps,
    /// The budgets that are settled, now and from now on.
    pub hot: watch::Receiver<Arc<Hot>>,
}

/// Without budgets.
impl Default for Settings {
    fn default() -> Self {
        Self { caps: Caps::default(), hot: watch::channel(Arc::default()).1 }
    }
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
    let (data, caps) = (data.to_owned(), settings.caps);
    let (_home, ledger) = in_background(move || {
        let home = Home::claim(&data)?;
        let folder = home.folder();
        let store = SledStore::open(&folder)?;
        Ok((home, Arc::new(Ledger::open(Box::new(store), &folder, caps)?)))
    })
    .await?;

    let stop = stop.child_token();
    let outcome = Box::pin(serve(&bus, &ledger, settings.hot, &stop, ready)).await;
    stop.cancel();
    let flushed = in_background(move || Ok(ledger.flush()?)).await;
    outcome.and(flushed)
}

async fn serve(
    bus: &Bus,
    ledger: &Arc<Ledger>,
    hot: watch::Receiver<Arc<Hot>>,
    stop: &CancellationToken,
    ready: impl FnOnce() + Send,
) -> Result<(), Error> {
    let Some(()) = follow::first_look(bus, ledger, stop).await? else { return Ok(()) };
    let budgets = hot.borrow().budgets.clone();
    let book = settle::open(ledger, budgets).await?;
    let queries = service::Queries::start(bus, ledger, &book).await?;
    ready();
    let follow = async {
        let outcome = follow::follow(bus, ledger, follow::Until::Stopped, stop).await;
        // It ends on its own only when it cannot go on; then nothing else should.
        stop.cancel();
        outcome
    };
    let settle = async {
        let outcome = Box::pin(settle::run(bus, &book, hot, stop)).await;
        if outcome.is_err() {
            stop.cancel();
        }
        outcome
    };
    let (outcome, settled, (), ()) =
        tokio::join!(follow, settle, unpaid::publish(bus, stop), queries.answer(stop));
    outcome.map(drop).and(settled)
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
