//! Lifecycle events on `llm.event.<team>.<kind>`: what an operator or a client wants to know about a
//! request besides its answer. Never any content.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ErrorCode, Group, Identity, RequestId, Team, Timestamp};

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
    /// An identity was used again for another body, which was not run.
    DuplicateId,
}

impl Kind {
    /// The subject token.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retried => "retried",
            Self::FellBack => "fell_back",
            Self::Lost => "lost",
            Self::DuplicateId => "duplicate_id",
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
