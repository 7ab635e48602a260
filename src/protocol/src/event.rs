//! Lifecycle events on `llm.event.<team>.<kind>`: what an operator or a client wants to know about a
//! request besides its answer. Never any content.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ErrorCode, Group, Identity, NanoUsd, RequestId, Team, Timestamp};

/// The kinds of lifecycle events, each the last token of its subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A call failed and the same target is tried again.
    Retried,
    /// A call failed and the next target is tried.
    FellBack,
    /// The worker of a call was lost.
    Lost,
    /// It waits for a time.
    Parked,
    /// No target of it is up: it waits until one is.
    Held,
    /// It ended as a dead letter.
    Dead,
    /// An identity was used again for another body, which was not run.
    DuplicateId,
    /// More requests with the same body came in a minute than a limit allows: this is the first that waits.
    Repeated,
}

impl Kind {
    /// The subject token.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retried => "retried",
            Self::FellBack => "fell_back",
            Self::Lost => "lost",
            Self::Parked => "parked",
            Self::Held => "held",
            Self::Dead => "dead",
            Self::DuplicateId => "duplicate_id",
            Self::Repeated => "repeated",
        }
    }
}

/// Lifecycle event v1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LifecycleEvent {
    /// What happened.
    pub kind: Kind,
    /// The team.
    pub team: Team,
    /// The group.
    pub group: Group,
    /// The id of the request.
    pub id: RequestId,
    /// The attempt it is about; 0 if none.
    pub attempt: u32,
    /// The provider it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The model it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<ErrorCode>,
    /// For a person.
    pub message: String,
    /// When.
    pub time: Timestamp,
}

/// What can happen to a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    /// A model of it fails, and is not called for a while.
    ProviderDown,
    /// The model answers again.
    ProviderUp,
    /// It asked for a pause.
    ProviderThrottled,
    /// An operator stopped all calls.
    ProviderPaused,
    /// An operator has them go on.
    ProviderResumed,
}

impl ProviderKind {
    /// The subject token.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ProviderDown => "provider_down",
            Self::ProviderUp => "provider_up",
            Self::ProviderThrottled => "provider_throttled",
            Self::ProviderPaused => "provider_paused",
            Self::ProviderResumed => "provider_resumed",
        }
    }
}

/// Event v1 about a provider, on `llm.event._.<kind>`: it concerns all teams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProviderEvent {
    /// What happened.
    pub kind: ProviderKind,
    /// The provider.
    pub provider: String,
    /// The model, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<ErrorCode>,
    /// How many requests wait: those that were given to the provider, and all that are held.
    pub waiting: u64,
    /// When it is tried again, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// When.
    pub time: Timestamp,
}

/// What can happen to a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BudgetKind {
    /// So much of it is spent that it is to be told.
    Budget,
}

impl BudgetKind {
    /// The subject token.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "budget",
        }
    }
}

/// Event v1 about a budget, on `llm.event.<team>.budget`; on `llm.event._.budget` if the budget is not for one team.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BudgetEvent {
    /// What happened.
    pub kind: BudgetKind,
    /// The budget's name.
    pub budget: String,
    /// The team that it is for, if it is for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<Team>,
    /// The window: when it began, as `20261128T210000Z`; or `total`.
    pub window: String,
    /// When the window ends, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_ends: Option<Timestamp>,
    /// The threshold that is reached, in percent of the limit.
    pub threshold_percent: u32,
    /// How much of the limit is spent, in whole percent, rounded down.
    pub percent: u64,
    /// What calls that are over cost.
    pub spent_nano_usd: NanoUsd,
    /// What may be spent in the window.
    pub limit_nano_usd: NanoUsd,
    /// For a person.
    pub message: String,
    /// When.
    pub time: Timestamp,
}

impl BudgetEvent {
    /// The same for the same threshold of the same limit in the same window, whoever tells it.
    pub fn ce_id(&self) -> String {
        let Self { budget, window, threshold_percent, limit_nano_usd, .. } = self;
        format!("budget.{budget}.{window}.{}.{threshold_percent}", limit_nano_usd.0)
    }
}

impl LifecycleEvent {
    /// An event about a request.
    pub fn about(identity: &Identity, kind: Kind, time: Timestamp, message: impl Into<String>) -> Self {
        Self {
            kind,
            team: identity.team.clone(),
            group: identity.group.clone(),
            id: identity.id.clone(),
            attempt: 0,
            provider: None,
            model: None,
            code: None,
            message: message.into(),
            time,
        }
    }
}
