//! Who else of a role is there, over core NATS: enough to share work that nothing depends on being done by one alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::Bus;

/// How often a process says that it is there.
const EVERY: Duration = Duration::from_millis(500);
/// How long it counts as there without a word.
const SILENT_MAX: Duration = Duration::from_secs(3);
/// What it says when it goes.
const BYE: &[u8] = b"bye";

/// The live processes of a role, this one among them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Presence {
    role: &'static str,
    process: Arc<str>,
    seen: Arc<Mutex<HashMap<String, Instant>>>,
}

impl Presence {
    /// A process of this role, under a name of its own.
    pub fn new(role: &'static str, process: &str) -> Self {
        Self { role, process: process.into(), seen: Arc::default() }
    }

    /// This process's name.
    pub fn process(&self) -> &str {
        &self.process
    }

    /// The names of all that are there.
    pub fn live(&self) -> Vec<String> {
        let mut live: Vec<String> = self
            .seen()
            .iter()
            .filter(|(_, heard)| heard.elapsed() < SILENT_MAX)
            .map(|(name, _)| name.clone())
            .collect();
        if !live.iter().any(|name| **name == *self.process) {
            live.push(self.process.to_string());
        }
        live
    }

    /// Says that this process is there, and hears of the others, until `stop`; then says that it goes.
    pub async fn run(&self, bus: &Bus, stop: CancellationToken) {
        let all = bus.subjects().presence(self.role, "*");
        let own = bus.subjects().presence(self.role, &self.process);
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // The client library subscribes again by itself after a reconnect.
            let Ok(mut heard) = bus.client().subscribe(all.clone()).await else {
                tracing::error!(subject = all, "cannot hear of other processes");
                return;
            };
            loop {
                tokio::select! {
                    () = stop.cancelled() => {
                        let bye = bus.client().publish(own, Bytes::from_static(BYE)).await;
                        if let Err(error) = bye {
                            tracing::debug!(%error, "others were not told that this process goes");
                        }
                        return;
                    }
                    _ = ticks.tick() => {
                        if let Err(error) = bus.client().publish(own.clone(), Bytes::new()).await {
                            tracing::debug!(%error, "others were not told that this process is there");
                        }
                    }
                    message = heard.next() => match message {
                        Some(message) => self.note(&message),
                        None => break,
                    },
                }
            }
        }
    }

    fn note(&self, message: &async_nats::Message) {
        let Some((_, name)) = message.subject.rsplit_once('.') else { return };
        let mut seen = self.seen();
        if message.payload == BYE {
            seen.remove(name);
        } else {
            seen.insert(name.to_owned(), Instant::now());
        }
        seen.retain(|_, heard| heard.elapsed() < SILENT_MAX * 10);
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
