//! How many tokens the input of a request has, before any provider has counted them.
//!
//! For models of OpenAI a tokenizer counts the text of a request when it is taken in. For others the bytes of a body say it,
//! at the ratio that the calls of the same model had so far: the newest count most, and long bodies more than short ones.
//! Pictures and the like are counted by the piece; a ratio of text would take one for a book.

use std::collections::HashMap;

use tollgate_protocol::job::{Job, Target};

/// UTF-8 bytes of JSON per token while nothing is known of a model: English text has about four.
const BYTES_PER_TOKEN: u64 = 4;
/// A ratio is believed between one token per byte and one token in so many.
const BYTES_PER_TOKEN_MAX: u64 = 64;
/// Tokens of a picture: one of 1024 by 1024 pixels in full detail (OpenAI's guide to images and vision: 85, and 170 for each
/// of four tiles).
pub const MEDIA_TOKENS: u64 = 765;
/// Models that are remembered. Beyond it all are forgotten, and learnt anew.
const KNOWN_MAX: usize = 10_000;
/// What a call adds fades by one part in so many with each call after it.
const PARTS: u64 = 32;

/// Beginnings of the names of models, and the vocabulary behind them (OpenAI's `tiktoken`, `model.py`).
const VOCABULARIES: [(&str, Vocabulary); 14] = [
    ("gpt-5", Vocabulary::O200k),
    ("gpt-4.5", Vocabulary::O200k),
    ("gpt-4.1", Vocabulary::O200k),
    ("gpt-4o", Vocabulary::O200k),
    ("chatgpt-4o", Vocabulary::O200k),
    ("gpt-oss", Vocabulary::O200k),
    ("o1", Vocabulary::O200k),
    ("o3", Vocabulary::O200k),
    ("o4-mini", Vocabulary::O200k),
    ("gpt-4", Vocabulary::Cl100k),
    ("gpt-3.5", Vocabulary::Cl100k),
    ("gpt-35", Vocabulary::Cl100k),
    ("text-embedding-3", Vocabulary::Cl100k),
    ("text-embedding-ada-002", Vocabulary::Cl100k),
];

/// A vocabulary of OpenAI's tokenizers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vocabulary {
    /// `cl100k_base`: GPT-3.5 and GPT-4, and embeddings.
    Cl100k,
    /// `o200k_base`: what came after.
    O200k,
}

impl Vocabulary {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Cl100k, Self::O200k];

    /// That of a model of this name; `None` if no tokenizer for it is known.
    pub fn of(model: &str) -> Option<Self> {
        // Hubs put a vendor before the name, and fine-tuned models are called after their base.
        let name = model.rsplit_once('/').map_or(model, |(_, name)| name);
        let name = name.strip_prefix("ft:").unwrap_or(name);
        let is_of = |start: &str| {
            // "o1" is a model, and so is "o1-mini"; "o10" is something else.
            name.strip_prefix(start).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        VOCABULARIES.iter().find(|(start, _)| is_of(start)).map(|(_, vocabulary)| *vocabulary)
    }
}

/// By what an estimate was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The model's tokenizer.
    Tokenizer,
    /// The bytes of the body.
    Bytes,
}

impl By {
    /// The text in a metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tokenizer => "tokenizer",
            Self::Bytes => "bytes",
        }
    }
}

/// What was learnt of models.
#[derive(Debug, Default)]
pub struct Inputs(HashMap<Target, Ratio>);

/// Bytes, and the tokens that they had.
#[derive(Clone, Copy, Debug, Default)]
struct Ratio {
    bytes: u64,
    tokens: u64,
}

impl Inputs {
    /// A provider counted so many tokens in the input of a request.
    pub fn note(&mut self, target: &Target, job: &Job, tokens: u64) {
        self.note_bytes(target, text_alone(job), tokens);
    }

    /// The same of one with so many bytes of text, and nothing else; of one with none, nothing is learnt.
    pub fn note_bytes(&mut self, target: &Target, bytes: u64, tokens: u64) {
        if bytes == 0 || tokens == 0 {
            return;
        }
        if self.0.len() >= KNOWN_MAX && !self.0.contains_key(target) {
            self.0.clear();
        }
        let tokens = tokens.clamp(bytes.div_ceil(BYTES_PER_TOKEN_MAX), bytes);
        let known = self.0.entry(target.clone()).or_default();
        let faded = |sum: u64| sum - sum.div_ceil(PARTS);
        // In hundredths of bytes and tokens, so that small ones do not fade to nothing at once.
        known.bytes = faded(known.bytes).saturating_add(bytes.saturating_mul(100));
        known.tokens = faded(known.tokens).saturating_add(tokens.saturating_mul(100)).min(known.bytes);
    }

    /// How many tokens its input has for this target, and by what that is known. Never more than its body has bytes, which
    /// is what `strict` budgets reserve for: an estimate can be charged, and a body of a few bytes can name many pictures.
    pub fn tokens(&self, job: &Job, target: &Target) -> (u64, By) {
        let (tokens, by) = self.uncapped(job, target);
        (tokens.min(job.body_bytes() as u64), by)
    }

