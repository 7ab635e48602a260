//! What the broker itself needs to know of a body. Everything else is the provider's to judge.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::fields::{self, Raw, invalid};
use super::{BODY_BYTES_MAX, MODEL_LENGTH_MAX};
use crate::{ErrorCode, Problem};

/// What the body of a request says that the broker acts on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyFacts {
    /// The model asked for.
    pub model: String,
    /// Where the value of `model` stands in the body: start and end, in bytes.
    pub model_at: (usize, usize),
    /// The most output tokens, over all choices, if the body says.
    pub output_tokens_max: Option<u64>,
    /// How many answers it asks for; 1 at least.
    pub choices: u64,
}

#[derive(Deserialize)]
struct ChatBody<'a> {
    #[serde(borrow)]
    model: Raw<'a>,
    #[serde(borrow)]
    messages: Raw<'a>,
    #[serde(borrow)]
    stream: Raw<'a>,
    #[serde(borrow)]
    max_tokens: Raw<'a>,
    #[serde(borrow)]
    max_completion_tokens: Raw<'a>,
    #[serde(borrow)]
    n: Raw<'a>,
}

/// The model of any body, for reports about requests that are rejected for something else.
pub(super) fn model_of(body: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Model {
        model: String,
    }
    serde_json::from_str::<Model>(body.get())
        .ok()
        .map(|body| body.model)
        .filter(|model| crate::meta::is_label(model, MODEL_LENGTH_MAX))
}

/// Checks a chat completion's body as far as the broker must.
pub(super) fn chat(body: &RawValue) -> Result<BodyFacts, Problem> {
    let text = body.get();
    if text.len() > BODY_BYTES_MAX {
        let message = format!("body: {} bytes, the limit is {BODY_BYTES_MAX}", text.len());
        return Err(Problem::at(ErrorCode::RequestTooLarge, "body", message));
    }
    if !text.starts_with('{') {
        return Err(invalid("body", "an object"));
    }
    // The text is valid JSON already: what can fail here is a field that stands twice, or a name that is
    // half a surrogate pair.
    let body: ChatBody<'_> = serde_json::from_str(text).map_err(|error| match fields::duplicate(&error) {
        Some(field) => {
            let field = format!("body.{field}");
            Problem::at(ErrorCode::InvalidField, &field, format!("{field}: stands twice"))
        }
        None => invalid("body", "names of fields that are Unicode"),
    })?;

    let raw_model = body.model.ok_or_else(|| missing("body.model", "the model to ask"))?;
    let model = fields::string(raw_model, "body.model")?;
    if !crate::meta::is_label(&model, MODEL_LENGTH_MAX) {
        return Err(invalid(
            "body.model",
            format!("1 to {MODEL_LENGTH_MAX} bytes without control characters"),
        ));
    }
    let start = raw_model.get().as_ptr() as usize - text.as_ptr() as usize;

    let messages = body.messages.ok_or_else(|| missing("body.messages", "at least one message"))?;
    let mut count = 0_usize;
    fields::each(messages, "body.messages", "an array of messages", &mut |message| {
        count += 1;
        if message.get().starts_with('{') {
            Ok(())
        } else {
            Err(invalid("body.messages", "an array of objects"))
        }
    })?;
    if count == 0 {
        return Err(missing("body.messages", "at least one message"));
    }

    if let Some(stream) = body.stream
        && fields::read::<bool>(stream, "body.stream", "true or false")?
    {
        let message = "body.stream: streaming is not served yet; send the request without it";
        return Err(Problem::at(ErrorCode::UnsupportedFeature, "body.stream", message));
    }
    let max_tokens = fields::positive(body.max_tokens, "body.max_tokens")?;
    let max_completion_tokens = fields::positive(body.max_completion_tokens, "body.max_completion_tokens")?;
    let choices = fields::positive(body.n, "body.n")?.unwrap_or(1);
    Ok(BodyFacts {
        model: model.into_owned(),
        model_at: (start, start + raw_model.get().len()),
        // If both are there, which one counts is the provider's choice: the larger one is the bound.
        output_tokens_max: max_completion_tokens.max(max_tokens).map(|tokens| tokens.saturating_mul(choices)),
        choices,
    })
}

fn missing(field: &str, expected: &str) -> Problem {
    Problem::at(ErrorCode::MissingField, field, format!("{field}: expected {expected}"))
}
