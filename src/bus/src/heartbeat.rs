//! Tells the server that a message is still being worked on, so that it is not given to somebody else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

/// Every message in this process's hands, by the subject its acknowledgement goes to.
#[derive(Clone, Debug, Default)]
pub struct Heartbeats {
    held: Arc<Mutex<HashMap<u64, async_nats::Subject>>>,
    next: Arc<std::sync::atomic::AtomicU64>,
}

/// Keeps one message alive until dropped.
#[derive(Debug)]
pub struct Beat {
    key: u64,
    held: Arc<Mutex<HashMap<u64, async_nats::Subject>>>,
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl Heartbeats {
    /// Keeps a message alive until the returned guard is dropped.
    pub fn hold(&self, ack_subject: async_nats::Subject) -> Beat {
        let key = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(key, ack_subject);
        Beat { key, held: Arc::clone(&self.held) }
    }

    /// How many messages are in hand.
    pub fn count(&self) -> usize {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Sends a heartbeat for each message every third of `ack_wait`, until `stop`.
    pub async fn run(&self, client: Client, ack_wait: Duration, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(ack_wait / 3);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let held = || self.held.lock().unwrap_or_else(PoisonError::into_inner);
            let keys: Vec<u64> = held().keys().copied().collect();
            for key in keys {
                // It may have been let go of since.
                let Some(subject) = held().get(&key).cloned() else { continue };
                if let Err(error) = client.publish(subject, Bytes::from_static(b"+WPI")).await {
                    tracing::debug!(%error, "heartbeat was not sent");
                    break;
                }
            }
        }
    }
}
