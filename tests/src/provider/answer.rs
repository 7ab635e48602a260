//! What the scripted provider answers: a function of the request alone, so that a test can compute it too.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::money::Tokens;

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// `echo:<first 12 hex digits of the SHA-256 of the last message> <the last message>`, cut to `max_tokens` words.
    pub text: String,
    /// Input: the whitespace-separated words of all messages. Output: those of the answer. Nothing is ever cached.
    pub tokens: Tokens,
    /// `length` if the answer was cut, else `stop`.
    pub finish_reason: &'static str,
}

/// The answer to this `chat.completions` body.
pub fn answer_to(body: &Value) -> Answer {
    let messages = messages(body);
    let last = messages.last().map(|(_, text)| text.as_str()).unwrap_or_default();
    let full = format!("echo:{} {last}", digest(last));
    let limit = body["max_completion_tokens"].as_u64().or_else(|| body["max_tokens"].as_u64());
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let (text, finish_reason) = cut(&full, limit);
    let input = messages.iter().map(|(_, text)| words(text)).sum();
    let output = words(&text);
    Answer { text, tokens: Tokens { input, cached_input: 0, output }, finish_reason }
}

/// What a request is known by in the log: the content of its first user message. Tests make these differ.
pub fn key_of(body: &Value) -> String {
    let messages = messages(body);
    messages.into_iter().find(|(role, _)| role == "user").map(|(_, text)| text).unwrap_or_default()
}

/// The response body that carries an answer.
pub(super) fn completion(number: usize, body: &Value, answer: &Answer) -> Value {
    json!({
        "id": format!("chatcmpl-{number}"),
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": body["model"],
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": answer.text},
            "finish_reason": answer.finish_reason,
        }],
        "usage": usage(answer),
    })
}

/// The same as a stream of server-sent events: one per word, then the usage if it was asked for, then `[DONE]`.
pub(super) fn completion_stream(number: usize, body: &Value, answer: &Answer) -> String {
    let event = |choices: Value, usage: Value| {
        let chunk = json!({
            "id": format!("chatcmpl-{number}"),
            "object": "chat.completion.chunk",
            "created": 1_700_000_000,
            "model": body["model"],
            "choices": choices,
            "usage": usage,
        });
        format!("data: {chunk}\n\n")
    };
    let delta = |delta: Value, finish: Value| json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
    let mut events = event(delta(json!({"role": "assistant", "content": ""}), Value::Null), Value::Null);
    for piece in answer.text.split_inclusive(char::is_whitespace) {
        events += &event(delta(json!({"content": piece}), Value::Null), Value::Null);
    }
    events += &event(delta(json!({}), json!(answer.finish_reason)), Value::Null);
    if body["stream_options"]["include_usage"] == true {
        events += &event(json!([]), usage(answer));
    }
    events + "data: [DONE]\n\n"
}

fn usage(answer: &Answer) -> Value {
    let Tokens { input, cached_input, output } = answer.tokens;
    json!({
        "prompt_tokens": input,
        "completion_tokens": output,
        "total_tokens": input + output,
        "prompt_tokens_details": {"cached_tokens": cached_input},
    })
}

/// The role and text of every message; of a content in parts, the text parts joined by spaces.
fn messages(body: &Value) -> Vec<(String, String)> {
    let text_of = |content: &Value| match content {
        Value::Array(parts) => {
            let texts: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
            texts.join(" ")
        }
        other => other.as_str().unwrap_or_default().to_owned(),
    };
    let role_of = |message: &Value| message["role"].as_str().unwrap_or_default().to_owned();
    let messages = body["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    messages.iter().map(|message| (role_of(message), text_of(&message["content"]))).collect()
}

fn digest(text: &str) -> String {
    Sha256::digest(text).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// The text up to the end of its `limit`-th word, and the reason why it ends there.
fn cut(text: &str, limit: usize) -> (String, &'static str) {
    if text.split_whitespace().count() <= limit {
        return (text.to_owned(), "stop");
    }
    let kept: Vec<&str> = text.split_whitespace().take(limit).collect();
    (kept.join(" "), "length")
}

fn words(text: &str) -> u64 {
    u64::try_from(text.split_whitespace().count()).expect("a count fits 64 bits")
}
