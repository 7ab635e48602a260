//! Publishing with acknowledgement.
//!
//! The reply is read here rather than by the client library, because error numbers that the library does
//! not name (10164) decide what happens next.

use async_nats::{HeaderMap, Request, RequestErrorKind};
use bytes::Bytes;
use serde::Deserialize;
use tollgate_protocol::Sequence;

use crate::counter::whole;
use crate::retry::{Patience, TRY_TIMEOUT, Tries};
use crate::{Bus, headers};

/// Header: the last sequence that must stand on the subject.
pub const EXPECTED_LAST: &str = "Nats-Expected-Last-Subject-Sequence";
/// Header: the subject filter which [`EXPECTED_LAST`] is over.
pub const EXPECTED_LAST_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence-Subject";

/// Stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Sequence in the stream.
    pub sequence: Sequence,
    /// Whether the stream had it already, by its id.
    pub duplicate: bool,
    /// The total of a counter with this entry; of a repeat it is not said.
    pub total: Option<i64>,
}

/// Not stored, or not known to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The subject holds as many messages as it may.
    #[error("the subject's queue is full")]
    SubjectFull,
    /// The stream holds as many messages as it may.
    #[error("the stream is full")]
    StreamFull,
    /// The server, or our account on it, has no room left for anything. Once something was removed it has.
    #[error("the nats-server's store is full: {0}")]
    StoreFull(String),
    /// Another entry came first, or another write is in flight.
    #[error("another entry was written first")]
    WrongLastSequence,
    /// The message is larger than the server takes.
    #[error("{size} bytes are more than the server takes ({limit})")]
    TooLarge {
        /// Its size, in bytes.
        size: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The server refused it for another reason.
    #[error("the server refused it: {description} ({code})")]
    Refused {
        /// JetStream's error number.
        code: u64,
        /// Its text.
        description: String,
    },
    /// We may not publish there.
    #[error("no permission: {0}")]
    Permission(String),
    /// Nobody acknowledged in time. It may or may not be stored.
    #[error("no acknowledgement within {0:?}; is the nats-server reachable, and does the stream exist?")]
    NoAnswer(std::time::Duration),
}

#[derive(Deserialize)]
struct Reply {
    seq: Option<Sequence>,
    #[serde(default)]
    duplicate: bool,
    #[serde(rename = "val")]
    total: Option<String>,
    error: Option<ReplyError>,
}

#[derive(Deserialize)]
pub(crate) struct ReplyError {
    #[serde(default)]
    pub(crate) err_code: u64,
    #[serde(default)]
    pub(crate) description: String,
}

enum Failure {
    /// The server said no.
    Final(PublishError),
    /// Nobody said anything.
    Silence,
    /// We may not publish there.
    Forbidden(String),
    /// There is no room for anything.
    Full(String),
}

impl Bus {
    /// Publishes and waits for the acknowledgement, again and again under the same id until `patience` is
    /// over. An id makes the repeats harmless; without one the message must be harmless twice.
    pub async fn publish(
        &self,
        subject: &str,
        headers: HeaderMap,
        message_id: Option<&str>,
        payload: Bytes,
        patience: Patience,
    ) -> Result<Published, PublishError> {
        self.publish_or(subject, headers, message_id, payload, patience, false).await
    }

    /// The same for who can keep what is not stored: that there is no room is said at once.
    pub async fn offer(
        &self,
        subject: &str,
        headers: HeaderMap,
        message_id: Option<&str>,
        payload: Bytes,
        patience: Patience,
    ) -> Result<Published, PublishError> {
        self.publish_or(subject, headers, message_id, payload, patience, true).await
    }

    async fn publish_or(
        &self,
        subject: &str,
        mut headers: HeaderMap,
        message_id: Option<&str>,
        payload: Bytes,
        patience: Patience,
        unless_full: bool,
    ) -> Result<Published, PublishError> {
        if let Some(id) = message_id {
            headers::put(&mut headers, tollgate_protocol::header::MSG_ID, id);
        }
        let mut tries = Tries::new(patience);
        let mut violations = self.connection().violations();
        loop {
            let tried = tokio::select! {
                biased;
                tried = self.try_publish(subject, &headers, &payload) => tried,
                violation = violations.of(subject) => Err(Failure::Forbidden(violation.to_string())),
            };
            let last = match tried {
                Ok(published) => return Ok(published),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Silence) => PublishError::NoAnswer(patience.0),
                Err(Failure::Full(description)) if unless_full => {
                    return Err(PublishError::StoreFull(description));
                }
                Err(Failure::Full(description)) => PublishError::StoreFull(description),
                Err(Failure::Forbidden(violation)) => {
                    tracing::error!(subject, violation, "we may not publish here");
                    // What was paid for is not given up for a permission that may be put right.
                    if patience.0 < Patience::PAID.0 {
                        return Err(PublishError::Permission(violation));
                    }
                    PublishError::Permission(violation)
                }
            };
            if !tries.again().await {
                return Err(last);
            }
        }
    }

    async fn try_publish(
        &self,
        subject: &str,
        headers: &HeaderMap,
        payload: &Bytes,
    ) -> Result<Published, Failure> {
        let limit = self.connection().max_payload();
        if payload.len() > limit {
            return Err(Failure::Final(PublishError::TooLarge { size: payload.len(), limit }));
        }
        let request =
            Request::new().headers(headers.clone()).payload(payload.clone()).timeout(Some(TRY_TIMEOUT));
        let disconnections = self.connection().health().disconnections;
        let sent = tokio::select! {
            biased;
            sent = self.client().send_request(subject.to_owned(), request) => sent,
            // What was on its way is gone with the old connection, and its acknowledgement too: again, at once.
            () = self.connection().reconnected_since(disconnections) => return Err(Failure::Silence),
        };
        let message = match sent {
            Ok(message) => message,
            Err(error) if error.kind() == RequestErrorKind::MaxPayloadExceeded => {
                return Err(Failure::Final(PublishError::TooLarge { size: payload.len(), limit }));
            }
            Err(error) => {
                tracing::debug!(subject, %error, "publish was not acknowledged");
                return Err(Failure::Silence);
            }
        };
        read_reply(&message.payload)
    }
}

