//! The terminal response: exactly one is stored for every accepted request.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ErrorCode, Group, Identity, JsonText, NanoUsd, Problem, RequestId, Team, Timestamp, TokenUsage};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The provider answered.
    Succeeded,
    /// Every allowed attempt failed.
    Failed,
    /// It was never run: the request itself is wrong, or not allowed.
    Rejected,
    /// Its deadline passed.
    Expired,
    /// Its client took it back.
    Cancelled,
}

impl Status {
    /// The text on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How one call of a provider ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It answered.
    Succeeded,
    /// It failed.
    Failed,
    /// Nobody knows: its worker was lost. The cost is an estimate.
    Lost,
}

/// One call of a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attempt {
    /// The provider that was called.
    pub provider: String,
    /// The model that was asked for at the provider.
    pub model: String,
    /// Counts from 1 over all providers.
    pub number: u32,
    /// When the call began.
    pub started_at: Timestamp,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<ErrorCode>,
    /// What it cost, in nano-dollars.
    pub cost_nano_usd: NanoUsd,
    /// The tokens the cost is of.
    #[serde(default)]
    pub usage: TokenUsage,
    /// The price the cost is at; see the usage event.
    #[serde(default)]
    pub price_version: String,
    /// Whether tokens and cost are estimates, because the provider reported none.
    #[serde(default)]
    pub estimated: bool,
    /// The model that the provider says served the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_model: Option<String>,
    /// Whether this failure is not held against the request: the target answered nobody else meanwhile either, or
    /// only asked for a pause.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub excused: bool,
}

/// When things happened to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Timing {
    /// When JetStream stored the request.
    pub accepted_at: Timestamp,
    /// From acceptance to the first call, or to the end if there was none, in milliseconds.
    pub queued_ms: u64,
    /// Time in calls of providers, in milliseconds.
    pub provider_ms: u64,
    /// From acceptance to this response, in milliseconds.
    pub total_ms: u64,
}

/// Response v1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend(
    "if" = serde_json::json!({"properties": {"status": {"const": "succeeded"}}}),
    "then" = serde_json::json!({"required": ["body"], "properties": {"error": {"type": "null"}}}),
    "else" = serde_json::json!({"required": ["error"], "properties": {"body": {"type": "null"}}}),
))]
pub struct Response {
    /// The id of the request.
    pub id: RequestId,
    /// Its team.
    pub team: Team,
    /// Its group.
    pub group: Group,
    /// How it ended.
    pub status: Status,
    /// The provider's answer, if `status` is `succeeded`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<JsonText>,
    /// What went wrong, if `status` is anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
    /// The model that the client asked for; empty if the request could not be read so far.
    pub requested_model: String,
    /// The provider that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The model that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Tokens of all attempts together.
    pub usage: TokenUsage,
    /// Cost of all attempts together, in nano-dollars.
    pub cost_nano_usd: NanoUsd,
    /// Every call that was made for the request.
    pub attempts: Vec<Attempt>,
    /// When things happened.
    pub timing: Timing,
    /// Where a cached answer came from; absent if the answer was not cached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<String>,
}

impl Response {
    /// Whose response it is.
    pub fn identity(&self) -> Identity {
        Identity { team: self.team.clone(), group: self.group.clone(), id: self.id.clone() }
    }
}
