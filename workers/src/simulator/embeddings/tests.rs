use super::*;
use proptest::prelude::*;

fn of(text: &str, dimensions: usize) -> Vec<f32> {
    vector("m", &Input::Text(text.into()), dimensions)
}

fn nearness(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn words_in_common_mean_nearness() {
    let question = of("How do I reset my password?", 256);
    let near = nearness(&question, &of("I want to reset the password", 256));
    let far = nearness(&question, &of("Best pasta recipes of Bologna", 256));
    assert!(near > 0.4 && far < 0.3, "near {near}, far {far}");
    assert!(nearness(&of("dog bites man", 256), &of("man bites dog", 256)) < 1.0 - 1e-6, "order counts");
}

#[test]
fn base64_is_the_usual_one() {
    assert_eq!(base64(&[1.0, -2.5]), "AACAPwAAIMA=");
    assert_eq!(base64(&[0.0]), "AAAAAA==");
    assert_eq!(base64(&[0.0; 3]), "AAAAAAAAAAAAAAAA");
}

#[test]
fn usage_counts_all_inputs() {
    for (input, expected) in
        [(r#""hello you""#, 3), (r#"["hello you","hm"]"#, 4), ("[1,2,3]", 3), ("[[1,2],[3]]", 3)]
    {
        let json = format!(r#"{{"model":"m","input":{input}}}"#);
        let call = Call::parse(json.as_bytes()).expect(input);
        assert_eq!(call.prompt_tokens(), expected, "{input}");
        assert_eq!(call.answer().data.len(), call.inputs.len());
    }
}

#[test]
fn bad_fields_are_refused_by_name() {
    for (fields, param) in [
        (r#""model":"m""#, "input"),
        (r#""input":"x""#, "model"),
        (r#""model":"m","input":"""#, "input"),
        (r#""model":"m","input":[]"#, "input"),
        (r#""model":"m","input":["a",""]"#, "input"),
        (r#""model":"m","input":[1,"a"]"#, "input"),
        (r#""model":"m","input":{}"#, "input"),
        (r#""model":"m","input":[{}]"#, "input"),
        (r#""model":"m","input":[-1]"#, "input"),
        (r#""model":"m","input":"x","dimensions":0"#, "dimensions"),
        (r#""model":"m","input":"x","dimensions":5000"#, "dimensions"),
        (r#""model":"m","input":"x","encoding_format":"hex""#, "encoding_format"),
    ] {
        let problem = Call::parse(format!("{{{fields}}}").as_bytes()).expect_err(fields);
        assert_eq!((problem.status, problem.param.as_deref()), (400, Some(param)), "{fields}");
    }
}

proptest! {
    #[test]
    fn vectors_are_of_length_one_and_repeat(text in ".{1,60}", dimensions in 1_usize..64) {
        let vector = of(&text, dimensions);
        prop_assert_eq!(vector.len(), dimensions);
        prop_assert!((nearness(&vector, &vector) - 1.0).abs() < 1e-5);
        prop_assert_eq!(vector, of(&text, dimensions));
    }
}