    fn uncapped(&self, job: &Job, target: &Target) -> (u64, By) {
        if let (Some(tokens), Some(_)) = (job.input_tokens, Vocabulary::of(&target.model)) {
            return (tokens, By::Tokenizer);
        }
        let bytes = text_bytes(job);
        let of_text = match self.0.get(target).filter(|ratio| ratio.bytes > 0) {
            Some(Ratio { bytes: all, tokens }) => {
                let product = u128::from(bytes) * u128::from(*tokens);
                u64::try_from(product.div_ceil(u128::from(*all))).unwrap_or(u64::MAX)
            }
            None => bytes.div_ceil(BYTES_PER_TOKEN),
        };
        (of_text.saturating_add(u64::from(job.media).saturating_mul(MEDIA_TOKENS)), By::Bytes)
    }

    /// The same for the target it goes to now.
    pub fn tokens_now(&self, job: &Job) -> u64 {
        job.current_target().map_or(0, |target| self.tokens(job, target).0)
    }
}

/// Bytes of a body that are text and the JSON around it.
fn text_bytes(job: &Job) -> u64 {
    job.body_bytes().saturating_sub(job.media_bytes) as u64
}

/// The same of one that has nothing else; 0 for others.
pub fn text_alone(job: &Job) -> u64 {
    if job.media == 0 { text_bytes(job) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::tests::job;

    fn target(model: &str) -> Target {
        Target { provider: "sim".to_owned(), model: model.to_owned() }
    }

    fn of_bytes(bytes: usize) -> Job {
        Job { body: vec![b'x'; bytes].into(), ..job(vec![target("m")]) }
    }

    #[test]
    fn models_have_the_vocabulary_that_tiktoken_says() {
        let table = [
            ("gpt-4o-mini-2024-07-18", Some(Vocabulary::O200k)),
            ("openai/gpt-5-nano", Some(Vocabulary::O200k)),
            ("ft:gpt-4o:acme::abc", Some(Vocabulary::O200k)),
            ("o3", Some(Vocabulary::O200k)),
            ("gpt-4-turbo", Some(Vocabulary::Cl100k)),
            ("gpt-4", Some(Vocabulary::Cl100k)),
            ("gpt-4.1-mini", Some(Vocabulary::O200k)),
            ("gpt-35-turbo", Some(Vocabulary::Cl100k)),
            ("text-embedding-3-small", Some(Vocabulary::Cl100k)),
            ("o10", None),
            ("claude-sonnet-4-5", None),
            ("m-1", None),
            ("", None),
        ];
        for (model, expected) in table {
            assert_eq!(Vocabulary::of(model), expected, "{model}");
        }
    }

    #[test]
    fn the_ratio_of_a_model_is_learnt_from_its_calls() {
        let mut inputs = Inputs::default();
        let tokens = |inputs: &Inputs, bytes| inputs.tokens(&of_bytes(bytes), &target("m"));
        assert_eq!(tokens(&inputs, 400), (100, By::Bytes), "nothing is known: four bytes a token");
        for _ in 0..100 {
            inputs.note(&target("m"), &of_bytes(1_000), 500);
        }
        assert_eq!(tokens(&inputs, 400), (200, By::Bytes));
        assert_eq!(inputs.tokens(&of_bytes(400), &target("other")).0, 100, "each model has its own");
        for _ in 0..300 {
            inputs.note(&target("m"), &of_bytes(1_000), 250);
        }
        assert!((100..=101).contains(&tokens(&inputs, 400).0), "what is long ago is forgotten");
    }

    #[test]
    fn no_number_of_a_provider_is_believed_without_limit() {
        let mut inputs = Inputs::default();
        for (reported, expected) in [(u64::MAX, 640), (1, 10)] {
            for _ in 0..400 {
                inputs.note(&target("m"), &of_bytes(6_400), reported);
            }
            let tokens = inputs.tokens(&of_bytes(640), &target("m")).0;
            assert!((expected..=expected + 1).contains(&tokens), "{reported}: {tokens}");
        }
        inputs.note(&target("m"), &of_bytes(0), 5);
        inputs.note(&target("m"), &of_bytes(5), 0);
        for n in 0..=KNOWN_MAX {
            inputs.note(&target(&format!("m-{n}")), &of_bytes(4), 1);
        }
        assert!(inputs.0.len() <= KNOWN_MAX);
    }

    #[test]
    fn a_tokenizers_count_is_for_its_models_only() {
        let inputs = Inputs::default();
        let counted = Job { input_tokens: Some(7), ..of_bytes(400) };
        let absurd = Job { input_tokens: Some(u64::MAX), ..of_bytes(400) };
        assert_eq!(inputs.tokens(&absurd, &target("gpt-4o")).0, 400, "never more than bytes");
        assert_eq!(inputs.tokens(&counted, &target("gpt-4o")), (7, By::Tokenizer));
        assert_eq!(inputs.tokens(&counted, &target("claude-sonnet-4-5")), (100, By::Bytes));
        assert_eq!(inputs.tokens(&of_bytes(400), &target("gpt-4o")), (100, By::Bytes), "nobody counted");
    }

    #[test]
    fn a_picture_is_not_taken_for_text() {
        let mut inputs = Inputs::default();
        let picture = Job { media: 1, media_bytes: 100_000, ..of_bytes(100_400) };
        assert_eq!(inputs.tokens(&picture, &target("m")).0, 100 + MEDIA_TOKENS);
        let named = Job { media: u32::MAX, ..of_bytes(400) };
        assert_eq!(inputs.tokens(&named, &target("m")).0, 400, "nor are many that are only named");
        inputs.note(&target("m"), &picture, 100_000);
        assert_eq!(inputs.tokens(&of_bytes(400), &target("m")).0, 100, "nothing is learnt of it");
    }
}
