//! A successful answer: kept as it is; only the counts and the model's name are looked at.

use serde::Deserialize;
use serde_json::value::RawValue;
use tollgate_policy::failure::Class;
use tollgate_protocol::{JsonText, TokenUsage};

use crate::codec::{Failure, Reading};

#[derive(Deserialize)]
struct Completion<'a> {
    #[serde(borrow)]
    choices: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct CompletionDetails {
    reasoning_tokens: Option<u64>,
}

pub(super) fn read(body: &[u8]) -> Reading {
    let whole = match serde_json::from_slice::<&RawValue>(body) {
        Ok(whole) => whole,
        Err(error) if error.is_eof() => {
            return failed(Class::Truncated, "the provider's answer ends too early");
        }
        Err(_) => return failed(Class::Malformed, "the provider's answer is not JSON"),
    };
    let Ok(completion) = serde_json::from_str::<Completion<'_>>(whole.get()) else {
        return failed(Class::Malformed, "the provider's answer is not a chat completion");
    };
    if completion.choices.is_none_or(|choices| choices.is_empty()) {
        return failed(Class::Malformed, "the provider's answer has no choices");
    }
    // An answer is an answer, also when its counts or its model's name are not as they should be: it was
    // paid for, and asking again would be paid for again.
    let usage = completion.usage.and_then(|usage| serde_json::from_str::<Usage>(usage.get()).ok());
    Reading::Answered {
        body: JsonText::from(whole),
        usage: usage.map(|usage| TokenUsage {
            input_tokens: usage.prompt_tokens,
            cached_input_tokens: usage
                .prompt_tokens_details
                .and_then(|details| details.cached_tokens)
                .unwrap_or(0),
            output_tokens: usage.completion_tokens,
            reasoning_tokens: usage
                .completion_tokens_details
                .and_then(|details| details.reasoning_tokens)
                .unwrap_or(0),
        }),
        served_model: completion.model.and_then(|model| serde_json::from_str(model.get()).ok()),
    }
}

fn failed(class: Class, message: &str) -> Reading {
    Reading::Failed(Failure::new(class, message))
}
