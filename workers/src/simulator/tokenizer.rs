//! The simulator's tokenizer: a rule so small that anyone can recount a bill by hand.
//!
//! **A token is**
//! 1. up to [`CHARACTERS_PER_TOKEN`] letters or digits in a row (a longer run is cut from its left into
//!    pieces of that many characters, the last one shorter), or
//! 2. any one other character that is not white space.
//!
//! White space is free, and ends a run. "Letter or digit" is Unicode's alphabetic or numeric, so the rule is
//! total over every string. `budget-safe: 12,000` is `budg et - safe : 12 , 000`, eight tokens.
//!
//! A chat prompt costs the tokens of its texts plus, so that structure is not free either,
//! [`TOKENS_PER_MESSAGE`] for each message and [`TOKENS_PER_PART`] for each content part that is not text.
//! Tool definitions and tool calls count as the text of their JSON, as it was sent. An answer costs the
//! tokens of its text and nothing else.
//!
//! Knows nothing of real vocabularies: counts are true to this rule, not to any provider's.

/// How many letters or digits one token holds at most.
pub const CHARACTERS_PER_TOKEN: usize = 4;

/// What each message of a chat prompt costs besides its text.
pub const TOKENS_PER_MESSAGE: u64 = 4;

/// What a content part that is not text (an image, a sound, a file) costs, whatever its size.
pub const TOKENS_PER_PART: u64 = 85;

/// Counts the tokens of a text by the rule of this module.
#[must_use]
pub fn count_tokens(text: &str) -> u64 {
    let mut tokens = 0;
    let mut run = 0;
    for character in text.chars() {
        if character.is_alphanumeric() {
            tokens += u64::from(run == 0);
            run = (run + 1) % CHARACTERS_PER_TOKEN;
        } else {
            tokens += u64::from(!character.is_whitespace());
            run = 0;
        }
    }
    tokens
}

/// The tokens of a text, in order, each with the white space before it. Put together again they are the text,
/// less the white space at its end.
pub fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (token, after) = rest.split_at(end_of_first_token(rest)?);
        rest = after;
        Some(token)
    })
}

/// The beginning of a text that holds `count` tokens, or all of them if there are fewer.
#[must_use]
pub fn first_tokens(text: &str, count: u64) -> &str {
    let mut end = 0;
    for _ in 0..count {
        match end_of_first_token(&text[end..]) {
            Some(length) => end += length,
            None => break,
        }
    }
    &text[..end]
}

/// Where the first token ends. Cutting there leaves the count of the rest as it was, since pieces of a long
/// run are counted from its left.
fn end_of_first_token(text: &str) -> Option<usize> {
    let mut run = 0;
    for (at, character) in text.char_indices() {
        if character.is_alphanumeric() {
            run += 1;
            if run == CHARACTERS_PER_TOKEN {
                return Some(at + character.len_utf8());
            }
        } else if run > 0 {
            return Some(at);
        } else if !character.is_whitespace() {
            return Some(at + character.len_utf8());
        }
    }
    (run > 0).then_some(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn counts_by_the_rule() {
        for (text, expected) in [
            ("", 0),
            (" \t\n\u{3000}", 0),
            ("a", 1),
            ("four", 1),
            ("fives", 2),
            ("eightish", 2),
            ("ninechars", 3),
            ("one two", 2),
            ("budget-safe: 12,000", 8),
            ("...", 3),
            ("don't", 3),
            ("Grüße", 2),
            ("日本語です", 2),
            ("🦀🦀", 2),
            ("a\u{0}b", 3),
        ] {
            assert_eq!(count_tokens(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_token_keeps_the_white_space_before_it() {
        assert_eq!(tokens("Hello,  world ").collect::<Vec<_>>(), ["Hell", "o", ",", "  worl", "d"]);
    }

    proptest! {
        #[test]
        fn white_space_between_texts_makes_counts_add_up(a in ".*", b in ".*") {
            prop_assert_eq!(count_tokens(&format!("{a} {b}")), count_tokens(&a) + count_tokens(&b));
        }

        #[test]
        fn joining_texts_never_costs_more(a in "\\PC*", b in "\\PC*") {
            let joined = format!("{a}{b}");
            prop_assert!(count_tokens(&joined) <= count_tokens(&a) + count_tokens(&b));
        }

        #[test]
        fn splitting_agrees_with_counting(text in ".*") {
            let pieces: Vec<&str> = tokens(&text).collect();
            prop_assert_eq!(pieces.len() as u64, count_tokens(&text));
            prop_assert_eq!(pieces.concat(), text.trim_end());
            prop_assert!(pieces.iter().all(|piece| count_tokens(piece) == 1));
        }

        #[test]
        fn a_beginning_has_as_many_tokens_as_asked(text in ".*", count in 0_u64..40) {
            let beginning = first_tokens(&text, count);
            prop_assert!(text.starts_with(beginning));
            prop_assert_eq!(count_tokens(beginning), count.min(count_tokens(&text)));
        }
    }
}
