//! Tokens of a request's input, counted before it is called.
//!
//! What is counted is what OpenAI counts, as far as that is known: the text of the messages, three tokens around each and
//! three for the answer's beginning (OpenAI's cookbook, "How to count tokens with tiktoken"), names and descriptions of
//! tools and schemas, and pictures by the piece. How tools are written for the model is not published; nothing of this is a
//! bound, and the provider's own count replaces it when the call has ended.

mod walk;

use bpe_openai::Tokenizer;
use tollgate_policy::inputs::{MEDIA_TOKENS, Vocabulary};

/// Bytes of text that are counted. The rest of a longer text is taken to be like its beginning.
const COUNTED_BYTES_MAX: usize = 64 * 1024;
/// Bytes per token of text of which nothing was counted.
const BYTES_PER_TOKEN: u64 = 4;
/// A picture that is to be looked at in low detail (OpenAI's guide to images and vision).
const LOW_DETAIL_TOKENS: u64 = 85;
/// Around a message, and before an answer.
const MESSAGE_TOKENS: u64 = 3;

/// Words without which a body has nothing but text.
const MEDIA_WORDS: [&str; 3] = ["image_url", "input_audio", "file_data"];

/// What a body has in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Input {
    /// Its tokens; `None` if no vocabulary was given.
    pub tokens: Option<u64>,
    /// Pictures and the like.
    pub media: u32,
    /// Bytes that are such things.
    pub media_bytes: usize,
}

/// Looks at the body of a chat completion. One that cannot be read has nothing.
pub fn read(body: &str, vocabulary: Option<Vocabulary>) -> Input {
    let has_media = MEDIA_WORDS.iter().any(|word| body.contains(word));
    if vocabulary.is_none() && !has_media {
        return Input::default();
    }
    let mut count = Count { tokenizer: vocabulary.map(tokenizer), ..Count::default() };
    if walk::body(body, &mut count).is_err() {
        return Input::default();
    }
    Input {
        tokens: vocabulary.map(|_| count.total()),
        media: count.media,
        media_bytes: count.media_bytes.min(body.len()),
    }
}

/// Makes a vocabulary ready, which takes a moment: done before the first request, no request waits for it.
pub fn load(vocabulary: Vocabulary) {
    tokenizer(vocabulary);
}

fn tokenizer(vocabulary: Vocabulary) -> &'static Tokenizer {
    match vocabulary {
        Vocabulary::Cl100k => bpe_openai::cl100k_base(),
        Vocabulary::O200k => bpe_openai::o200k_base(),
    }
}

/// What was counted so far.
#[derive(Default)]
struct Count {
    tokenizer: Option<&'static Tokenizer>,
    /// Of text.
    tokens: u64,
    text_bytes: u64,
    counted_bytes: u64,
    /// Of everything else.
    others: u64,
    media: u32,
    media_bytes: usize,
}

impl Count {
    fn text(&mut self, text: &str) {
        self.text_bytes += text.len() as u64;
        let left =
            COUNTED_BYTES_MAX.saturating_sub(usize::try_from(self.counted_bytes).unwrap_or(usize::MAX));
        let mut end = left.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let counted = &text[..end];
        if let (Some(tokenizer), false) = (self.tokenizer, counted.is_empty()) {
            self.tokens += tokenizer.count(counted) as u64;
            self.counted_bytes += counted.len() as u64;
        }
    }

    fn message(&mut self) {
        self.others += MESSAGE_TOKENS;
    }

    /// So many tokens that are written for the model without being text of the request.
    fn more(&mut self, tokens: u64) {
        self.others += tokens;
    }

    fn media(&mut self, bytes: usize, is_low: bool) {
        self.media = self.media.saturating_add(1);
        self.media_bytes = self.media_bytes.saturating_add(bytes);
        self.others += if is_low { LOW_DETAIL_TOKENS } else { MEDIA_TOKENS };
    }

    fn total(&self) -> u64 {
        let text = match self.counted_bytes {
            0 => self.text_bytes.div_ceil(BYTES_PER_TOKEN),
            counted => {
                let all = u128::from(self.tokens) * u128::from(self.text_bytes);
                u64::try_from(all.div_ceil(u128::from(counted))).unwrap_or(u64::MAX)
            }
        };
        text.saturating_add(self.others).saturating_add(MESSAGE_TOKENS)
    }
}

#[cfg(test)]
mod tests;
