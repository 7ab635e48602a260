//! Writes the answer to a chat call: plain English about the words of the question, the same for the same
//! call.
//!
//! Chance comes from a digest of the model, the messages, the seed and the number of the choice, and from
//! nothing else; so a longer `max_tokens` mostly means more of the same text, and a repeated call repeats its
//! answer.
//!
//! How long an answer is:
//! - without a limit it ends by itself after 64 to 192 tokens (`stop`);
//! - with a limit below 96 it is cut at exactly that many tokens (`length`);
//! - with a higher limit every other question gets exactly that many (`length`), and the rest end by
//!   themselves at a full stop, somewhere short of it (`stop`);
//! - a stop string ends it before the first place it occurs (`stop`).

use super::chance::{Dice, Digest};
use super::request::Chat;
use super::tokenizer::{count_tokens, first_tokens};
use super::words;
use serde::Serialize;

/// No sentence has more tokens (a test holds the vocabulary to it), so a text can be ended this close to any
/// length.
const SENTENCE_TOKENS_MAX: u64 = 48;
const TOKENS_BY_DEFAULT: (u64, u64) = (64 + SENTENCE_TOKENS_MAX, 192);
const LIMIT_ALWAYS_REACHED_BELOW: u64 = 2 * SENTENCE_TOKENS_MAX;

/// How much of a question is looked at for subjects, and how many are taken.
const QUESTION_BYTES_MAX: usize = 2_048;
const SUBJECTS_MAX: usize = 6;
const SUBJECT_CHARACTERS: std::ops::RangeInclusive<usize> = 4..=16;

/// One choice of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) content: String,
    /// `count_tokens(content)`, which is what is paid for.
    pub(super) tokens: u64,
    pub(super) finish: Finish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Finish {
    Stop,
    Length,
}

/// Where a text is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// At the last full stop within so many tokens.
    Within(u64),
    /// Wherever that many tokens are reached.
    Exactly(u64),
}

/// What makes a call the same call. Limits and ways of delivery are left out: they change how much is seen of
/// an answer, not the answer.
pub(super) fn digest(chat: &Chat<'_>) -> Digest {
    let mut digest = Digest::new(0).text(&chat.model);
    if let Some(seed) = chat.seed {
        digest = digest.number(1).number(seed.cast_unsigned());
    }
    for message in &chat.messages {
        digest = digest.text(&message.role);
        for text in message.content.texts() {
            digest = digest.text(text);
        }
    }
    digest
}

/// All choices of an answer.
pub(super) fn write(chat: &Chat<'_>, digest: Digest) -> Vec<Text> {
    let subjects = subjects(chat);
    let choice = |index| choice(&subjects, chat, digest.number(u64::from(index)).dice());
    (0..chat.choices).map(choice).collect()
}

fn choice(subjects: &[&str], chat: &Chat<'_>, mut dice: Dice) -> Text {
    let end = end(chat.tokens_max, &mut dice);
    let (mut content, mut tokens) = compose(subjects, end, &mut dice);
    let mut finish = match end {
        End::Within(_) => Finish::Stop,
        End::Exactly(_) => Finish::Length,
    };
    if let Some(at) = chat.stop.iter().filter_map(|stop| content.find(&**stop)).min() {
        content.truncate(at);
        content.truncate(content.trim_end().len());
        tokens = count_tokens(&content);
        finish = Finish::Stop;
    }
    Text { content, tokens, finish }
}

fn end(tokens_max: Option<u64>, dice: &mut Dice) -> End {
    // Thrown in any case, so that the text which follows does not depend on the limit.
    let (early, share) = (dice.fraction() < 0.5, dice.fraction());
    let between = |low: u64, high: u64| low + ((high - low + 1) as f64 * share) as u64;
    match tokens_max {
        None => End::Within(between(TOKENS_BY_DEFAULT.0, TOKENS_BY_DEFAULT.1)),
        Some(max) if max >= LIMIT_ALWAYS_REACHED_BELOW && early => End::Within(between(max / 2, max - 1)),
        Some(max) => End::Exactly(max),
    }
}

