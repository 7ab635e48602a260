//! The shapes of OpenAI's answers to a chat call, whole and in chunks, with every member in OpenAI's order.

use super::answer::{Finish, Text};
use serde::Serialize;

const FINGERPRINT: &str = "fp_simulator";

/// A whole `chat.completion`.
#[derive(Serialize)]
pub(super) struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    model: &'a str,
    choices: Vec<Choice<'a>>,
    usage: Usage,
    system_fingerprint: &'static str,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: usize,
    message: Message<'a>,
    logprobs: Option<()>,
    finish_reason: Finish,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
    refusal: Option<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Usage {
    pub(super) prompt_tokens: u64,
    pub(super) completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct PromptDetails {
    cached_tokens: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct CompletionDetails {
    reasoning_tokens: u64,
}

/// One `chat.completion.chunk`. Where usage is asked for, every chunk says `usage`, and only the last has
/// one.
#[derive(Serialize)]
pub(super) struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    model: &'a str,
    choices: &'a [ChunkChoice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    system_fingerprint: &'static str,
}

#[derive(Serialize)]
pub(super) struct ChunkChoice<'a> {
    index: usize,
    delta: Delta<'a>,
    logprobs: Option<()>,
    finish_reason: Option<Finish>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Delta<'a> {
    Role { role: &'static str, content: &'static str, refusal: Option<()> },
    Content { content: &'a str },
    Nothing {},
}

/// What all chunks of an answer have in common with each other and with the whole.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) model: String,
}

impl Usage {
    pub(super) fn new(prompt_tokens: u64, choices: &[Text]) -> Self {
        let completion_tokens = choices.iter().map(|choice| choice.tokens).sum();
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptDetails::default(),
            completion_tokens_details: CompletionDetails::default(),
        }
    }
}

impl Head {
    pub(super) fn whole<'a>(&'a self, choices: &'a [Text], usage: Usage) -> Completion<'a> {
        let choice = |(index, text): (usize, &'a Text)| Choice {
            index,
            message: Message { role: "assistant", content: &text.content, refusal: None },
            logprobs: None,
            finish_reason: text.finish,
        };
        Completion {
            id: &self.id,
            object: "chat.completion",
            created: self.created,
            model: &self.model,
            choices: choices.iter().enumerate().map(choice).collect(),
            usage,
            system_fingerprint: FINGERPRINT,
        }
    }

    pub(super) fn chunk<'a>(
        &'a self,
        choices: &'a [ChunkChoice<'a>],
        usage: Option<Option<Usage>>,
    ) -> Chunk<'a> {
        Chunk {
            id: &self.id,
            object: "chat.completion.chunk",
            created: self.created,
            model: &self.model,
            choices,
            usage,
            system_fingerprint: FINGERPRINT,
        }
    }
}

impl<'a> ChunkChoice<'a> {
    pub(super) fn begin(index: usize) -> Self {
        Self::new(index, Delta::Role { role: "assistant", content: "", refusal: None }, None)
    }

    pub(super) fn piece(index: usize, content: &'a str) -> Self {
        Self::new(index, Delta::Content { content }, None)
    }

    pub(super) fn end(index: usize, finish: Finish) -> Self {
        Self::new(index, Delta::Nothing {}, Some(finish))
    }

    fn new(index: usize, delta: Delta<'a>, finish_reason: Option<Finish>) -> Self {
        Self { index, delta, logprobs: None, finish_reason }
    }
}
