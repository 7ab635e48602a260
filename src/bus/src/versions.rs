//! A value of which the last versions are kept, and which every process follows.

use std::time::Duration;

use async_nats::jetstream::kv::{Entry, Operation};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use tokio_util::sync::CancellationToken;
use tollgate_protocol::{Sequence, Timestamp};

use crate::Bus;

/// How long the bucket may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// How soon a watch that broke is begun again.
const WATCH_AGAIN: Duration = Duration::from_millis(200);

/// A version of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its number.
    pub revision: Sequence,
    /// The value; `None` where it was deleted.
    pub value: Option<Bytes>,
    /// When it was stored, by the server's clock.
    pub stored_at: Timestamp,
}

impl From<Entry> for Version {
    fn from(entry: Entry) -> Self {
        Self {
            revision: entry.revision,
            value: (entry.operation == Operation::Put).then_some(entry.value),
            stored_at: entry.created,
        }
    }
}

impl Bus {
    /// A version of a value: this one, or the last.
    pub async fn version(
        &self,
        bucket: &str,
        key: &str,
        revision: Option<Sequence>,
    ) -> Result<Option<Version>, String> {
        let reading = async {
            let store = self.bucket(bucket).await?;
            let entry = match revision {
                Some(revision) => store.entry_for_revision(key, revision).await,
                None => store.entry(key).await,
            };
            entry.map(|entry| entry.map(Version::from)).map_err(|error| error.to_string())
        };
        tokio::time::timeout(ANSWER_WAIT, reading).await.unwrap_or_else(|_| Err("no answer".into()))
    }

    /// All versions that are kept, the oldest first.
    pub async fn versions(&self, bucket: &str, key: &str) -> Result<Vec<Version>, String> {
        let reading = async {
            let store = self.bucket(bucket).await?;
            let entries = store.history(key).await.map_err(|error| error.to_string())?;
            entries.map_ok(Version::from).try_collect().await.map_err(|error| error.to_string())
        };
        tokio::time::timeout(ANSWER_WAIT, reading).await.unwrap_or_else(|_| Err("no answer".into()))
    }

    /// Tells of the last version, and of every one that comes, until `stop`. One may be told of again.
    pub async fn follow(
        &self,
        bucket: &str,
        key: &str,
        stop: &CancellationToken,
        mut tell: impl FnMut(Version),
    ) {
        loop {
            let watched = tokio::select! {
                () = stop.cancelled() => return,
                watched = self.watch(bucket, key, &mut tell) => watched,
            };
            if let Err(error) = watched {
                tracing::debug!(error, bucket, key, "a value cannot be followed, trying again");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(WATCH_AGAIN) => {}
            }
        }
    }

    async fn watch(&self, bucket: &str, key: &str, tell: &mut impl FnMut(Version)) -> Result<(), String> {
        let disconnections = self.connection().health().disconnections;
        let store = self.bucket(bucket).await?;
        let mut entries = store.watch_with_history(key).await.map_err(|error| error.to_string())?;
        loop {
            let entry = tokio::select! {
                entry = entries.next() => entry,
                // A server that was restarted may have forgotten that somebody watches.
                () = self.connection().reconnected_since(disconnections) => return Ok(()),
            };
            let Some(entry) = entry else { return Ok(()) };
            tell(entry.map_err(|error| error.to_string())?.into());
        }
    }
}