fn compose(subjects: &[&str], end: End, dice: &mut Dice) -> (String, u64) {
    let (End::Within(goal) | End::Exactly(goal)) = end;
    let mut text = String::with_capacity(usize::try_from(goal).unwrap_or_default().saturating_mul(5));
    let mut tokens = 0;
    let mut patterns = patterns(dice);
    while tokens < goal {
        let before = text.len();
        let pattern = if before == 0 {
            words::OPENINGS[dice.below(words::OPENINGS.len())]
        } else {
            text.push(' ');
            patterns.next().unwrap_or_default()
        };
        sentence(&mut text, pattern, subjects, before == 0, dice);
        let added = count_tokens(&text[before..]);
        debug_assert!(added <= SENTENCE_TOKENS_MAX, "a sentence has {added} tokens");
        if tokens + added > goal {
            let kept = match end {
                End::Within(_) => 0,
                End::Exactly(_) => first_tokens(&text[before..], goal - tokens).len(),
            };
            text.truncate(before + kept);
            return (text, if kept == 0 { tokens } else { goal });
        }
        tokens += added;
    }
    (text, tokens)
}

/// All patterns in one of many orders, again and again, so that none comes back soon.
fn patterns(dice: &mut Dice) -> impl Iterator<Item = &'static str> + use<> {
    const COUNT: usize = words::PATTERNS.len();
    // An odd stride visits all of a number that is a power of two.
    const { assert!(COUNT.is_power_of_two()) };
    let (start, stride) = (dice.below(COUNT), 2 * dice.below(COUNT) + 1);
    (0_usize..).map(move |step| words::PATTERNS[step.wrapping_mul(stride).wrapping_add(start) % COUNT])
}

fn sentence(text: &mut String, pattern: &str, subjects: &[&str], first: bool, dice: &mut Dice) {
    let subject = if first { 0 } else { dice.below(subjects.len()) };
    let other = if first { 1 % subjects.len() } else { other_than(subject, subjects.len(), dice) };
    let any = |list: &[&'static str], dice: &mut Dice| list[dice.below(list.len())];
    let mut rest = pattern;
    while let Some(at) = rest.find(['$', '&', '#', '^', '~']) {
        text.push_str(&rest[..at]);
        text.push_str(match rest.as_bytes()[at] {
            b'$' => subjects[subject],
            // With one subject only, the pattern still needs something to set against it.
            b'&' if other == subject => any(words::NOUNS, dice),
            b'&' => subjects[other],
            b'#' => any(words::NOUNS, dice),
            b'^' => any(words::ADJECTIVES, dice),
            _ => any(words::VERBS, dice),
        });
        rest = &rest[at + 1..];
    }
    text.push_str(rest);
}

/// An index other than this one, where there is another.
fn other_than(index: usize, length: usize, dice: &mut Dice) -> usize {
    (index + 1 + dice.below(length.saturating_sub(1))) % length
}

/// The first different words of the question that could be what it is about; never none.
fn subjects<'a>(chat: &'a Chat<'_>) -> Vec<&'a str> {
    let mut subjects: Vec<&str> = Vec::with_capacity(SUBJECTS_MAX);
    let parts = chat.question().map(|text| beginning(text, QUESTION_BYTES_MAX));
    for word in parts.flat_map(|text| text.split(|character: char| !character.is_alphanumeric())) {
        if subjects.len() == SUBJECTS_MAX {
            break;
        }
        if is_subject(word) && !subjects.iter().any(|known| known.eq_ignore_ascii_case(word)) {
            subjects.push(word);
        }
    }
    if subjects.is_empty() {
        subjects.push(words::SUBJECT_WITHOUT_WORDS);
    }
    subjects
}

/// At most so many bytes of a text, cut between characters.
fn beginning(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn is_subject(word: &str) -> bool {
    word.len() >= *SUBJECT_CHARACTERS.start()
        && SUBJECT_CHARACTERS.contains(&word.chars().count())
        && word.chars().all(char::is_alphabetic)
        && !words::NOT_SUBJECTS.iter().any(|not| not.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests;
