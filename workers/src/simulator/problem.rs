//! What a caller is told when it gets no answer: OpenAI's error object, with the right status.
//!
//! Messages name the field, the kind of value found there and what was expected; they never repeat a value,
//! since values may be prompts.

use serde::Serialize;
use std::borrow::Cow;
use std::time::Duration;

/// One refusal. All four members of the error object are always written, as OpenAI's specification requires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: u16,
    pub(super) message: Cow<'static, str>,
    pub(super) kind: &'static str,
    pub(super) param: Option<Cow<'static, str>>,
    pub(super) code: Option<&'static str>,
    pub(super) retry_after: Option<Duration>,
}

impl Problem {
    pub(super) fn new(
        status: u16,
        code: Option<&'static str>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        let kind = match status {
            429 => "requests",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        Self { status, message: message.into(), kind, param: None, code, retry_after: None }
    }

    /// A 400 about one field.
    pub(super) fn field(
        param: impl Into<Cow<'static, str>>,
        code: Option<&'static str>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { param: Some(param.into()), ..Self::new(400, code, message) }
    }

    pub(super) fn missing(param: &'static str) -> Self {
        Self::field(
            param,
            Some("missing_required_parameter"),
            format!("Missing required parameter: '{param}'."),
        )
    }

    pub(super) fn not_json() -> Self {
        Self::new(400, None, "We could not parse the JSON body of your request: a JSON object is expected.")
    }

    pub(super) fn too_large(bytes_max: usize) -> Self {
        Self::new(413, None, format!("The request body is larger than {bytes_max} bytes."))
    }

    pub(super) fn wrong_key() -> Self {
        Self::new(401, Some("invalid_api_key"), "Incorrect API key provided, or none.")
    }

    pub(super) fn model_not_found() -> Self {
        Self::new(404, Some("model_not_found"), "The model does not exist or you do not have access to it.")
    }

    /// A failure that somebody asked the simulator for.
    pub(super) fn simulated(status: u16, what: &'static str, retry_after: Option<Duration>) -> Self {
        let code = match status {
            401 => Some("invalid_api_key"),
            404 => Some("model_not_found"),
            429 => Some("rate_limit_exceeded"),
            _ => None,
        };
        Self { retry_after, ..Self::new(status, code, what) }
    }

    pub(super) fn stopping() -> Self {
        Self::new(503, None, "The simulator is stopping.")
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        let object = Wrapped {
            error: Object {
                message: &self.message,
                kind: self.kind,
                param: self.param.as_deref(),
                code: self.code,
            },
        };
        // Strings and options of strings cannot fail to serialize.
        serde_json::to_vec(&object).unwrap_or_default()
    }
}

#[derive(Serialize)]
struct Wrapped<'a> {
    error: Object<'a>,
}

#[derive(Serialize)]
struct Object<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    code: Option<&'static str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_four_members_are_written() {
        let json = String::from_utf8(Problem::missing("messages").to_json()).expect("UTF-8");
        assert_eq!(
            json,
            r#"{"error":{"message":"Missing required parameter: 'messages'.","type":"invalid_request_error","param":"messages","code":"missing_required_parameter"}}"#
        );
        let json = String::from_utf8(Problem::stopping().to_json()).expect("UTF-8");
        assert_eq!(
            json,
            r#"{"error":{"message":"The simulator is stopping.","type":"server_error","param":null,"code":null}}"#
        );
    }
}
