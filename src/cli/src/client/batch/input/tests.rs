use proptest::prelude::*;

use super::*;

const GOOD: &str = r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m"}}"#;

fn problems(text: &str) -> String {
    match read(Bytes::copy_from_slice(text.as_bytes())) {
        Ok(batch) => format!("{} lines", batch.lines.len()),
        Err(problems) => problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    }
}

/// The good line with one piece of it replaced.
fn with(piece: &str, other: &str) -> String {
    assert!(GOOD.contains(piece), "{piece}");
    GOOD.replace(piece, other)
}

#[test]
fn a_body_is_kept_to_the_letter() {
    let text = "\u{feff}\n  {\"body\": {\"ü\" : 1.50 } ,\"custom_id\":\"\\u0061\",\"url\":\"/v1/embeddings\",\"method\":\"POST\",\"more\":1}\r\n\n";
    let batch = read(Bytes::copy_from_slice(text.as_bytes())).unwrap();
    assert_eq!(batch.lines.len(), 1);
    let line = &batch.lines[0];
    assert_eq!((line.number, line.custom_id.as_str(), line.endpoint), (2, "a", Endpoint::Embeddings));
    assert_eq!(batch.body(line), "{\"ü\" : 1.50 }".as_bytes());
}

#[test]
fn each_fault_of_a_line_is_named() {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(128), "]".repeat(128));
    for (text, expected) in [
        (GOOD.to_owned(), "1 lines"),
        (String::new(), "empty_file: no line with a request; expected one JSON object on each line"),
        ("\n \r\n".into(), "empty_file: no line with a request; expected one JSON object on each line"),
        (
            with("\"a\"", "\"\""),
            "line 1: missing_required_parameter: custom_id is empty; expected a name of your own",
        ),
        (
            with("\"a\"", "7"),
            "line 1: missing_required_parameter: custom_id is not a string; expected a name of your own",
        ),
        (
            with("\"a\"", "null"),
            "line 1: missing_required_parameter: custom_id is missing; expected a string, a name of your own",
        ),
        (with("POST", "GET"), "line 1: invalid_method: method is \"GET\", expected \"POST\""),
        (with("{\"model\":\"m\"}", "[]"), "line 1: invalid_body: body is not an object"),
        (
            with(",\"body\":{\"model\":\"m\"}", ""),
            "line 1: missing_body: body is missing; expected the JSON object of the request",
        ),
        (
            with("\"m\"", "\"m\",\"stream\":true"),
            "line 1: invalid_body: body.stream is true; a batch has no stream, leave it out",
        ),
        (with("\"m\"", "\"m\",\"stream\":false"), "1 lines"),
        (with("{\"model\":\"m\"}", &deep), "line 1: too_deep: 130 levels of nesting, the limit is 128"),
        ("nonsense".into(), "line 1: invalid_json_line: not a JSON object"),
        ("[1]".into(), "line 1: invalid_json_line: not a JSON object"),
        (
            format!("{GOOD} x"),
            "line 1: invalid_json_line: not a JSON object: trailing characters (column 85)",
        ),
    ] {
        assert_eq!(problems(&text), expected, "{text}");
    }
}

#[test]
fn all_faults_of_a_file_are_named_at_once() {
    let text = format!(
        "{GOOD}\n{GOOD}\n{{\"method\":\"GET\",\"url\":\"/v2\"}}\n{{\n{}",
        with("/v1/chat/completions", "/v1/images/generations")
    );
    insta::assert_snapshot!(problems(&text), @r#"
    line 2: duplicate_custom_id: custom_id "a" stands on line 1 already
    line 3: missing_required_parameter: custom_id is missing; expected a string, a name of your own
    line 3: invalid_method: method is "GET", expected "POST"
    line 3: invalid_url: url "/v2" is not known; expected one of /v1/chat/completions, /v1/embeddings, /v1/responses, /v1/messages, /v1/completions, /v1/rerank, /v1/moderations
    line 3: missing_body: body is missing; expected the JSON object of the request
    line 4: invalid_json_line: not a JSON object: EOF while parsing an object (column 1)
    line 5: invalid_url: url "/v1/images/generations" is not known; expected one of /v1/chat/completions, /v1/embeddings, /v1/responses, /v1/messages, /v1/completions, /v1/rerank, /v1/moderations
    "#);
}

#[test]
fn every_endpoint_has_a_url() {
    assert_eq!(endpoint_of("/v1/chat/completions"), Some(Endpoint::ChatCompletions));
    for endpoint in Endpoint::ALL {
        assert_eq!(endpoint_of(&url_of(endpoint)), Some(endpoint));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(bytes.into());
    }

    #[test]
    fn damaged_files_are_read_without_a_panic(at in 0..GOOD.len(), byte: u8, cut in 0..GOOD.len()) {
        let mut bytes = format!("{GOOD}\n{GOOD}").into_bytes();
        bytes[at] = byte;
        if let Ok(batch) = read(Bytes::from(bytes[..GOOD.len() + 1 + cut].to_vec())) {
            for line in &batch.lines {
                prop_assert!(serde_json::from_slice::<serde_json::Value>(batch.body(line)).is_ok());
            }
        }
    }

    #[test]
    fn every_valid_file_is_read_whole(ids in proptest::collection::hash_set(".{1,20}", 1..20)) {
        let text: String = ids.iter().map(|id| {
            let line = serde_json::json!({"custom_id": id, "method": "POST", "url": "/v1/completions", "body": {"id": id}});
            format!("{line}\r\n")
        }).collect();
        let batch = read(text.into()).unwrap();
        prop_assert_eq!(batch.lines.len(), ids.len());
        for line in &batch.lines {
            prop_assert!(ids.contains(&line.custom_id));
            let body: serde_json::Value = serde_json::from_slice(batch.body(line)).unwrap();
            prop_assert_eq!(body["id"].as_str(), Some(line.custom_id.as_str()));
        }
    }
}
