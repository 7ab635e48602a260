//! Usage events: what happened and what it cost. Never any content.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::request::Endpoint;
use crate::response::{Attempt, Outcome, Status};
use crate::{ErrorCode, Group, Identity, Meta, NanoUsd, Priority, RequestId, Team, Timestamp, TokenUsage};

/// The CloudEvents type of usage events.
pub const CE_TYPE: &str = "dev.tollgate.usage.v1";

/// What an event stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A call whose end is known.
    Attempt,
    /// A call whose worker was lost; replaced by `attempt` if its result turns up.
    Lost,
    /// A request that ended without a final attempt.
    Unpaid,
    /// A signed change to an earlier event.
    Correction,
}

impl Kind {
    /// The text on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attempt => "attempt",
            Self::Lost => "lost",
            Self::Unpaid => "unpaid",
            Self::Correction => "correction",
        }
    }
}

/// Usage event v1.
///
/// Rule for sums: count each `ce-id` (of one `accepted_at`) once, an `attempt` beats a `lost`; corrections have ids of their own,
/// are signed and name what they correct.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("allOf" = serde_json::json!([
    {"$comment": "a correction names what it corrects",
        "if": {"properties": {"kind": {"const": "correction"}}}, "then": {"required": ["corrects"]}},
    {"$comment": "an event without a call ends its request",
        "if": {"properties": {"kind": {"const": "unpaid"}}},
        "then": {"required": ["status"], "properties": {"attempt": {"const": 0}, "final": {"const": true}}}},
    {"$comment": "a call has a number, a provider and a model",
        "if": {"properties": {"kind": {"enum": ["attempt", "lost"]}}},
        "then": {"required": ["provider", "model", "outcome"], "properties": {"attempt": {"minimum": 1}}}},
])))]
pub struct UsageEvent {
    /// What it stands for.
    pub kind: Kind,
    /// Whether it ended the request.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// How the request ended, on the final event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// How the call ended; absent on `unpaid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<ErrorCode>,
    /// The team.
    pub team: Team,
    /// The group.
    pub group: Group,
    /// The id of the request.
    pub id: RequestId,
    /// The attempt; 0 on `unpaid`.
    pub attempt: u32,
    /// Labels of the request.
    #[serde(flatten)]
    pub meta: Meta,
    /// Its priority.
    pub priority: Priority,
    /// Its endpoint.
    pub endpoint: Endpoint,
    /// The model that the client asked for.
    pub requested_model: String,
    /// The provider that was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The configured model that was called: what the price belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The model that the provider says served the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_model: Option<String>,
    /// Tokens of this call.
    pub usage: TokenUsage,
    /// Cost of this call, in nano-dollars; signed on corrections.
    pub cost_nano_usd: NanoUsd,
    /// Nano-dollars per million tokens: `<input>/<cached input>/<output>`.
    #[serde(default)]
    pub price_version: String,
    /// Whether tokens and cost are estimates.
    pub estimated: bool,
    /// From acceptance to the first call, or to the end if there was none, in milliseconds.
    pub queued_ms: u64,
    /// From the start of the call to its first token, in milliseconds; absent if not streamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<u64>,
    /// How long the call took, in milliseconds.
    pub latency_ms: u64,
    /// When the request was accepted. An identity whose answer is no longer kept can
    /// be used again: this tells the events of the two requests apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_at: Option<Timestamp>,
    /// When the call began; for `unpaid`, when the request ended.
    pub time: Timestamp,
    /// The `ce-id` that a correction corrects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrects: Option<String>,
    /// Whether the request went back to the routers after this call: what was reserved for it in budgets ends with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub requeued: bool,
}

impl UsageEvent {
    /// Whose usage it is.
    pub fn identity(&self) -> Identity {
        Identity { team: self.team.clone(), group: self.group.clone(), id: self.id.clone() }
    }

    /// The event's identity for sums: `<team>.<group>.<id>.<attempt>`.
    pub fn ce_id(&self) -> String {
        match &self.corrects {
            Some(corrected) => format!("{corrected}.correction.{}", self.time.timestamp_micros()),
            None => format!("{}.{}.{}.{}", self.team, self.group, self.id, self.attempt),
        }
    }

    /// What is counted once: the `ce-id`, of one use of the identity.
    pub fn counted_id(&self) -> String {
        match self.accepted_at {
            Some(accepted_at) => format!("{}@{}", self.ce_id(), accepted_at.timestamp_micros()),
            None => self.ce_id(),
        }
    }

    /// JetStream's deduplication id: a `lost` and the `attempt` that replaces it are both stored.
    pub fn message_id(&self) -> String {
        format!("{}/{}", self.counted_id(), self.kind.as_str())
    }
}

/// What all usage events of one request have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject<'a> {
    /// The request.
    pub identity: &'a Identity,
    /// Its labels.
    pub meta: &'a Meta,
    /// Its priority.
    pub priority: Priority,
    /// Its endpoint.
    pub endpoint: Endpoint,
    /// The model it asked for.
    pub requested_model: &'a str,
    /// When it was accepted.
    pub accepted_at: Timestamp,
}

impl Subject<'_> {
    fn event(&self) -> UsageEvent {
        UsageEvent {
            kind: Kind::Unpaid,
            is_final: false,
            status: None,
            outcome: None,
            code: None,
            team: self.identity.team.clone(),
            group: self.identity.group.clone(),
            id: self.identity.id.clone(),
            attempt: 0,
            meta: self.meta.clone(),
            priority: self.priority,
            endpoint: self.endpoint,
            requested_model: self.requested_model.to_owned(),
            provider: None,
            model: None,
            served_model: None,
            usage: TokenUsage::default(),
            cost_nano_usd: NanoUsd::ZERO,
            price_version: String::new(),
            estimated: false,
            queued_ms: 0,
            first_token_ms: None,
            latency_ms: 0,
            accepted_at: Some(self.accepted_at),
            time: self.accepted_at,
            corrects: None,
            requeued: false,
        }
    }

    /// The event of one attempt. `ended` is the request's status if this attempt ended it. The same
    /// attempt always gives the same event, so it can be written again after a crash.
    pub fn attempt(
        &self,
        attempt: &Attempt,
        first_started_at: Timestamp,
        ended: Option<Status>,
    ) -> UsageEvent {
        UsageEvent {
            kind: if attempt.outcome == Outcome::Lost { Kind::Lost } else { Kind::Attempt },
            is_final: ended.is_some(),
            status: ended,
            outcome: Some(attempt.outcome),
            code: attempt.code,
            attempt: attempt.number,
            provider: Some(attempt.provider.clone()),
            model: Some(attempt.model.clone()),
            served_model: attempt.served_model.clone(),
            usage: attempt.usage,
            cost_nano_usd: attempt.cost_nano_usd,
            price_version: attempt.price_version.clone(),
            estimated: attempt.estimated,
            queued_ms: millis_between(self.accepted_at, first_started_at),
            latency_ms: attempt.duration_ms,
            time: attempt.started_at,
            ..self.event()
        }
    }

    /// The event of a request that no attempt ended.
    pub fn unpaid(
        &self,
        status: Status,
        code: Option<ErrorCode>,
        queued_ms: u64,
        time: Timestamp,
    ) -> UsageEvent {
        UsageEvent { is_final: true, status: Some(status), code, queued_ms, time, ..self.event() }
    }
}

/// Whole milliseconds from `start` to `end`; 0 if the clocks disagree about their order.
pub fn millis_between(start: Timestamp, end: Timestamp) -> u64 {
    u64::try_from((end - start).num_milliseconds()).unwrap_or(0)
}
