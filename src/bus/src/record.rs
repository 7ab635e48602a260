//! The fence: every write to a request's record expects the last entry that its writer knew.

use async_nats::HeaderMap;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, RawMessageErrorKind};
use bytes::Bytes;
use tollgate_protocol::header::{self, Headers};
use tollgate_protocol::record::{Answered, Entry, Last};
use tollgate_protocol::{Identity, Sequence};

use crate::publish::{EXPECTED_LAST, EXPECTED_LAST_SUBJECT, PublishError};
use crate::retry::{Patience, Tries};
use crate::{Bus, HeaderView, headers};

/// The stream of claims and answers, without its prefix.
pub const STREAM: &str = "RECORD";

/// What became of a fenced write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fenced {
    /// It is the last entry now, under this sequence.
    Written(Sequence),
    /// Another entry was there first; this is the last one now.
    Refused(Box<Last>),
}

/// A message to be written to a request's record.
#[derive(Clone, Debug)]
pub struct Write<'a> {
    /// Whose record.
    pub identity: &'a Identity,
    /// The run record's subject or the response's.
    pub subject: String,
    /// Headers besides the fence's own.
    pub headers: HeaderMap,
    /// How long the server keeps it, in seconds.
    pub ttl_seconds: u64,
    /// The entry itself.
    pub payload: Bytes,
    /// The last entry that the writer knows; 0 for none.
    pub expected: Sequence,
}

/// The last entry, with what tells its writer that it is its own.
struct Read {
    last: Last,
    write: Option<String>,
}

impl Bus {
    /// Writes if, and only if, the record has not changed since `expected`. Ambiguity is resolved here: an
    /// acknowledgement that got lost is found by reading the entry back and recognising it.
    pub async fn write_record(&self, write: Write<'_>, patience: Patience) -> Result<Fenced, PublishError> {
        let mut headers = write.headers;
        let nonce = uuid::Uuid::new_v4().simple().to_string();
        headers::put(&mut headers, header::WRITE, &nonce);
        headers::put(&mut headers, header::IDENTITY, &write.identity.to_string());
        headers::put(&mut headers, EXPECTED_LAST, &write.expected.to_string());
        headers::put(&mut headers, EXPECTED_LAST_SUBJECT, &self.subjects().record(write.identity));
        headers::put(&mut headers, "Nats-TTL", &format!("{}s", write.ttl_seconds.max(1)));
        let mut tries = Tries::new(patience);
        loop {
            let wrote =
                self.publish(&write.subject, headers.clone(), None, write.payload.clone(), patience).await;
            match wrote {
                Ok(published) => return Ok(Fenced::Written(published.sequence)),
                Err(PublishError::WrongLastSequence) => {}
                Err(error) => return Err(error),
            }
            let read = self.read_last(write.identity, patience).await?;
            let sequence = sequence_of(&read.last);
            if read.write.as_deref() == Some(&nonce) {
                return Ok(Fenced::Written(sequence));
            }
            // The record is as expected after all: the other write was still in flight (10164), or lost.
            if sequence != write.expected {
                return Ok(Fenced::Refused(Box::new(read.last)));
            }
            // What was expected is no reason to refuse anything, so it says nothing of who has the request now.
            if !tries.again().await {
                return Err(PublishError::NoAnswer(patience.0));
            }
        }
    }

    /// The last entry of a request's record, from the leader.
    pub async fn last_record(&self, identity: &Identity, patience: Patience) -> Result<Last, PublishError> {
        Ok(self.read_last(identity, patience).await?.last)
    }

    async fn read_last(&self, identity: &Identity, patience: Patience) -> Result<Read, PublishError> {
        let name = self.subjects().stream(STREAM);
        let mut tries = Tries::new(patience);
        loop {
            let error = match self.jetstream().get_stream_no_info(&name).await {
                Ok(stream) => {
                    match stream.get_last_raw_message_by_subject(&self.subjects().record(identity)).await {
                        Ok(message) => return Ok(read_entry(identity, &message)),
                        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                            return Ok(Read { last: Last::None, write: None });
                        }
                        Err(error) => error.to_string(),
                    }
                }
                Err(error) => error.to_string(),
            };
            tracing::debug!(request = %identity, error, "reading the record failed");
            if !tries.again().await {
                return Err(PublishError::NoAnswer(patience.0));
            }
        }
    }

    /// The stored response of a request, if there is one, from the leader.
    pub async fn stored_response(&self, identity: &Identity) -> Result<Option<StoredResponse>, PublishError> {
        let name = self.subjects().stream(STREAM);
        let mut tries = Tries::new(Patience::NORMAL);
        loop {
            let error = match self.jetstream().get_stream_no_info(&name).await {
                Ok(stream) => {
                    match stream.get_last_raw_message_by_subject(&self.subjects().response(identity)).await {
                        Ok(message) if !is_ours(identity, &HeaderView(Some(&message.headers))) => {
                            return Ok(None);
                        }
                        Ok(message) => {
                            return Ok(Some(StoredResponse {
                                headers: message.headers,
                                payload: message.payload,
                            }));
                        }
                        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => return Ok(None),
                        Err(error) => error.to_string(),
                    }
                }
                Err(error) => error.to_string(),
            };
            tracing::debug!(request = %identity, error, "reading the response failed");
            if !tries.again().await {
                return Err(PublishError::NoAnswer(Patience::NORMAL.0));
            }
        }
    }
}

/// A terminal response as it is stored.
#[derive(Clone, Debug)]
pub struct StoredResponse {
    /// Its headers.
    pub headers: HeaderMap,
    /// Its bytes, in the encoding that its `Content-Type` names.
    pub payload: Bytes,
}

fn sequence_of(last: &Last) -> Sequence {
    match last {
        Last::None => 0,
        Last::Foreign { sequence }
        | Last::Started { sequence, .. }
        | Last::Ended { sequence, .. }
        | Last::Answered { sequence, .. } => *sequence,
    }
}

/// Whether an entry was written for this request by one of us. A reply subject is not checked by a client's
/// permissions: an acknowledgement, or the copy that a direct get sends, can so be stored here.
pub fn is_ours(identity: &Identity, headers: &impl Headers) -> bool {
    headers.get(header::IDENTITY) == Some(&identity.to_string()) && headers.get("Nats-Subject").is_none()
}

fn read_entry(identity: &Identity, message: &async_nats::jetstream::message::StreamMessage) -> Read {
    let view = HeaderView(Some(&message.headers));
    let sequence = message.sequence;
    if !is_ours(identity, &view) {
        tracing::error!(request = %identity, sequence, "an entry of the record was not written by us");
        return Read { last: Last::Foreign { sequence }, write: None };
    }
    let write = view.get(header::WRITE).map(str::to_owned);
    let last = if let Some(answered) = Answered::from_headers(&view) {
        Last::Answered { sequence, answered }
    } else {
        match serde_json::from_slice(&message.payload) {
            Ok(Entry::Started(started)) => Last::Started { sequence, started },
            Ok(Entry::Ended(ended)) => Last::Ended { sequence, ended },
            Err(_) => {
                tracing::error!(request = %identity, sequence, "an entry of the record cannot be read");
                Last::Foreign { sequence }
            }
        }
    };
    Read { last, write }
}
