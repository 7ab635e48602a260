//! The request between our own parts: what a router hands to a worker, or a worker back to a router.
//!
//! MessagePack with named fields, so that fields can be added while old messages are still on their way;
//! the body is carried as bytes and not looked into.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::request::Endpoint;
use crate::response::Attempt;
use crate::{Digest, Encoding, Identity, Meta, Priority, Sequence, Timestamp, encoding, usage};

/// A model at a provider.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Target {
    /// Name of the provider in the configuration.
    pub provider: String,
    /// Name of the model at the provider.
    pub model: String,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.provider, self.model)
    }
}

/// A valid request on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Who it is.
    pub identity: Identity,
    /// The last record entry that the sender of this message knew; 0 if none.
    pub run: Sequence,
    /// Digest of what was published.
    pub digest: Digest,
    /// Where the request itself is, or was, stored: its sequence in the request stream.
    pub sequence: Sequence,
    /// Its priority.
    pub priority: Priority,
    /// Its endpoint.
    pub endpoint: Endpoint,
    /// The encoding of the answer.
    pub encoding: Encoding,
    /// Whether the request was a bare body, so that replies are bare too.
    pub bare: bool,
    /// The model the client asked for.
    pub requested_model: String,
    /// Where it may go, in order.
    pub targets: Vec<Target>,
    /// Where it goes now: index into `targets`.
    pub target: usize,
    /// Attempts so far.
    pub history: Vec<Attempt>,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// When it must be over.
    pub deadline: Timestamp,
    /// Labels for reports.
    pub meta: Meta,
    /// An inbox that gets the answer as well.
    pub reply_to: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// The most output tokens the body allows, if it says.
    pub output_tokens_max: Option<u64>,
    /// Where in `body` the value of `model` stands: start and end, in bytes.
    pub model_at: (usize, usize),
    /// The endpoint's own JSON.
    pub body: Bytes,
}

impl Job {
    /// Writes it for a stream.
    pub fn encode(&self) -> Result<Bytes, encoding::Error> {
        Ok(rmp_serde::to_vec_named(self)?.into())
    }

    /// Reads it back.
    pub fn decode(bytes: &[u8]) -> Result<Self, encoding::Error> {
        Ok(rmp_serde::from_slice(bytes)?)
    }

    /// The target it goes to now; `None` only for a message that no router of ours wrote.
    pub fn current_target(&self) -> Option<&Target> {
        self.targets.get(self.target)
    }

    /// What its usage events have in common.
    pub fn usage_subject(&self) -> usage::Subject<'_> {
        usage::Subject {
            identity: &self.identity,
            meta: &self.meta,
            priority: self.priority,
            endpoint: self.endpoint,
            requested_model: &self.requested_model,
            accepted_at: self.accepted_at,
        }
    }
}
