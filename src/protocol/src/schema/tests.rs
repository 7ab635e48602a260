//! The published schemas are those of the types, and examples prove what they say.
//!
//! `TOLLGATE_UPDATE_SCHEMAS=1 cargo test -p tollgate-protocol schemas` writes them anew.

use std::path::{Path, PathBuf};

use crate::request::{Decoded, Delivered, decode};
use crate::{Priority, header};

mod asyncapi;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas")
}

fn update() -> bool {
    std::env::var_os("TOLLGATE_UPDATE_SCHEMAS").is_some()
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{}\n", serde_json::to_string_pretty(value).unwrap())
}

fn validator(name: &str) -> jsonschema::Validator {
    let (_, schema) = super::all().into_iter().find(|(file, _)| *file == name).unwrap();
    jsonschema::options().should_validate_formats(true).build(&schema).unwrap()
}

#[test]
fn schemas_are_those_of_the_types() {
    let names: Vec<_> = super::all().into_iter().map(|(name, _)| name).collect();
    for (name, schema) in super::all() {
        let path = folder().join(name);
        if update() {
            std::fs::create_dir_all(folder()).unwrap();
            std::fs::write(&path, pretty(&schema)).unwrap();
        }
        let published = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            published == pretty(&schema),
            "schemas/{name} is stale: run TOLLGATE_UPDATE_SCHEMAS=1 cargo test -p tollgate-protocol schemas"
        );
        jsonschema::meta::validate(&schema).unwrap();
    }
    for entry in std::fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            !name.ends_with(".v1.json") || names.contains(&name.as_str()),
            "schemas/{name} is of no type"
        );
    }
}

/// The examples of a folder: (what the name begins with, file name, content).
fn examples(of: &str) -> Vec<(String, String, Vec<u8>)> {
    let mut examples: Vec<_> = std::fs::read_dir(folder().join("examples").join(of))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let kind = name.split('.').next().unwrap().to_owned();
            (kind, format!("{of}/{name}"), std::fs::read(path).unwrap())
        })
        .collect();
    examples.sort();
    assert!(examples.len() >= 3, "too few examples of {of}");
    examples
}

fn code_of(payload: &[u8]) -> Option<String> {
    let headers = [(header::CONTENT_TYPE, "application/json")];
    let decoded = decode(&Delivered {
        team: "research",
        priority: Priority::Normal,
        sequence: 1,
        accepted_at: "2026-03-01T12:00:00Z".parse().unwrap(),
        ttl_ms_default: 60_000,
        headers: &headers[..],
        payload,
    });
    match decoded {
        Decoded::Request(_) => None,
        Decoded::Rejected(_, problem) => Some(problem.code.to_string()),
        Decoded::Acknowledgement => Some("drained".into()),
    }
}

/// `valid.<what>.json` is valid and decodes. `invalid.<code>.<what>.json` is neither. What only the decoder
/// can see is in `refused.<code>.<what>.json`: valid for the schema, rejected by the broker.
#[test]
fn schemas_and_decoder_agree_about_requests() {
    let validator = validator("request.v1.json");
    for (kind, file, payload) in examples("request.v1") {
        let value = serde_json::from_slice(&payload).unwrap();
        let expected = (kind != "valid").then(|| file.split('.').nth(2).unwrap().to_owned());
        assert_eq!(code_of(&payload), expected, "{file}");
        let verdict = validator.validate(&value).map_err(|error| error.to_string());
        assert_eq!(verdict.is_ok(), kind != "invalid", "{file}: {verdict:?}");
    }
}

fn check_messages<T: serde::de::DeserializeOwned + serde::Serialize>(folder: &str) {
    let validator = validator(&format!("{folder}.json"));
    for (kind, file, bytes) in examples(folder) {
        let value = serde_json::from_slice(&bytes).unwrap();
        let verdict = validator.validate(&value).map_err(|error| error.to_string());
        assert_eq!(verdict.is_ok(), kind == "valid", "{file}: {verdict:?}");
        if kind == "valid" {
            let message: T = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(serde_json::to_value(&message).unwrap(), value, "{file} is not what is written");
        }
    }
}

fn check_samples<T: serde::Serialize>(folder_name: &str, samples: Vec<(&'static str, T)>) {
    let validator = validator(&format!("{folder_name}.json"));
    for (name, sample) in samples {
        let value = serde_json::to_value(&sample).unwrap();
        let path = folder().join("examples").join(folder_name).join(format!("valid.{name}.json"));
        if update() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, pretty(&value)).unwrap();
        }
        assert!(validator.is_valid(&value), "{folder_name} {name}: {:?}", validator.validate(&value));
        assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), pretty(&value), "{}", path.display());
    }
}

#[test]
fn schemas_hold_for_what_the_broker_writes() {
    use crate::tests::samples;
    check_samples("response.v1", samples::responses());
    check_samples("usage.v1", samples::usage_events());
    check_samples("event.v1", vec![("fell_back", samples::event())]);
    check_messages::<crate::response::Response>("response.v1");
    check_messages::<crate::usage::UsageEvent>("usage.v1");
    check_messages::<crate::event::LifecycleEvent>("event.v1");
}

#[test]
fn schemas_have_no_field_that_the_contract_does_not_explain() {
    let page = include_str!("../../../../docs/contract.md");
    for (name, schema) in super::all().into_iter().take(3) {
        for field in schema["properties"].as_object().unwrap().keys() {
            let not_worth_a_word = name == "usage.v1.json"
                && ["attempt", "code", "group", "id", "outcome", "team", "first_token_ms"]
                    .contains(&field.as_str());
            assert!(
                not_worth_a_word || page.contains(&format!("`{field}`")),
                "docs/contract.md lacks {field} of {name}"
            );
        }
    }
    for name in
        [header::ID, header::TAGS, header::TIMEOUT, header::DEADLINE, header::COST, header::SERVICE_ERROR]
    {
        assert!(page.contains(name), "docs/contract.md lacks {name}");
    }
}
