//! A failure as its receiver sees it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ErrorCode;

/// A code, a sentence, and the field at fault. Never contains a prompt, an answer or a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// From the closed list in `docs/errors.md`.
    pub code: ErrorCode,
    /// For a person: what is wrong and what would be right.
    pub message: String,
    /// The field at fault, as a path: `ttl_ms`, `body.messages`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Whether sending the same request again can succeed.
    pub retryable: bool,
    /// The HTTP status that says the same.
    pub http_status: u16,
}

impl Problem {
    /// A problem without a field.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            field: None,
            retryable: code.retryable(),
            http_status: code.http_status(),
        }
    }

    /// A problem with one field.
    pub fn at(code: ErrorCode, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new(code, message) }
    }

    /// The same sentence and field under another code.
    pub(crate) fn with_code(self, code: ErrorCode) -> Self {
        Self { field: self.field, ..Self::new(code, self.message) }
    }

    /// The same, with the field named as the sender of a bare body knows it: not `body.messages` but `messages`.
    #[must_use]
    pub fn in_bare_body(self) -> Self {
        let strip = |text: String| text.strip_prefix("body.").map(str::to_owned).unwrap_or(text);
        Self { field: self.field.map(strip), message: strip(self.message), ..self }
    }

    /// The same as an OpenAI error object, for callers that sent a bare body.
    pub fn to_openai(&self) -> serde_json::Value {
        let kind = match self.http_status {
            429 => "rate_limit_error",
            403 => "permission_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        };
        serde_json::json!({"error": {
            "message": self.message, "type": kind, "param": self.field, "code": self.code.as_str(),
        }})
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        if let Some(field) = &self.field {
            write!(f, " (field {field})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}
