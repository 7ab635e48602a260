//! What a chat call may say → a [`Chat`] that can be answered. Nothing further in validates again.
//!
//! Fields that the simulator does not know are let through, as providers do with most.

use super::fields::{self, Raw};
use super::problem::Problem;
use super::tokenizer::{TOKENS_PER_MESSAGE, TOKENS_PER_PART, count_tokens};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The most tokens that one choice may be asked to have.
pub(super) const OUTPUT_TOKENS_MAX: i64 = 128_000;
/// The most tokens that all choices of one call may be asked to have, so that no call can take the memory.
const CALL_TOKENS_MAX: i64 = 1_000_000;
const CHOICES_MAX: i64 = 128;
const STOPS_MAX: usize = 4;

/// A chat call that is valid.
#[derive(Debug)]
pub(super) struct Chat<'a> {
    pub(super) model: Cow<'a, str>,
    /// At least one.
    pub(super) messages: Vec<Message<'a>>,
    pub(super) tools: Raw<'a>,
    /// At least 1 where given.
    pub(super) tokens_max: Option<u64>,
    /// At least 1.
    pub(super) choices: u32,
    /// None of them is empty.
    pub(super) stop: Vec<Cow<'a, str>>,
    pub(super) seed: Option<i64>,
    pub(super) delivery: Delivery,
}

/// How the answer is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    Whole,
    Stream { include_usage: bool },
}

#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) role: Cow<'a, str>,
    pub(super) content: Content<'a>,
    tool_calls: Raw<'a>,
}

#[derive(Debug)]
pub(super) enum Content<'a> {
    Nothing,
    Text(Cow<'a, str>),
    Parts(Vec<Part<'a>>),
}

#[derive(Debug)]
pub(super) enum Part<'a> {
    Text(Cow<'a, str>),
    Other,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    model: Raw<'a>,
    messages: Raw<'a>,
    tools: Raw<'a>,
    max_tokens: Raw<'a>,
    max_completion_tokens: Raw<'a>,
    temperature: Raw<'a>,
    top_p: Raw<'a>,
    n: Raw<'a>,
    stop: Raw<'a>,
    seed: Raw<'a>,
    stream: Raw<'a>,
    stream_options: Raw<'a>,
}

impl<'a> Chat<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, Problem> {
        let body: Body<'a> = fields::object(body)?;
        let model = model(body.model)?;
        let messages = messages(body.messages)?;
        let tokens_max = tokens_max(body.max_tokens, body.max_completion_tokens)?;
        let choices = body.n.map_or(Ok(1), |raw| fields::integer("n", raw, &(1..=CHOICES_MAX)))?;
        if choices * tokens_max.unwrap_or(1) > CALL_TOKENS_MAX {
            let message = format!("Invalid 'n': all choices together may have {CALL_TOKENS_MAX} tokens.");
            return Err(Problem::field("n", Some("invalid_value"), message));
        }
        body.temperature.map_or(Ok(0.0), |raw| fields::decimal("temperature", raw, &(0.0..=2.0)))?;
        body.top_p.map_or(Ok(0.0), |raw| fields::decimal("top_p", raw, &(0.0..=1.0)))?;
        Ok(Self {
            model,
            messages,
            tools: body.tools,
            tokens_max: tokens_max.map(i64::unsigned_abs),
            choices: u32::try_from(choices).unwrap_or(1),
            stop: body.stop.map_or(Ok(Vec::new()), stop)?,
            seed: body.seed.map(|raw| fields::integer("seed", raw, &(i64::MIN..=i64::MAX))).transpose()?,
            delivery: delivery(body.stream, body.stream_options)?,
        })
    }

    /// By the rule that `tokenizer` states.
    pub(super) fn prompt_tokens(&self) -> u64 {
        let json = |raw: Raw<'_>| raw.map_or(0, |raw| count_tokens(raw.get()));
        let message =
            |message: &Message<'_>| TOKENS_PER_MESSAGE + message.content.tokens() + json(message.tool_calls);
        self.messages.iter().map(message).sum::<u64>() + json(self.tools)
    }

    /// The texts of the last message that the user wrote; of the last message at all if there is none.
    pub(super) fn question(&self) -> impl Iterator<Item = &str> {
        let last_of_user = self.messages.iter().rfind(|message| message.role == "user");
        last_of_user.or(self.messages.last()).into_iter().flat_map(|message| message.content.texts())
    }
}

impl Content<'_> {
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        let (whole, parts) = match self {
            Self::Nothing => (None, &[][..]),
            Self::Text(text) => (Some(&**text), &[][..]),
            Self::Parts(parts) => (None, &parts[..]),
        };
        whole.into_iter().chain(parts.iter().filter_map(|part| match part {
            Part::Text(text) => Some(&**text),
            Part::Other => None,
        }))
    }

    fn tokens(&self) -> u64 {
        let others = match self {
            Self::Parts(parts) => parts.iter().filter(|part| matches!(part, Part::Other)).count(),
            Self::Nothing | Self::Text(_) => 0,
        };
        self.texts().map(count_tokens).sum::<u64>() + TOKENS_PER_PART * others as u64
    }
}

