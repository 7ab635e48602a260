//! Looking at what is stored without taking it, and removing it without having been given it: how the routers'
//! index works on what no consumer delivers now.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, RawMessageErrorKind};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use tollgate_protocol::record::Source;
use tollgate_protocol::{Sequence, Timestamp};

use crate::publish::ReplyError;
use crate::{Bus, HeaderView};

/// How long the next message of a batch may take.
const MESSAGE_WAIT: Duration = Duration::from_secs(5);
/// Status of the message that ends a batch.
const END_OF_BATCH: u16 = 204;
/// Status of a batch that would be empty.
const NOTHING: u16 = 404;
/// JetStream's error for a sequence that holds no message (any more).
const NO_MESSAGE: u64 = 10_037;
/// The same, from a removal.
const NOT_REMOVED: u64 = 10_057;

/// A stored message.
pub struct Stored {
    /// Where it is stored.
    pub subject: String,
    /// Which one it is.
    pub source: Source,
    /// When it was stored.
    pub stored_at: Timestamp,
    /// Its headers, and those that the server adds.
    pub headers: HeaderMap,
    /// Its bytes.
    pub payload: Bytes,
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the payload: it may be a prompt.
        f.debug_struct("Stored").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Stored {
    /// Its headers, as the protocol reads them.
    pub fn header_view(&self) -> HeaderView<'_> {
        HeaderView(Some(&self.headers))
    }
}

/// The server did not answer as it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ScanError(String);

impl ScanError {
    pub(crate) fn of(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    success: bool,
    error: Option<ReplyError>,
}

impl Bus {
    /// The next messages on `filter` from the sequence `from` on, oldest first; at most `batch`, and no further one
    /// once there are `bytes_max`. Any replica answers, so the newest may still be missing.
    pub async fn scan(
        &self,
        stream: &str,
        filter: &str,
        from: Sequence,
        batch: usize,
        bytes_max: usize,
    ) -> Result<Vec<Stored>, ScanError> {
        let begin = serde_json::json!({"seq": from.max(1)});
        self.scan_from(stream, filter, begin, batch, bytes_max).await
    }

    /// The same from a time on.
    pub async fn scan_since(
        &self,
        stream: &str,
        filter: &str,
        since: Timestamp,
        batch: usize,
        bytes_max: usize,
    ) -> Result<Vec<Stored>, ScanError> {
        let begin = serde_json::json!({"start_time": since});
        self.scan_from(stream, filter, begin, batch, bytes_max).await
    }

    async fn scan_from(
        &self,
        stream: &str,
        filter: &str,
        begin: serde_json::Value,
        batch: usize,
        bytes_max: usize,
    ) -> Result<Vec<Stored>, ScanError> {
        let client = self.client();
        let inbox = client.new_inbox();
        let mut replies = client.subscribe(inbox.clone()).await.map_err(ScanError::of)?;
        let mut ask = serde_json::json!({"next_by_subj": filter, "batch": batch, "max_bytes": bytes_max});
        for (name, value) in begin.as_object().into_iter().flatten() {
            ask[name] = value.clone();
        }
        let subject = format!("$JS.API.DIRECT.GET.{stream}");
        client.publish_with_reply(subject, inbox, ask.to_string().into()).await.map_err(ScanError::of)?;
        let mut found = Vec::new();
        loop {
            let next = tokio::time::timeout(MESSAGE_WAIT, replies.next()).await;
            let message = match next {
                Ok(Some(message)) => message,
                Ok(None) => return Err(ScanError("the connection is closed".to_owned())),
                Err(_) => return Err(ScanError(format!("{stream} does not answer"))),
            };
            match message.status.map(|status| status.as_u16()) {
                Some(END_OF_BATCH | NOTHING) => return Ok(found),
                Some(status) => return Err(ScanError(format!("{stream} answers with status {status}"))),
                None => found.push(read(stream, message).ok_or_else(|| {
                    ScanError(format!("{stream} answers with a message that has no place"))
                })?),
            }
        }
    }

    /// One stored message, from the leader. `None`: it is gone.
    pub async fn stored(&self, stream: &str, sequence: Sequence) -> Result<Option<Stored>, ScanError> {
        let handle = self.jetstream().get_stream_no_info(stream).await.map_err(ScanError::of)?;
        match handle.get_raw_message(sequence).await {
            Ok(message) => Ok(Some(from_leader(stream, message))),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(ScanError::of(error)),
        }
    }

    /// The last message on a subject, which may have wildcards, from the leader.
    pub async fn last_stored(&self, stream: &str, subject: &str) -> Result<Option<Stored>, ScanError> {
        let handle = self.jetstream().get_stream_no_info(stream).await.map_err(ScanError::of)?;
        match handle.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(from_leader(stream, message))),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(ScanError::of(error)),
        }
    }

    /// Removes a stored message for good; that it was gone already is as good.
    pub async fn remove(&self, source: &Source) -> Result<(), ScanError> {
        // Erasing would overwrite its bytes on the disk: sixty times slower (measured), and no secret is kept by it.
        let ask = serde_json::json!({"seq": source.sequence, "no_erase": true}).to_string();
        let subject = format!("$JS.API.STREAM.MSG.DELETE.{}", source.stream);
        let reply = self.client().request(subject, ask.into()).await.map_err(ScanError::of)?;
        let reply: Reply = serde_json::from_slice(&reply.payload).map_err(ScanError::of)?;
        match reply.error {
            None if reply.success => Ok(()),
            Some(error) if [NO_MESSAGE, NOT_REMOVED].contains(&error.err_code) => Ok(()),
            Some(error) => Err(ScanError(error.description)),
            None => Err(ScanError(format!("{} was not removed", source))),
        }
    }
}

fn from_leader(stream: &str, message: StreamMessage) -> Stored {
    Stored {
        subject: message.subject.into_string(),
        source: Source { stream: stream.to_owned(), sequence: message.sequence },
        stored_at: message.time,
        headers: message.headers,
        payload: message.payload,
    }
}

fn read(stream: &str, message: async_nats::Message) -> Option<Stored> {
    let headers = message.headers?;
    let text = |name: &str| headers.get_last(name).map(|value| value.as_str());
    let subject = text("Nats-Subject")?.to_owned();
    let sequence = text("Nats-Sequence")?.parse().ok()?;
    let stored_at = chrono::DateTime::parse_from_rfc3339(text("Nats-Time-Stamp")?).ok()?.to_utc();
    let source = Source { stream: stream.to_owned(), sequence };
    Some(Stored { subject, source, stored_at, headers, payload: message.payload })
}
