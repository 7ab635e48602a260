//! The simulator: an OpenAI-compatible provider inside the binary.
//!
//! Demos, benchmarks and first steps need a provider that costs nothing and is always there. It speaks HTTP
//! on a socket like any other, so the path that is shown and measured is the path that runs in production.
//!
//! | path | what it does |
//! |---|---|
//! | `POST /v1/chat/completions` | an answer, whole or as a stream; [`tokenizer`] says what it costs |
//! | `POST /v1/embeddings` | unit vectors in which words in common mean nearness |
//! | `GET /v1/models` | what is served |
//! | `GET /healthz` | 200 while the process lives, also during a simulated outage |
//! | `POST /__sim/outage` | `{"seconds": 30, "status": 503}`: every call fails so long; 0 seconds end it |
//! | `GET`, `POST /__sim/settings` | shows the behaviour; changes what a [`Change`] names |
//! | `GET /__sim/stats` | what was done so far: [`Stats`] |
//!
//! **The control paths (`/__sim/…`) ask for no key.** They are tools for tests and demos: only callers from
//! this machine may use them unless [`Control::Anywhere`] is set, and the simulator should not listen on an
//! open network.
//!
//! Everything is repeatable: an answer is a function of the request, and whether the k-th call fails is a
//! function of the seed, k and the rate. Deciding and writing are pure; `server` alone knows of sockets and
//! time.

mod answer;
mod chance;
mod control;
mod decide;
mod embeddings;
mod endpoints;
mod fields;
mod problem;
mod reply;
mod request;
mod server;
mod settings;
mod stats;
mod stream;
pub mod tokenizer;
mod words;

#[cfg(test)]
mod tests;

pub use self::settings::{ApiKey, Change, Control, Failures, FailuresChange, Settings};
pub use self::stats::Stats;

use self::stats::Counters;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long calls that are under way may go on after a stop.
const GRACE: Duration = Duration::from_secs(5);
/// The longest outage that can be asked for.
const OUTAGE_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What the simulator cannot do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting makes no sense; the text names it and says what is expected.
    #[error("invalid simulator setting {0}")]
    Settings(&'static str),
    /// The listener failed.
    #[error("the simulator cannot serve")]
    Serve(#[source] std::io::Error),
}

/// A simulated provider. Clones are the same simulator, so one of them can serve and another look on.
#[derive(Clone)]
pub struct Simulator(Arc<Shared>);

struct Shared {
    settings: RwLock<Arc<Settings>>,
    outage: Mutex<Option<Outage>>,
    counters: Arc<Counters>,
    /// How many requests of any kind were answered, for their ids.
    requests: AtomicU64,
}

#[derive(Clone, Copy)]
struct Outage {
    until: Instant,
    status: u16,
}

/// Serves until `stop`; calls that are under way then have a few seconds to end.
///
/// # Errors
/// [`Error::Settings`] if the settings make no sense, [`Error::Serve`] if the listener fails.
pub async fn serve(listener: TcpListener, settings: Settings, stop: CancellationToken) -> Result<(), Error> {
    Simulator::new(settings)?.serve(listener, stop).await
}

impl Simulator {
    /// A simulator that serves nobody yet.
    ///
    /// # Errors
    /// [`Error::Settings`] if the settings make no sense.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        settings.check()?;
        Ok(Self(Arc::new(Shared {
            settings: RwLock::new(Arc::new(settings)),
            outage: Mutex::new(None),
            counters: Arc::new(Counters::new()),
            requests: AtomicU64::new(0),
        })))
    }

    /// See [`serve`].
    ///
    /// # Errors
    /// [`Error::Serve`] if the listener fails.
    pub async fn serve(&self, listener: TcpListener, stop: CancellationToken) -> Result<(), Error> {
        server::serve(self.clone(), listener, stop, GRACE).await
    }

    /// Lets every call fail with `status` for a time; no time ends an outage.
    ///
    /// # Errors
    /// [`Error::Settings`] if the status is no failure or the time is longer than 30 days.
    pub fn outage(&self, lasts: Duration, status: u16) -> Result<(), Error> {
        if !settings::FAILURE_STATUSES.contains(&status) {
            return Err(Error::Settings("status: a status from 400 to 599 is expected"));
        }
        if lasts > OUTAGE_MAX {
            return Err(Error::Settings("seconds: at most 30 days are expected"));
        }
        let outage = (!lasts.is_zero()).then(|| Outage { until: Instant::now() + lasts, status });
        *self.0.outage.lock().unwrap_or_else(PoisonError::into_inner) = outage;
        Ok(())
    }

    /// Changes the behaviour for all calls that arrive from now on.
    ///
    /// # Errors
    /// [`Error::Settings`] if the change makes no sense; nothing is changed then.
    pub fn change(&self, change: &Change) -> Result<(), Error> {
        let mut settings = self.0.settings.write().unwrap_or_else(PoisonError::into_inner);
        *settings = Arc::new(settings.with(change)?);
        Ok(())
    }

    /// How it behaves now.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.0.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What it did so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.counters.stats()
    }

    /// The status of the outage that is on at a time.
    fn outage_at(&self, now: Instant) -> Option<u16> {
        let outage = *self.0.outage.lock().unwrap_or_else(PoisonError::into_inner);
        outage.filter(|outage| now < outage.until).map(|outage| outage.status)
    }
}