fn read_reply(payload: &[u8]) -> Result<Published, Failure> {
    let Ok(reply) = serde_json::from_slice::<Reply>(payload) else {
        return Err(Failure::Silence);
    };
    match (reply.error, reply.seq) {
        (None, Some(sequence)) => {
            let total = match reply.total {
                None => None,
                Some(text) => match whole(&text) {
                    Some(total) => Some(total),
                    // It is not known, and not to be taken for that of a repeat, which is not said.
                    None => {
                        let description = "it is stored, but the counter's total cannot be read".into();
                        return Err(Failure::Final(PublishError::Refused { code: 0, description }));
                    }
                },
            };
            Ok(Published { sequence, duplicate: reply.duplicate, total })
        }
        (Some(error), _) => Err(refusal(error)),
        (None, None) => Err(Failure::Silence),
    }
}

/// JetStream's error numbers (server 2.15, `errors.json`), as far as a caller acts on them.
fn refusal(error: ReplyError) -> Failure {
    match error.err_code {
        // "wrong last sequence: N", and the same while another write to the subject is in flight.
        10071 | 10164 => Failure::Final(PublishError::WrongLastSequence),
        // A stream's own limits, when it discards new messages.
        10077 if error.description.contains("per subject") => Failure::Final(PublishError::SubjectFull),
        10077 if error.description.contains("maximum") => Failure::Final(PublishError::StreamFull),
        10077 if error.description.contains("no space left") => Failure::Full(error.description),
        // The store itself failed, as when the server is ending: it may work again.
        10077 => Failure::Silence,
        10054 => Failure::Final(PublishError::TooLarge { size: 0, limit: 0 }),
        // The account's limit, the server's resources, its memory, its storage.
        10002 | 10023 | 10028 | 10047 => Failure::Full(error.description),
        // Not available, no leader, shutting down: it may be again.
        10008 | 10009 | 10039 | 10074 | 10076 => Failure::Silence,
        code => Failure::Final(PublishError::Refused { code, description: error.description }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Published, PublishError> {
        read_reply(text.as_bytes()).map_err(|failure| match failure {
            Failure::Final(error) => error,
            Failure::Silence => PublishError::NoAnswer(std::time::Duration::ZERO),
            Failure::Forbidden(violation) => PublishError::Permission(violation),
            Failure::Full(description) => PublishError::StoreFull(description),
        })
    }

    #[test]
    fn replies_are_read_by_their_numbers() {
        let silence = Err(PublishError::NoAnswer(std::time::Duration::ZERO));
        for (text, expected) in [
            (r#"{"stream":"S","seq":7}"#, Ok(Published { sequence: 7, duplicate: false, total: None })),
            (
                r#"{"stream":"S","seq":7,"duplicate":true}"#,
                Ok(Published { sequence: 7, duplicate: true, total: None }),
            ),
            (
                r#"{"stream":"S","seq":7,"val":"-12"}"#,
                Ok(Published { sequence: 7, duplicate: false, total: Some(-12) }),
            ),
            (
                r#"{"stream":"S","seq":7,"val":"9223372036854775808"}"#,
                Ok(Published { sequence: 7, duplicate: false, total: Some(i64::MAX) }),
            ),
            (
                r#"{"stream":"S","seq":7,"val":"many"}"#,
                Err(PublishError::Refused {
                    code: 0,
                    description: "it is stored, but the counter's total cannot be read".into(),
                }),
            ),
            (
                r#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 3"},"stream":"S","seq":0}"#,
                Err(PublishError::WrongLastSequence),
            ),
            (
                r#"{"error":{"code":400,"err_code":10164,"description":"wrong last sequence"},"seq":0}"#,
                Err(PublishError::WrongLastSequence),
            ),
            (
                r#"{"error":{"code":400,"err_code":10077,"description":"maximum messages per subject exceeded"}}"#,
                Err(PublishError::SubjectFull),
            ),
            (
                r#"{"error":{"code":400,"err_code":10077,"description":"maximum messages exceeded"}}"#,
                Err(PublishError::StreamFull),
            ),
            (
                r#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"}}"#,
                Err(PublishError::StreamFull),
            ),
            (
                r#"{"error":{"code":503,"err_code":10077,"description":"write 1.blk: no space left on device"}}"#,
                Err(PublishError::StoreFull("write 1.blk: no space left on device".into())),
            ),
            (
                r#"{"error":{"code":500,"err_code":10047,"description":"insufficient storage resources available"}}"#,
                Err(PublishError::StoreFull("insufficient storage resources available".into())),
            ),
            (
                r#"{"error":{"code":400,"err_code":10002,"description":"resource limits exceeded for account"}}"#,
                Err(PublishError::StoreFull("resource limits exceeded for account".into())),
            ),
            (r#"{"error":{"code":503,"err_code":10077,"description":"store is closed"}}"#, silence.clone()),
            (r#"{"error":{"code":503,"err_code":10008,"description":"no quorum"}}"#, silence.clone()),
            ("", silence.clone()),
            ("{}", silence.clone()),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }
}
