//! Requests: what a client may send, and the one place where it is read.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Digest, Encoding, Identity, JsonText, Meta, Priority, Problem, Sequence, Timestamp};

mod address;
mod body;
mod deadline;
mod decode;
mod fields;
mod options;
mod schema;

pub use body::BodyFacts;
pub use decode::{Delivered, decode, is_led_here};

/// Longest a request may wait: 7 days, in milliseconds. More is rejected, not clipped.
pub const TTL_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1000;
/// Largest body, in bytes.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Deepest nesting of arrays and objects in an envelope. A body may have one level less, in an envelope or bare,
/// which is what serde_json reads of any value.
pub const DEPTH_MAX: usize = 128;
/// Most fallback models of a request.
pub const FALLBACKS_MAX: usize = 8;
/// Longest model name, in bytes.
pub const MODEL_LENGTH_MAX: usize = 256;

/// What of a provider's API a request is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Endpoint {
    /// `POST /v1/chat/completions`
    #[default]
    #[serde(rename = "chat.completions")]
    ChatCompletions,
    /// `POST /v1/embeddings`
    #[serde(rename = "embeddings")]
    Embeddings,
    /// `POST /v1/responses`
    #[serde(rename = "responses")]
    Responses,
    /// `POST /v1/messages`
    #[serde(rename = "messages")]
    Messages,
    /// `POST /v1/completions`
    #[serde(rename = "completions")]
    Completions,
    /// `POST /v1/rerank`
    #[serde(rename = "rerank")]
    Rerank,
    /// `POST /v1/moderations`
    #[serde(rename = "moderations")]
    Moderations,
}

impl Endpoint {
    /// All endpoints of the contract.
    pub const ALL: [Self; 7] = [
        Self::ChatCompletions,
        Self::Embeddings,
        Self::Responses,
        Self::Messages,
        Self::Completions,
        Self::Rerank,
        Self::Moderations,
    ];

    /// The text on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ChatCompletions => "chat.completions",
            Self::Embeddings => "embeddings",
            Self::Responses => "responses",
            Self::Messages => "messages",
            Self::Completions => "completions",
            Self::Rerank => "rerank",
            Self::Moderations => "moderations",
        }
    }

    /// The endpoint of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|endpoint| endpoint.as_str() == text)
    }
}

/// What a request that hits a limit wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnLimit {
    /// Wait for its turn, up to its deadline.
    #[default]
    Wait,
    /// Be rejected at once.
    Reject,
}

/// Request v1, as a client writes it. A field of `null` is absent.
// The broker itself reads field by field, in `decode`, to name the field that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("allOf" = schema::rules_of_requests()))]
pub struct RequestEnvelope {
    /// UUIDv7 recommended; absent → `seq-<stream sequence>`. 1 to 128 characters of `A-Z a-z 0-9 _ -`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_-]{1,128}$"), extend("not" = schema::reserved_ids()))]
    pub id: Option<String>,
    /// 1 to 64 characters of `A-Z a-z 0-9 _ -`; absent → `_`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_-]{1,64}$"), extend("not" = schema::reserved_groups()))]
    pub group: Option<String>,
    /// `chat.completions` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// The endpoint's own JSON, at most 4 MiB. Unknown fields reach the provider unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::body")]
    pub body: Option<JsonText>,
    /// The project that pays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$"))]
    pub project: Option<String>,
    /// The person or service behind the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$"))]
    pub user: Option<String>,
    /// What the request is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$"))]
    pub task: Option<String>,
    /// At most 16 labels; `application` and `use_case` have meaning in reports.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::meta::tags_schema")]
    pub tags: BTreeMap<String, String>,
    /// When the request must be over (RFC 3339), at most 7 days ahead. Not together with `ttl_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// Milliseconds from acceptance to the deadline, at most 7 days. Not together with `deadline`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604800000))]
    pub ttl_ms: Option<u64>,
    /// When it may be called first (RFC 3339), before its deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// An inbox (`_INBOX…`) that gets the answer as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = r"^_INBOX(_[!-)+-\-/-=?-~]*)?(\.[!-)+-\-/-=?-~]+)+$"))]
    pub reply_to: Option<String>,
    /// Not served yet: rejected as `unsupported_feature`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<String>,
    /// At most 8 models to try after the one of the body.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::fallbacks")]
    pub fallbacks: Vec<String>,
    /// Not served yet: anything but `false` is rejected as `unsupported_feature`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<bool>,
    /// Not served yet: rejected as `unsupported_feature`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]+(\.[0-9]{1,9}0*)?$"))]
    pub max_cost_usd: Option<String>,
    /// What to do when a limit is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_limit: Option<OnLimit>,
}

/// What is known of every message that claims to be a request, be it valid or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Who it is. `_` and `seq-…` where it names itself wrongly or not at all.
    pub identity: Identity,
    /// Digest of the payload.
    pub digest: Digest,
    /// The encoding of the answer.
    pub encoding: Encoding,
    /// Whether the payload is a bare body.
    pub bare: bool,
    /// Its sequence in the request stream.
    pub sequence: Sequence,
    /// Its priority.
    pub priority: Priority,
    /// When the stream stored it.
    pub accepted_at: Timestamp,
    /// When it must be over. The default of its priority where it names none, or a wrong one.
    pub deadline: Timestamp,
    /// Its endpoint, as far as it could be read.
    pub endpoint: Endpoint,
    /// The model it asks for, as far as it could be read.
    pub requested_model: String,
    /// Its labels, as far as they could be read.
    pub meta: Meta,
    /// A valid inbox that gets the answer as well.
    pub reply_to: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

/// A request that can be admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who, when and what for.
    pub head: Head,
    /// When it may be called first.
    pub not_before: Option<Timestamp>,
    /// Models to try after the requested one.
    pub fallbacks: Vec<String>,
    /// What to do when a limit is reached.
    pub on_limit: OnLimit,
    /// What the body says that the broker acts on.
    pub facts: BodyFacts,
    /// The endpoint's own JSON.
    pub body: JsonText,
}

/// What a message on a request subject turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A valid request.
    Request(Box<Request>),
    /// Not a valid request; its sender is told why.
    Rejected(Box<Head>, Problem),
    /// JetStream's own acknowledgement, sent here because somebody used a request subject as reply subject.
    /// To be drained: an answer would be one more message nobody asked for.
    Acknowledgement,
}

#[cfg(test)]
mod tests;
