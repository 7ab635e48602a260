use super::*;
use proptest::prelude::*;
use std::collections::HashSet;

fn body(question: &str, more: &str) -> String {
    let question = serde_json::to_string(question).expect("a string");
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":{question}}}]{more}}}"#)
}

fn choices(json: &str) -> Vec<Text> {
    let chat = Chat::parse(json.as_bytes()).expect(json);
    write(&chat, digest(&chat))
}

fn answer(question: &str, more: &str) -> Text {
    choices(&body(question, more)).remove(0)
}

#[test]
fn reads_like_prose_about_its_question() {
    let text = answer("Explain how hydroelectric turbines store energy in the Alps, please.", "");
    insta::assert_snapshot!(text.content);
    let text = answer("Reply with one word: ok?", r#","max_tokens":20"#);
    insta::assert_snapshot!(text.content);
}

#[test]
fn no_sentence_is_longer_than_promised() {
    let longest = |list: &'static [&'static str]| {
        *list.iter().max_by_key(|text| count_tokens(text)).expect("a vocabulary")
    };
    for pattern in words::OPENINGS.iter().chain(words::PATTERNS) {
        let filled = pattern
            .replace(['$', '&'], "abcdefghijklmnop")
            .replace('#', longest(words::NOUNS))
            .replace('^', longest(words::ADJECTIVES))
            .replace('~', longest(words::VERBS));
        assert!(count_tokens(&filled) <= SENTENCE_TOKENS_MAX, "{filled}: {}", count_tokens(&filled));
        assert!(pattern.ends_with('.') && pattern.starts_with(char::is_uppercase), "{pattern}");
    }
}

#[test]
fn every_part_of_a_call_counts() {
    let base = r#""messages":[{"role":"user","content":"rain"}]"#;
    let calls = [
        format!(r#"{{"model":"m",{base}}}"#),
        format!(r#"{{"model":"n",{base}}}"#),
        format!(r#"{{"model":"m",{base},"seed":1}}"#),
        format!(r#"{{"model":"m",{base},"seed":-1}}"#),
        r#"{"model":"m","messages":[{"role":"system","content":"rain"}]}"#.to_owned(),
        r#"{"model":"m","messages":[{"role":"system","content":"x"},{"role":"user","content":"rain"}]}"#
            .to_owned(),
        r#"{"model":"m","messages":[{"role":"user","content":"rains"}]}"#.to_owned(),
    ];
    let answers: HashSet<String> = calls.iter().map(|call| choices(call).remove(0).content).collect();
    assert_eq!(answers.len(), calls.len());
}

#[test]
fn the_way_of_delivery_and_the_spelling_of_json_do_not_count() {
    let plain = choices(r#"{"model":"m","messages":[{"role":"user","content":"rain"}]}"#);
    let other = choices(
        r#"{ "messages": [ { "content": [ {"type":"text","text":"r\u0061in"} ], "role":"user"} ],
            "stream":true, "model":"m", "temperature": 0.3 }"#,
    );
    assert_eq!(plain, other);
}

#[test]
fn limits_below_96_are_always_reached_and_some_above_are_not() {
    let mut ended = [0, 0];
    for question in 0..200 {
        let text = answer(&format!("question about river {question}"), r#","max_tokens":300"#);
        match text.finish {
            Finish::Length => assert_eq!(text.tokens, 300),
            Finish::Stop => assert!((100..300).contains(&text.tokens) && text.content.ends_with('.')),
        }
        ended[usize::from(text.finish == Finish::Stop)] += 1;
    }
    assert!(ended[0] > 60 && ended[1] > 60, "{ended:?}");
}

#[test]
fn all_choices_differ() {
    let choices = choices(&body("rivers", r#","n":5"#));
    assert_eq!(choices.iter().map(|choice| &choice.content).collect::<HashSet<_>>().len(), 5);
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let whole = answer("Tell me about glaciers", "");
    let word = whole.content.split(' ').nth(12).expect("a dozen words");
    let cut = answer("Tell me about glaciers", &format!(r#","stop":["nowhere to be found","{word}"]"#));
    assert_eq!(cut.content, whole.content[..whole.content.find(word).expect("the word")].trim_end());
    assert_eq!((cut.finish, cut.tokens), (Finish::Stop, count_tokens(&cut.content)));
}

#[test]
fn a_long_question_is_cut_between_characters() {
    for ahead in 0..4 {
        let question = format!("{}{}", "x".repeat(ahead), "日".repeat(3_000));
        assert!(answer(&question, "").content.contains(words::SUBJECT_WITHOUT_WORDS));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn length_and_usage_are_true(question in ".{0,200}", max in prop::option::of(1_u64..600)) {
        let more = max.map(|max| format!(r#","max_completion_tokens":{max}"#)).unwrap_or_default();
        let text = answer(&question, &more);
        prop_assert_eq!(text.tokens, count_tokens(&text.content));
        prop_assert_eq!(text.content.trim_end(), &text.content);
        match (max, text.finish) {
            (None, finish) => {
                prop_assert_eq!(finish, Finish::Stop);
                prop_assert!((64..=192).contains(&text.tokens));
            }
            (Some(max), Finish::Length) => prop_assert_eq!(text.tokens, max),
            (Some(max), Finish::Stop) => prop_assert!((1..max).contains(&text.tokens) && max >= 96),
        }
        prop_assert_ne!(&text.content, &question);
        prop_assert_eq!(&text, &answer(&question, &more));
    }

    #[test]
    fn other_questions_have_other_answers(a in ".{0,80}", b in ".{0,80}") {
        prop_assert_eq!(a == b, answer(&a, "").content == answer(&b, "").content);
    }

    #[test]
    fn a_higher_limit_goes_on_with_the_same_text(
        question in ".{0,80}",
        low in 1_u64..200,
        high in 1_u64..200,
    ) {
        prop_assume!(low <= high);
        let limited = |max| answer(&question, &format!(r#","max_tokens":{max}"#));
        let (short, long) = (limited(low), limited(high));
        prop_assert!(long.content.starts_with(&short.content) || short.content.starts_with(&long.content));
    }
}
