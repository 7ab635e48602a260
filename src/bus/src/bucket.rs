//! Key-value buckets that our parts share: made if absent, read, and swapped by revision.

use std::time::Duration;

use async_nats::jetstream::kv::{self, Operation, Store, UpdateErrorKind};
use bytes::Bytes;
use tollgate_protocol::Sequence;
use tollgate_protocol::record::Source;

use crate::Bus;
use crate::publish::PublishError;
use crate::retry::Patience;

/// What is spent of each budget.
pub const SPENT: &str = "spent";
/// What was told of each budget's window.
pub const ALERTS: &str = "alerts";
/// Which process does what only one may do.
pub const LEASE: &str = "lease";

/// Which teams, budgets, models and prices are in force, with the versions before.
pub const CONFIG: &str = "config";

/// How long a bucket may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// What a swap came to.
#[derive(Debug)]
pub enum Swapped {
    /// It is written, at this revision.
    Written(Sequence),
    /// Another value is there.
    Other(Bytes, Sequence),
    /// None is there; the revision of the mark of its deletion, or 0.
    Gone(Sequence),
}

impl Bus {
    /// Creates the bucket, if it is not there; it keeps so many values of each key.
    pub async fn ensure_bucket(
        &self,
        name: &str,
        description: &str,
        history: i64,
        replicas: usize,
    ) -> Result<(), String> {
        let config = kv::Config {
            bucket: self.bucket_name(name),
            description: description.into(),
            history,
            num_replicas: replicas,
            ..kv::Config::default()
        };
        match self.jetstream().create_key_value(config).await {
            Ok(_) => Ok(()),
            // It is there, perhaps with settings of an older version.
            Err(error) => self.bucket(name).await.map(|_| ()).map_err(|_| error.to_string()),
        }
    }

    /// The bucket.
    pub async fn bucket(&self, name: &str) -> Result<Store, String> {
        self.jetstream().get_key_value(self.bucket_name(name)).await.map_err(|error| error.to_string())
    }

    /// Writes a value, expecting the revision of the one before it; 0 if there is none.
    pub async fn swap(
        &self,
        bucket: &str,
        key: &str,
        value: Bytes,
        revision: Sequence,
    ) -> Result<Swapped, String> {
        let swapping = async {
            let store = self.bucket(bucket).await?;
            match store.update(key, value, revision).await {
                Ok(revision) => Ok(Swapped::Written(revision)),
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {
                    self.current(bucket, key).await
                }
                Err(error) => Err(error.to_string()),
            }
        };
        tokio::time::timeout(ANSWER_WAIT, swapping).await.unwrap_or_else(|_| Err("no answer".into()))
    }

    /// A value and its revision. `Gone`: none is there.
    pub async fn current(&self, bucket: &str, key: &str) -> Result<Swapped, String> {
        let reading = async {
            let entry = self.bucket(bucket).await?.entry(key).await.map_err(|error| error.to_string())?;
            Ok(match entry {
                Some(entry) if entry.operation == Operation::Put => {
                    Swapped::Other(entry.value, entry.revision)
                }
                Some(entry) => Swapped::Gone(entry.revision),
                None => Swapped::Gone(0),
            })
        };
        tokio::time::timeout(ANSWER_WAIT, reading).await.unwrap_or_else(|_| Err("no answer".into()))
    }

    /// Removes all that a bucket has of a key, the mark of its deletion too: who watches from then on hears nothing of it.
    pub async fn erase(&self, bucket: &str, key: &str) -> Result<(), String> {
        let bucket = self.bucket_name(bucket);
        let stream = self.jetstream().get_stream_no_info(format!("KV_{bucket}")).await;
        let purge = stream.map_err(|error| error.to_string())?.purge().filter(format!("$KV.{bucket}.{key}"));
        purge.await.map(|_| ()).map_err(|error| error.to_string())
    }

    /// Whether the server's store takes anything now: stores a key, and removes it.
    pub async fn has_room(&self, patience: Patience) -> Result<(), PublishError> {
        let bucket = self.bucket_name(LEASE);
        let subject = format!("$KV.{bucket}.room");
        let stored = self.offer(&subject, async_nats::HeaderMap::new(), None, Bytes::new(), patience).await?;
        let source = Source { stream: format!("KV_{bucket}"), sequence: stored.sequence };
        if let Err(error) = self.remove(&source).await {
            tracing::debug!(%error, "what was stored to see whether there is room stays");
        }
        Ok(())
    }

    fn bucket_name(&self, name: &str) -> String {
        format!("{}_{name}", self.subjects().prefix())
    }
}
