//! The bucket: its documents, and compare-and-swap of one.

use std::time::Duration;

use async_nats::jetstream::kv::{self, Operation, Store, UpdateErrorKind};
use serde::{Serialize, de::DeserializeOwned};
use tollgate_bus::Bus;
use tollgate_protocol::{Digest, Sequence};

use crate::Health;

/// How long the bucket may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// What a swap came to.
pub(crate) enum Swapped {
    Written(Sequence),
    /// Another document is there.
    Other(bytes::Bytes, Sequence),
    /// None is there any more; the mark of its deletion is.
    Gone(Sequence),
    Failed,
}

impl Health {
    /// Writes a document, expecting its revision.
    pub(crate) async fn swap<T: Serialize>(&self, key: &str, next: &T, revision: Sequence) -> Swapped {
        let Ok(value) = serde_json::to_vec(next) else { return Swapped::Failed };
        let swapping = async {
            let store = store(&self.bus).await?;
            match store.update(key, value.into(), revision).await {
                Ok(revision) => Ok(Swapped::Written(revision)),
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {
                    let entry = store.entry(key).await.map_err(|error| error.to_string())?;
                    Ok(match entry {
                        Some(entry) if entry.operation == Operation::Put => {
                            Swapped::Other(entry.value, entry.revision)
                        }
                        Some(entry) => Swapped::Gone(entry.revision),
                        None => Swapped::Gone(0),
                    })
                }
                Err(error) => Err(error.to_string()),
            }
        };
        match tokio::time::timeout(ANSWER_WAIT, swapping).await {
            Ok(Ok(swapped)) => swapped,
            Ok(Err(error)) => {
                tracing::warn!(error, key, "the shared health cannot be changed");
                Swapped::Failed
            }
            Err(_) => {
                tracing::warn!(key, "the shared health cannot be changed: no answer");
                Swapped::Failed
            }
        }
    }
}

/// Creates the bucket, if it is not there.
pub async fn ensure(bus: &Bus, replicas: usize) -> Result<(), String> {
    let config = kv::Config {
        bucket: bucket(bus),
        description: "whether targets can be called".into(),
        history: 1,
        num_replicas: replicas,
        ..kv::Config::default()
    };
    match bus.jetstream().create_key_value(config).await {
        Ok(_) => Ok(()),
        // It is there, perhaps with settings of an older version.
        Err(error) => match bus.jetstream().get_key_value(bucket(bus)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(error.to_string()),
        },
    }
}

fn bucket(bus: &Bus) -> String {
    format!("{}_health", bus.subjects().prefix())
}

pub(crate) async fn store(bus: &Bus) -> Result<Store, String> {
    bus.jetstream().get_key_value(bucket(bus)).await.map_err(|error| error.to_string())
}

pub(crate) fn target_key(provider: &str, model: &str) -> String {
    let digest = Digest::of(model.as_bytes()).to_string();
    format!("target.{provider}.{}", digest.get(..16).unwrap_or_default())
}

pub(crate) fn read<T: DeserializeOwned>(key: &str, value: &[u8]) -> Option<T> {
    serde_json::from_slice(value)
        .inspect_err(|error| tracing::warn!(%error, key, "a health document cannot be read"))
        .ok()
}
