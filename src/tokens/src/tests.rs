use proptest::prelude::*;

use super::*;

fn tokens(body: &str) -> u64 {
    read(body, Some(Vocabulary::O200k)).tokens.unwrap()
}

#[test]
fn the_numbers_are_those_of_openais_tokenizers() {
    // Numbers of the cookbook for `cl100k_base` and `o200k_base`.
    for (text, cl100k, o200k) in [
        ("hello world", 2, 2),
        ("tiktoken is great!", 6, 6),
        ("antidisestablishmentarianism", 6, 6),
        ("お誕生日おめでとう", 9, 8),
    ] {
        assert_eq!(tokenizer(Vocabulary::Cl100k).count(text), cl100k, "{text}");
        assert_eq!(tokenizer(Vocabulary::O200k).count(text), o200k, "{text}");
    }
}

#[test]
fn messages_are_counted_as_the_cookbook_says() {
    // Three for the answer; three, one for the role, two of text.
    assert_eq!(tokens(r#"{"model":"m","messages":[{"role":"user","content":"hello world"}]}"#), 9);
    let parts = r#"{"messages":[{"role":"user","content":[{"type":"text","text":"hello world"}]}]}"#;
    assert_eq!(tokens(parts), 9, "the same in parts");
    let named = r#"{"messages":[{"role":"user","name":"hello","content":"hello world"}]}"#;
    assert_eq!(tokens(named), 11, "one for the name, and its text");
    assert_eq!(tokens(r#"{"messages":[],"user":"a long name that no model sees"}"#), 3);
}

#[test]
fn tools_are_text_for_the_model() {
    let without = r#"{"messages":[{"role":"user","content":"hello world"}]}"#;
    let with = r#"{"tools":[{"type":"function","function":{"name":"look","description":"look it up","strict":true}}],"messages":[{"role":"user","content":"hello world"}]}"#;
    assert!(tokens(with) >= tokens(without) + 8);
}

#[test]
fn pictures_are_counted_by_the_piece() {
    let body = |url: &str, detail: &str| {
        format!(
            r#"{{"messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"{url}"{detail}}}}}]}}]}}"#
        )
    };
    let inline = format!("data:image/png;base64,{}", "A".repeat(100_000));
    let read = |url: &str, detail: &str, vocabulary| read(&body(url, detail), vocabulary);
    let input = read(&inline, "", Some(Vocabulary::O200k));
    assert_eq!((input.tokens, input.media, input.media_bytes), (Some(7 + MEDIA_TOKENS), 1, inline.len()));
    let low = read(&inline, r#","detail":"low""#, Some(Vocabulary::O200k));
    assert_eq!(low.tokens, Some(7 + LOW_DETAIL_TOKENS));
    let named = read("https://example.com/a.png", "", None);
    assert_eq!((named.tokens, named.media), (None, 1), "without a tokenizer, too");
    let odd = r#"{"messages":[{"role":"user","content":[{"image_url":{"url":[1],"detail":{"low":1}}}]}]}"#;
    assert_eq!(super::read(odd, None).media, 1);
}

#[test]
fn a_long_text_is_taken_to_be_like_its_beginning() {
    let body =
        |words: usize| format!(r#"{{"messages":[{{"role":"user","content":"{}"}}]}}"#, "word ".repeat(words));
    let (some, many) = (tokens(&body(10_000)), tokens(&body(1_000_000)));
    let ratio = many / some;
    assert!((95..=105).contains(&ratio), "{some} {many}");
    // A text that no word ends, which some tokenizers need quadratic time for.
    let long = format!(r#"{{"messages":[{{"role":"user","content":"{}"}}]}}"#, "a".repeat(4_000_000));
    assert!(tokens(&long) > 100_000);
}

#[test]
fn what_cannot_be_read_is_not_counted() {
    for body in ["", "{", r#"{"messages":[{"content":"#] {
        assert_eq!(read(body, Some(Vocabulary::O200k)), Input::default(), "{body}");
    }
    for body in ["[]", "7", r#"{"messages":{"a":"image_url"}}"#, r#"{"messages":7}"#] {
        let input = read(body, Some(Vocabulary::O200k));
        assert_eq!((input.tokens, input.media), (Some(MESSAGE_TOKENS), 0), "{body}");
    }
    let deep = format!(r#"{{"tools":{}1{}}}"#, "[".repeat(500), "]".repeat(500));
    assert_eq!(read(&deep, Some(Vocabulary::O200k)).tokens, None);
}

proptest! {
    #[test]
    fn no_text_breaks_it(text in ".{0,200}", key in ".{0,9}") {
        let body = serde_json::json!({
            "messages": [{"role": "user", "content": text, "name": key}, {"content": [{"text": text}]}],
            "tools": [{&key: [&text, 1, null, true, 1.5]}],
        });
        let input = read(&body.to_string(), Some(Vocabulary::Cl100k));
        prop_assert!(input.tokens.is_some_and(|tokens| tokens <= 3 + 10 + 4 * text.len() as u64 + 3 * key.len() as u64 + 5));
    }
}
