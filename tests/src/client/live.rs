//! Responses as they come in, counted by what was stored.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use tokio_util::task::AbortOnDropHandle;

use super::{Client, Stored};
use crate::request::Identity;
use crate::wait::eventually;

/// A busy machine may not answer the first time.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// The responses of a team since [`Client::watch`]. Core NATS: what is sent while the server is down is missed, so
/// whoever waits through a crash asks [`Client::response`] as well.
#[derive(Debug)]
pub struct Live {
    seen: Arc<Mutex<BTreeMap<String, Vec<Stored>>>>,
    // Ends with this value.
    _receiver: AbortOnDropHandle<()>,
}

impl Live {
    pub(super) async fn subscribe(client: &Client, subject: &str) -> Self {
        let mut messages = client.nats.subscribe(subject.to_owned()).await.expect("a subscription is taken");
        // An answered request on the same connection proves that the server knows of the subscription before it.
        eventually(ANSWER_WITHIN, "JetStream to answer", async || {
            client.jetstream.query_account().await.map(|_| ()).map_err(|error| error.to_string())
        })
        .await;
        let seen = Arc::new(Mutex::new(BTreeMap::<String, Vec<Stored>>::new()));
        let entering = seen.clone();
        let receiver = tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                let stored = Stored::from_republished(message);
                let mut seen = entering.lock().unwrap_or_else(PoisonError::into_inner);
                seen.entry(stored.subject.clone()).or_default().push(stored);
            }
        });
        Self { seen, _receiver: AbortOnDropHandle::new(receiver) }
    }

    /// How many different requests have a response.
    pub fn answered(&self) -> usize {
        self.seen().len()
    }

    /// The first response to a request that came.
    pub fn response(&self, identity: &Identity) -> Option<Stored> {
        self.seen().get(&identity.response_subject())?.first().cloned()
    }

    /// Every response that came, in the order of subjects and then of arrival, doubles included.
    pub fn all(&self) -> Vec<Stored> {
        self.seen().values().flatten().cloned().collect()
    }

    /// How many responses came beyond the first of their request. Each of them is a broken promise.
    pub fn duplicates(&self) -> usize {
        self.seen().values().map(|responses| responses.len() - 1).sum()
    }

    /// Requests for which more than one response was stored, with the sequences: that one stored response was passed on
    /// twice is left aside.
    pub fn stored_twice(&self) -> Vec<(String, Vec<u64>)> {
        let mut twice = Vec::new();
        for (subject, responses) in self.seen().iter() {
            let mut sequences: Vec<_> = responses.iter().map(|response| response.sequence).collect();
            sequences.dedup();
            if sequences.len() > 1 {
                twice.push((subject.clone(), sequences));
            }
        }
        twice
    }

    /// Waits until so many different requests have a response.
    ///
    /// # Panics
    /// At the deadline, with how many have one.
    pub async fn await_answered(&self, count: usize, deadline: Duration) {
        eventually(deadline, &format!("{count} responses"), async || match self.answered() {
            answered if answered >= count => Ok(()),
            answered => Err(answered),
        })
        .await;
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Stored>>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
