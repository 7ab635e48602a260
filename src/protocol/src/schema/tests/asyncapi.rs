//! `schemas/asyncapi.json` speaks of the subjects, schemas and codes that there are.

use serde_json::Value;

use super::{folder, pretty};
use crate::event::{BudgetKind, Kind, ProviderKind};
use crate::identity::{Identity, Team};
use crate::subject::Subjects;
use crate::{Priority, header};

fn document() -> Value {
    serde_json::from_slice(&std::fs::read(folder().join("asyncapi.json")).unwrap()).unwrap()
}

/// Calls `see` with every object in the document, and where it stands.
fn walk<'a>(value: &'a Value, path: &str, see: &mut dyn FnMut(&str, &'a serde_json::Map<String, Value>)) {
    match value {
        Value::Object(fields) => {
            see(path, fields);
            fields.iter().for_each(|(name, value)| walk(value, &format!("{path}/{name}"), see));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, value)| walk(value, &format!("{path}/{at}"), see));
        }
        _ => {}
    }
}

#[test]
fn schemas_of_asyncapi_resolve() {
    let document = document();
    assert_eq!(document["asyncapi"], "3.1.0");
    let (mut inside, mut files) = (0, Vec::new());
    walk(&document, "", &mut |path, fields| {
        let Some(target) = fields.get("$ref").and_then(Value::as_str) else { return };
        if let Some(pointer) = target.strip_prefix('#') {
            assert!(document.pointer(pointer).is_some(), "{path}: {target} is nowhere");
            inside += 1;
        } else {
            let name = target.strip_prefix("./").unwrap();
            assert!(crate::schema::all().iter().any(|(file, _)| *file == name), "{path}: no schema {target}");
            files.push(name);
        }
    });
    assert!(inside > 20);
    files.sort_unstable();
    assert_eq!(
        files,
        [
            "budget_event.v1.json",
            "event.v1.json",
            "provider_event.v1.json",
            "request.v1.json",
            "response.v1.json",
            "usage.v1.json"
        ]
    );
}

/// Whether `subject` is one of those that `address` stands for.
fn is_of(subject: &str, address: &str) -> bool {
    let (subject, address): (Vec<_>, Vec<_>) = (subject.split('.').collect(), address.split('.').collect());
    subject.len() == address.len()
        && subject.iter().zip(&address).all(|(token, part)| part.starts_with('{') || token == part)
}

#[test]
fn schemas_of_asyncapi_name_the_subjects_that_are_built() {
    let document = document();
    let (subjects, team) = (Subjects::default(), Team::parse("research").unwrap());
    let identity = Identity::from_tokens("research.batch-1.q7").unwrap();
    let response = subjects.response(&identity);
    let usage = subjects.usage(&team, "openai", "gpt-4.1");
    let live = |subject: &str| subject.replacen("llm.", "llm.live.", 1);
    let mut expected = vec![
        ("requests", subjects.request(&team, Priority::High)),
        ("asks", subjects.ask_filter().replacen('*', "research", 1).replacen('*', "low", 1)),
        ("liveResponses", live(&response)),
        ("liveResponses", subjects.live_responses(&team, &identity.group).replace('>', "q7")),
        ("responses", response),
        ("liveUsage", live(&usage)),
        ("usage", usage),
        ("events", subjects.event(&team, "lost")),
        ("providerEvents", subjects.provider_event("provider_down")),
        ("budgetEvents", subjects.budget_event(Some(&team), BudgetKind::Budget.as_str())),
        ("budgetEvents", subjects.budget_event(None, BudgetKind::Budget.as_str())),
        ("cancels", subjects.cancel(&identity)),
    ];
    for (channel, subject) in &expected {
        let address = document["channels"][channel]["address"].as_str().unwrap();
        assert!(is_of(subject, address), "{channel}: {subject} is not of {address}");
        let parameters = document["channels"][channel]["parameters"].as_object().unwrap();
        let named: Vec<_> =
            address.split('.').filter_map(|token| token.strip_prefix('{')?.strip_suffix('}')).collect();
        assert!(
            named.len() == parameters.len() && named.iter().all(|name| parameters.contains_key(*name)),
            "{channel}"
        );
    }
    expected.dedup_by_key(|(channel, _)| *channel);
    assert_eq!(document["channels"].as_object().unwrap().len(), expected.len() + 1, "and the inbox");
}

#[test]
fn schemas_of_asyncapi_list_what_the_types_list() {
    let document = document();
    let list = |pointer: &str| {
        let words = document.pointer(pointer).unwrap().as_array().unwrap();
        words.iter().map(|word| word.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for channel in ["requests", "asks"] {
        let priorities = list(&format!("/channels/{channel}/parameters/priority/enum"));
        assert_eq!(priorities, Priority::ALL.map(Priority::as_str));
    }
    let kinds = [
        Kind::Retried,
        Kind::FellBack,
        Kind::Lost,
        Kind::Parked,
        Kind::Held,
        Kind::Dead,
        Kind::DuplicateId,
        Kind::Repeated,
    ];
    let of_providers = [
        ProviderKind::ProviderDown,
        ProviderKind::ProviderUp,
        ProviderKind::ProviderThrottled,
        ProviderKind::ProviderPaused,
        ProviderKind::ProviderResumed,
    ];
    assert_eq!(list("/channels/providerEvents/parameters/kind/enum"), of_providers.map(ProviderKind::as_str));
    assert_eq!(list("/channels/events/parameters/kind/enum"), kinds.map(Kind::as_str));
    for (message, names) in [
        (
            "bareRequest",
            &[
                header::CONTENT_TYPE,
                header::ID,
                header::GROUP,
                header::ENDPOINT,
                header::PROJECT,
                header::USER,
                header::TASK,
                header::TAGS,
                header::DEADLINE,
                header::TTL_MS,
                header::TIMEOUT,
                header::REPLY_TO,
                header::TRACEPARENT,
            ][..],
        ),
        ("request", &[header::DEADLINE, header::TTL_MS, header::REPLY_TO]),
        ("response", &[header::STATUS, header::ERROR_CODE, header::ATTEMPT, header::DIGEST]),
        (
            "reply",
            &[
                header::COST,
                header::PROVIDER,
                header::MODEL,
                header::SERVICE_ERROR,
                header::SERVICE_ERROR_CODE,
            ],
        ),
    ] {
        let headers = &document["components"]["messages"][message]["headers"]["properties"];
        for name in names {
            assert!(headers.get(name).is_some(), "{message} has no header {name}");
        }
    }
}

#[test]
fn schemas_of_asyncapi_have_examples_that_are_valid() {
    let document = document();
    for (name, message) in document["components"]["messages"].as_object().unwrap() {
        let schema = match message["payload"]["$ref"].as_str() {
            Some(file) => {
                let all = crate::schema::all();
                all.into_iter().find(|(known, _)| format!("./{known}") == file).unwrap().1
            }
            None => message["payload"].clone(),
        };
        let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
        for example in message["examples"].as_array().unwrap() {
            let verdict = validator.validate(&example["payload"]).map_err(|error| error.to_string());
            assert_eq!(verdict, Ok(()), "{name}: {}", pretty(example));
        }
    }
}
