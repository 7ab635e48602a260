//! Dead letters of one cause, seen together.

/// Longest normalised message, in characters.
const LENGTH_MAX: usize = 120;

/// What an error says, without what differs from one request to the next: numbers, ids, and what stands in quotes. Two
/// messages of the same cause become the same text.
pub fn normalised(message: &str) -> String {
    let mut text = String::new();
    let mut quote = None;
    for word in message.split_whitespace() {
        let word = if quote.is_some() { unquoted(word, &mut quote) } else { begun(word, &mut quote) };
        if word.is_empty() {
            continue;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&word);
    }
    text.chars().take(LENGTH_MAX).collect()
}

/// A word outside quotes.
fn begun(word: &str, quote: &mut Option<char>) -> String {
    let trimmed = word.trim_start_matches(['(', '[']);
    if let Some(mark) = trimmed.chars().next().filter(|first| ['"', '\'', '`'].contains(first)) {
        let rest = &trimmed[mark.len_utf8()..];
        if !rest.contains(mark) {
            *quote = Some(mark);
        }
        return "…".into();
    }
    let bare = word.trim_matches(|character: char| !character.is_alphanumeric());
    let is_id = bare.chars().any(|character| character.is_ascii_digit());
    if is_id { "#".into() } else { word.to_lowercase() }
}

/// A word inside quotes.
fn unquoted(word: &str, quote: &mut Option<char>) -> String {
    if quote.is_some_and(|mark| word.contains(mark)) {
        *quote = None;
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_differs_from_request_to_request_is_left_out() {
        for (message, expected) in [
            ("The server had an error (request req_81ab2)", "the server had an error (request #"),
            ("Invalid value: 'a long value' at 17", "invalid value: … at #"),
            ("No model \"gpt-9\" here", "no model … here"),
            ("the provider answered with status 503", "the provider answered with status #"),
            ("", ""),
            ("  spaced\n out ", "spaced out"),
            ("never \"closed again", "never …"),
        ] {
            assert_eq!(normalised(message), expected, "{message}");
        }
        let one = normalised("Request 0197-aa of org-x1 failed after 3 tries");
        assert_eq!(one, normalised("Request 0198-bb of org-y2 failed after 14 tries"));
    }

    proptest! {
        #[test]
        fn any_text_has_a_short_form(text in ".*") {
            prop_assert!(normalised(&text).chars().count() <= LENGTH_MAX);
        }
    }
}
