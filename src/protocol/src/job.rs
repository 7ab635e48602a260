//! The request between our own parts: what a router hands to a worker, or a worker back to a router.
//!
//! MessagePack with named fields, so that fields can be added while old messages are still on their way;
//! the body is carried as bytes and not looked into.

use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::request::Endpoint;
use crate::response::Attempt;
use crate::{Digest, Encoding, Identity, Meta, Price, Priority, Sequence, Timestamp, encoding, usage};

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

/// Targets that are only tried after one kind of failure: ranges of a job's `targets`, behind the ordinary ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Typed {
    /// After `context_too_long`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_too_long: Option<(usize, usize)>,
    /// After `content_policy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_policy: Option<(usize, usize)>,
}

/// A body that is not in the message itself but in the object store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyRef {
    /// The object's name.
    pub object: String,
    /// Its length, in bytes.
    pub bytes: usize,
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
    /// Which of `targets` are only for one kind of failure.
    #[serde(default)]
    pub typed: Typed,
    /// Where it goes now: index into `targets`.
    pub target: usize,
    /// The stage of its target's recovery that it is a probe of: then it may be called although others may not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<u64>,
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
    /// The indices of the targets that are reserved for, if any target has a budget: the worker may go on to these by
    /// itself, as long as nothing was paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved: Option<Vec<usize>>,
    /// What each of these costs, as it was reserved at and will be charged at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reserved_prices: Vec<Price>,
    /// Whether it is rejected rather than waits for a limit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rejects_on_limit: bool,
    /// The most output tokens the body allows, if it says.
    pub output_tokens_max: Option<u64>,
    /// How many answers it asks for.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub choices: u64,
    /// Tokens of its input, if a tokenizer of one of its targets counted them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    /// Pictures and the like in its messages.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub media: u32,
    /// Bytes of the body that are such things, not text.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub media_bytes: usize,
    /// Where in `body` the value of `model` stands: start and end, in bytes.
    pub model_at: (usize, usize),
    /// The endpoint's own JSON; empty if it is elsewhere.
    pub body: Bytes,
    /// Digest of the body, if equal bodies are counted: it is the same wherever the body is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_digest: Option<Digest>,
    /// Where the body is, if it is too large to be carried along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_ref: Option<BodyRef>,
}

fn one() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_one(number: &u64) -> bool {
    *number == 1
}

fn is_zero<N: Default + PartialEq>(number: &N) -> bool {
    *number == N::default()
}

impl Job {
    /// Writes it for a stream. A body that is elsewhere stays there.
    pub fn encode(&self) -> Result<Bytes, encoding::Error> {
        if self.body_ref.is_some() && !self.body.is_empty() {
            return Self { body: Bytes::new(), ..self.clone() }.encode();
        }
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

    /// The indices of the targets among which it chooses now: the ordinary ones, or those of a kind of failure
    /// that it has had.
    pub fn candidates(&self) -> Range<usize> {
        let typed = [self.typed.context_too_long, self.typed.content_policy];
        let ranges = typed.iter().flatten().map(|(start, end)| *start..*end);
        match ranges.clone().find(|range| range.contains(&self.target)) {
            Some(range) => range.start..range.end.min(self.targets.len()),
            None => 0..ranges.map(|range| range.start).min().unwrap_or(self.targets.len()),
        }
    }

    /// The price of the target it goes to, if something is reserved for it: it is charged at that whatever was changed since.
    pub fn reserved_price(&self) -> Option<Price> {
        let covers = self.reserved.as_ref()?;
        let index = covers.iter().position(|index| *index == self.target)?;
        self.reserved_prices.get(index).copied()
    }

    /// How long the body is, in bytes, wherever it is.
    pub fn body_bytes(&self) -> usize {
        self.body_ref.as_ref().map_or(self.body.len(), |body| body.bytes)
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
