//! Bodies that are too large to be carried along: put aside once, and fetched by whoever makes the call.

use std::time::Duration;

use async_nats::jetstream::object_store::{Config, InfoErrorKind, ObjectStore};
use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tollgate_protocol::job::{BodyRef, Job};

use crate::Bus;

/// A body of more bytes is put aside. Every retry, fallback and wait would write it again.
pub const INLINE_BYTES_MAX: usize = 512 * 1024;
/// Longer than any request can take: nobody else removes what is put aside.
const MAX_AGE: Duration = Duration::from_secs(8 * 24 * 60 * 60);
/// How long the store may take for one body.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

impl Bus {
    /// Creates the bucket, if it is not there.
    pub async fn ensure_blobs(&self, replicas: usize) -> Result<(), String> {
        let config = Config {
            bucket: self.blob_bucket(),
            description: Some("bodies too large to be carried along".into()),
            max_age: MAX_AGE,
            num_replicas: replicas,
            ..Config::default()
        };
        match self.jetstream().create_object_store(config).await {
            Ok(_) => Ok(()),
            // It is there, perhaps with settings of an older version.
            Err(error) => self.blobs().await.map(|_| ()).map_err(|_| error.to_string()),
        }
    }

    /// Puts the body of a request aside. Doing it twice stores it once.
    pub async fn put_aside(&self, job: &mut Job) -> Result<(), String> {
        let object = format!("{}/{}", job.identity, job.sequence);
        let storing = async {
            let store = self.blobs().await?;
            match store.info(&object).await {
                Ok(found) if found.size == job.body.len() => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == InfoErrorKind::NotFound => {}
                Err(error) => return Err(error.to_string()),
            }
            let stored = store.put(object.as_str(), &mut &job.body[..]).await;
            stored.map(|_| ()).map_err(|error| error.to_string())
        };
        within(storing).await?;
        job.body_ref = Some(BodyRef { object, bytes: job.body.len() });
        job.body = Bytes::new();
        Ok(())
    }

    /// Fetches a body that was put aside. `None`: it is gone.
    pub async fn fetch(&self, body: &BodyRef) -> Result<Option<Bytes>, String> {
        let fetching = async {
            let store = self.blobs().await?;
            match store.info(&body.object).await {
                Ok(_) => {}
                Err(error) if error.kind() == InfoErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error.to_string()),
            }
            let mut object = store.get(&body.object).await.map_err(|error| error.to_string())?;
            let mut bytes = BytesMut::with_capacity(body.bytes);
            // The store checks its own digest at the end.
            while object.read_buf(&mut bytes).await.map_err(|error| error.to_string())? > 0 {}
            if bytes.len() == body.bytes {
                Ok(Some(bytes.freeze()))
            } else {
                Err(format!("{} bytes instead of {}", bytes.len(), body.bytes))
            }
        };
        within(fetching).await
    }

    fn blob_bucket(&self) -> String {
        format!("{}_blobs", self.subjects().prefix())
    }

    async fn blobs(&self) -> Result<ObjectStore, String> {
        self.jetstream().get_object_store(self.blob_bucket()).await.map_err(|error| error.to_string())
    }
}

async fn within<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(ANSWER_WAIT, work).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}
