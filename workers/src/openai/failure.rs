//! A failed answer: which class it is.

use serde::Deserialize;
use tollgate_policy::failure::Class;

use crate::codec::{Answer, Failure};

const MESSAGE_CHARS_MAX: usize = 500;

#[derive(Default, Deserialize)]
struct Body {
    #[serde(default)]
    error: Option<ErrorField>,
}

/// `error` is an object at OpenAI; some compatible servers send a string.
#[derive(Deserialize)]
#[serde(untagged)]
enum ErrorField {
    Object {
        #[serde(default)]
        message: Option<String>,
        #[serde(default, rename = "type")]
        kind: Option<serde_json::Value>,
        #[serde(default)]
        code: Option<serde_json::Value>,
        #[serde(default)]
        param: Option<serde_json::Value>,
        /// Azure's own reason, under a code of OpenAI's.
        #[serde(default, rename = "innererror")]
        inner: Option<serde_json::Value>,
    },
    Text(String),
}

pub(super) fn read(answer: &Answer) -> Failure {
    let body: Body = serde_json::from_slice(&answer.body).unwrap_or_default();
    let (message, marks, param) = match body.error {
        Some(ErrorField::Object { message, kind, code, param, inner }) => {
            let inner = inner.and_then(|mut inner| inner.get_mut("code").map(serde_json::Value::take));
            let marks = [code, kind, inner].into_iter().flatten();
            let marks = marks.filter_map(|mark| mark.as_str().map(str::to_owned)).collect::<Vec<_>>();
            let param = param.and_then(|param| param.as_str().map(str::to_owned));
            (message, marks, param.unwrap_or_default())
        }
        Some(ErrorField::Text(text)) => (Some(text), Vec::new(), String::new()),
        None => (None, Vec::new(), String::new()),
    };
    let is = |mark: &str| marks.iter().any(|found| found == mark);
    let class = match answer.status {
        _ if is("context_length_exceeded") || is("exceed_context_size_error") => Class::ContextTooLong,
        _ if is("string_above_max_length")
            && ["messages", "input", "prompt"].iter().any(|name| param.starts_with(name)) =>
        {
            Class::ContextTooLong
        }
        400 | 413 | 500 if message.as_deref().is_some_and(names_the_context) => Class::ContextTooLong,
        _ if is("content_policy_violation") || is("content_filter") || is("ResponsibleAIPolicyViolation") => {
            Class::ContentPolicy
        }
        _ if is("insufficient_quota") || is("billing_hard_limit_reached") => Class::OutOfCredit,
        // 403 as well: our project may not use the model, whatever our key is.
        400..=499 if is("model_not_found") => Class::UnknownModel,
        401 | 403 => Class::Unauthorized,
        402 => Class::OutOfCredit,
        404 => Class::UnknownModel,
        429 => Class::Throttled { retry_after_ms: answer.retry_after_ms },
        // 408 and 409 are the provider's own trouble; its clients try them again.
        408 | 409 | 500..=599 => Class::Overloaded,
        400..=499 => Class::Rejected,
        // 1xx and 3xx are no answers to this call.
        _ => Class::Malformed,
    };
    let message = match message {
        // Such a text can quote parts of our key, or name our organisation or project.
        _ if matches!(class, Class::Throttled { .. }) => {
            "the provider asks us to call it less often".to_owned()
        }
        _ if class == Class::UnknownModel && answer.status == 403 => {
            "our account with the provider may not use the model".to_owned()
        }
        _ if class == Class::Unauthorized => "the provider did not accept our credentials".to_owned(),
        _ if class == Class::OutOfCredit => "our account with the provider has no credit left".to_owned(),
        Some(message) => message.chars().take(MESSAGE_CHARS_MAX).collect(),
        None => format!("the provider answered with status {}", answer.status),
    };
    Failure { class, message }
}

/// Servers that have no code for it say it in words: vLLM with 400, llama.cpp with 400 or 500.
fn names_the_context(message: &str) -> bool {
    const WORDS: [&str; 3] =
        ["maximum context length", "context size has been exceeded", "exceeds the available context size"];
    let message = message.chars().take(MESSAGE_CHARS_MAX).collect::<String>().to_ascii_lowercase();
    WORDS.iter().any(|words| message.contains(words))
}
