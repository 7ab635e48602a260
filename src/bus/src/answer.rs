//! Writing a terminal response: the one write that ends a request.

use bytes::Bytes;
use tollgate_protocol::header::{self, Headers, ascii_json};
use tollgate_protocol::record::{Answered, Dead, Source};
use tollgate_protocol::response::Response;
use tollgate_protocol::usage::UsageEvent;
use tollgate_protocol::{Digest, Encoding, Identity, Sequence, reply};

use crate::publish::PublishError;
use crate::record::{Fenced, Write};
use crate::retry::Patience;
use crate::{Bus, HeaderView, headers};

/// Room for headers beside the payload of a response.
const HEADERS_BYTES_MAX: usize = 64 * 1024;

/// A terminal response and everything that is stored with it.
#[derive(Clone, Debug)]
pub struct Ending<'a> {
    /// The response.
    pub response: &'a Response,
    /// Its encoding.
    pub encoding: Encoding,
    /// Digest of the request it answers.
    pub digest: Digest,
    /// The message in hand.
    pub from: &'a Source,
    /// The attempt that ended the request; 0 if none did.
    pub attempt: u32,
    /// Whether the request becomes a dead letter.
    pub dead: Option<Dead>,
    /// What the ledger publishes, if no attempt ended the request.
    pub unpaid: Option<&'a UsageEvent>,
    /// How long the server keeps it, in seconds.
    pub ttl_seconds: u64,
    /// The last entry that the writer knows; 0 for none.
    pub expected: Sequence,
    /// W3C trace context.
    pub traceparent: Option<&'a str>,
}

/// Whether a response can be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storable {
    /// It can.
    Yes,
    /// It is larger than a message may be.
    TooLarge,
    /// MessagePack has no form for something in it: a lone surrogate, a number beyond 64-bit floats.
    Inexpressible,
}

impl Bus {
    /// Whether a response can be stored at all: it must be expressible in its encoding, and fit into one
    /// message.
    pub fn storable(&self, response: &Response, encoding: Encoding) -> Storable {
        match encoding.encode(response) {
            Ok(bytes) if bytes.len() + HEADERS_BYTES_MAX <= self.connection().max_payload() => Storable::Yes,
            Ok(_) => Storable::TooLarge,
            Err(_) => Storable::Inexpressible,
        }
    }

    /// Writes a terminal response behind the fence.
    pub async fn write_answer(&self, ending: Ending<'_>, patience: Patience) -> Result<Fenced, PublishError> {
        let identity = ending.response.identity();
        let payload = encoded(ending.encoding.encode(ending.response))?;
        let answered = Answered {
            digest: ending.digest,
            status: ending.response.status,
            attempt: ending.attempt,
            from: ending.from.clone(),
            dead: ending.dead,
        };
        let mut map =
            headers::headers(answered.to_headers().iter().map(|(name, value)| (*name, value.as_str())));
        headers::put(&mut map, header::CONTENT_TYPE, ending.encoding.content_type());
        if let Some(problem) = &ending.response.error {
            headers::put(&mut map, header::ERROR_CODE, problem.code.as_str());
        }
        if let Some(event) = ending.unpaid {
            headers::put(&mut map, header::UNPAID, &encoded(ascii_json(event))?);
        }
        if let Some(traceparent) = ending.traceparent {
            headers::put(&mut map, header::TRACEPARENT, traceparent);
        }
        let write = Write {
            identity: &identity,
            subject: self.subjects().response(&identity),
            headers: map,
            ttl_seconds: ending.ttl_seconds,
            payload: payload.into(),
            expected: ending.expected,
        };
        self.write_record(write, patience).await
    }

    /// The stored response of a request, read, with the encoding it is stored in.
    pub async fn response_of(
        &self,
        identity: &Identity,
    ) -> Result<Option<(Response, Encoding)>, PublishError> {
        let Some(stored) = self.stored_response(identity).await? else { return Ok(None) };
        let view = HeaderView(Some(&stored.headers));
        let encoding =
            view.get(header::CONTENT_TYPE).and_then(Encoding::from_content_type).unwrap_or_default();
        let response = encoded(encoding.decode(&stored.payload))?;
        Ok(Some((response, encoding)))
    }

    /// Sends a response to an inbox that waits for it.
    pub async fn reply_with(&self, inbox: &str, response: &Response, bare: bool, encoding: Encoding) {
        match reply::reply(response, bare, encoding) {
            Ok(reply) => {
                let map = headers::headers(reply.headers.iter().map(|(name, value)| (*name, value.as_str())));
                self.reply(inbox, map, Bytes::from(reply.payload)).await;
            }
            Err(error) => tracing::error!(%error, "a reply cannot be encoded"),
        }
    }
}

fn encoded<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<T, PublishError> {
    result.map_err(|error| PublishError::Refused { code: 0, description: error.to_string() })
}