pub(super) fn model(raw: Raw<'_>) -> Result<Cow<'_, str>, Problem> {
    let model = fields::text("model", raw.ok_or_else(|| Problem::missing("model"))?)?;
    if model.is_empty() {
        return Err(Problem::field("model", Some("invalid_value"), "Invalid 'model': an empty string."));
    }
    Ok(model)
}

fn messages(raw: Raw<'_>) -> Result<Vec<Message<'_>>, Problem> {
    let list = fields::list("messages", raw.ok_or_else(|| Problem::missing("messages"))?)?;
    if list.is_empty() {
        let message = "Invalid 'messages': empty array. Expected an array with minimum length 1.";
        return Err(Problem::field("messages", Some("empty_array"), message));
    }
    // The name of a field is only put together for an error: tens of thousands of calls have none.
    let parse = |(at, raw)| message(raw).map_err(|problem| within(&format!("messages[{at}]"), problem));
    list.into_iter().enumerate().map(parse).collect()
}

fn message(raw: &RawValue) -> Result<Message<'_>, Problem> {
    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(borrow)]
        role: Raw<'a>,
        content: Raw<'a>,
        tool_calls: Raw<'a>,
    }

    let found: Fields<'_> = fields::inner_object("", raw)?;
    let role = fields::text("role", found.role.ok_or_else(|| Problem::missing("role"))?)?;
    if !matches!(&*role, "system" | "developer" | "user" | "assistant" | "tool" | "function") {
        let message = "Invalid 'role': expected system, developer, user, assistant, tool or function.";
        return Err(Problem::field("role", Some("invalid_value"), message));
    }
    let content = match found.content {
        Some(raw) if fields::kind(raw) == "a string" => Content::Text(fields::text("content", raw)?),
        Some(raw) if fields::kind(raw) == "an array" => Content::Parts(parts(raw)?),
        Some(raw) => return Err(fields::wrong_type("content", "a string or an array of parts", raw)),
        None if role == "assistant" => Content::Nothing,
        None => return Err(Problem::missing("content")),
    };
    Ok(Message { role, content, tool_calls: found.tool_calls })
}

fn parts(raw: &RawValue) -> Result<Vec<Part<'_>>, Problem> {
    let parse = |(at, raw)| part(raw).map_err(|problem| within(&format!("content[{at}]"), problem));
    fields::list("content", raw)?.into_iter().enumerate().map(parse).collect()
}

fn part(raw: &RawValue) -> Result<Part<'_>, Problem> {
    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(borrow, rename = "type")]
        kind: Raw<'a>,
        text: Raw<'a>,
    }

    let found: Fields<'_> = fields::inner_object("", raw)?;
    let kind = fields::text("type", found.kind.ok_or_else(|| Problem::missing("type"))?)?;
    if kind != "text" {
        return Ok(Part::Other);
    }
    fields::text("text", found.text.ok_or_else(|| Problem::missing("text"))?).map(Part::Text)
}

/// Puts the place before a problem's field: `role` of `messages[2]` is `messages[2].role`.
fn within(place: &str, problem: Problem) -> Problem {
    let inner = problem.param.as_deref().unwrap_or_default();
    let param = if inner.is_empty() { place.to_owned() } else { format!("{place}.{inner}") };
    let message = problem.message.replacen(&format!("'{inner}'"), &format!("'{param}'"), 1);
    Problem { param: Some(param.into()), message: message.into(), ..problem }
}

fn tokens_max(old: Raw<'_>, new: Raw<'_>) -> Result<Option<i64>, Problem> {
    let (param, raw) = match (old, new) {
        (None, None) => return Ok(None),
        (Some(raw), None) => ("max_tokens", raw),
        (None, Some(raw)) => ("max_completion_tokens", raw),
        (Some(_), Some(_)) => {
            let message =
                "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.";
            return Err(Problem::field("max_tokens", Some("invalid_parameter_combination"), message));
        }
    };
    fields::integer(param, raw, &(1..=OUTPUT_TOKENS_MAX)).map(Some)
}

fn stop(raw: &RawValue) -> Result<Vec<Cow<'_, str>>, Problem> {
    let mut stop = match fields::kind(raw) {
        "a string" => vec![fields::text("stop", raw)?],
        "an array" => {
            let list = fields::list("stop", raw)?;
            list.into_iter().map(|raw| fields::text("stop", raw)).collect::<Result<_, _>>()?
        }
        _ => return Err(fields::wrong_type("stop", "a string or an array of strings", raw)),
    };
    if stop.len() > STOPS_MAX {
        let message = format!("Invalid 'stop': array too long. Expected at most {STOPS_MAX} strings.");
        return Err(Problem::field("stop", Some("array_above_max_length"), message));
    }
    // An empty string is found everywhere and would leave nothing of any answer.
    stop.retain(|text| !text.is_empty());
    Ok(stop)
}

fn delivery(stream: Raw<'_>, options: Raw<'_>) -> Result<Delivery, Problem> {
    #[derive(Deserialize)]
    struct Options<'a> {
        #[serde(borrow)]
        include_usage: Raw<'a>,
    }

    let streamed = stream.map_or(Ok(false), |raw| fields::boolean("stream", raw))?;
    let include_usage = match options {
        None => false,
        Some(_) if !streamed => {
            let message = "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
            return Err(Problem::field("stream_options", None, message));
        }
        Some(raw) => {
            let options: Options<'_> = fields::inner_object("stream_options", raw)?;
            let include = |raw| fields::boolean("stream_options.include_usage", raw);
            options.include_usage.map_or(Ok(false), include)?
        }
    };
    Ok(if streamed { Delivery::Stream { include_usage } } else { Delivery::Whole })
}

#[cfg(test)]
mod tests;
