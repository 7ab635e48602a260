use std::collections::BTreeSet;

use tollgate_policy::catalog::{ModelPattern, TeamSettings};
use tollgate_protocol::{Price, Priority, Team};

use super::*;

mod broken;
mod document;
mod drawn;
mod example;

/// One variable of each sort.
fn environment(name: &str) -> Option<String> {
    match name {
        "GOOD" | "OPENAI_API_KEY" => Some("sk-from-environment".into()),
        "EMPTY" => Some(String::new()),
        "LINE_END" => Some("sk-1\n".into()),
        _ => None,
    }
}

#[track_caller]
fn good(text: &str) -> Settings {
    load(text, "f", &environment).unwrap_or_else(|report| panic!("{report}"))
}

const SMALLEST: &str = "[teams.t]\n[providers.sim]\nkind = \"simulator\"\n";

#[test]
fn the_smallest_file_has_all_defaults() {
    let settings = good(SMALLEST);
    let team = TeamSettings {
        weight: std::num::NonZeroU32::MIN,
        priority_max: Priority::High,
        models: vec![ModelPattern::Any],
    };
    assert_eq!(settings.teams.into_iter().collect::<Vec<_>>(), [(Team::parse("t").unwrap(), team)]);
    assert_eq!(settings.timing, Timing::default());
    assert_eq!(settings.timing.ttl_ms(Priority::Low), 86_400_000);
    assert_eq!(settings.queue, Queue::default());
    assert_eq!(settings.retention, Retention::default());
    assert_eq!(settings.durability, Durability::ProcessCrash);
    assert_eq!(settings.shares, [16, 4, 1]);
    assert_eq!(settings.subjects.prefix(), "llm");
    assert_eq!(settings.warnings, [""; 0]);
}

#[test]
fn a_file_that_says_what_zero_says_gives_the_same() {
    let file =
        "[teams.default]\n[providers.sim]\nkind = \"simulator\"\n[models.demo]\ntargets = [\"sim/demo\"]\n";
    assert_eq!(good(file), zero(&EmptyEnvironment));
}

#[test]
fn zero_has_openai_when_it_has_a_key() {
    let settings = zero(&environment);
    let openai = &settings.providers["openai"];
    assert_eq!(openai.api_keys, [Secret::parse("sk-from-environment").unwrap()]);
    assert_eq!(openai.base_url.as_deref(), Some(OPENAI_BASE_URL));
    assert_eq!(
        openai.models["gpt-4o-mini"],
        Price { input: 150_000_000, cached_input: 75_000_000, output: 600_000_000 }
    );
    let team = Team::parse("default").unwrap();
    for model in openai.models.keys().map(String::as_str).chain(["demo", "sim/demo", "openai/gpt-5.5"]) {
        let targets = settings.catalog.resolve(&settings.teams, &team, model, &[]).unwrap();
        assert_eq!(targets.len(), 1, "{model}");
    }
    assert_eq!(settings.warnings, [""; 0]);

    let broken = zero(&|_: &str| Some("two\nlines".to_owned()));
    assert_eq!(broken.providers.keys().collect::<Vec<_>>(), ["sim"]);
    assert_eq!(broken.warnings.len(), 1);
    assert!(!format!("{:?}{settings:?}", broken.warnings).contains("sk-from"));
}

#[test]
fn what_is_given_is_used() {
    let settings = good(
        r#"
        subject_prefix = "acme"
        durability = "power-loss"
        timing.ttl_ms.normal = 5_000
        scheduling.shares = { high = 0x10, low = 2 }
        retention.usage_days = 30

        [providers.local-1]
        kind = "compatible"
        base_url = "http://127.0.0.1:8000/v1/"
        timeouts.total_ms = 1_000
        models."meta/llama:8b".price = { input_usd_per_mtok = "0", output_usd_per_mtok = "0.000000001" }

        [providers.sim]
        kind = "simulator"
        fail = { rate = 1, status = 429 }
        seed = 7

        [models."llama 8b"]
        targets = ["local-1/meta/llama:8b", "sim/demo"]

        [teams.research]
        weight = 2
        priority_max = "normal"
        models = ["llama 8b", "sim/*"]
        "#,
    );
    assert_eq!(settings.subjects.stream("REQ"), "ACME_REQ");
    assert_eq!(settings.durability, Durability::PowerLoss);
    assert_eq!(settings.timing.ttl_ms, [600_000, 5_000, 86_400_000]);
    assert_eq!(settings.shares, [16, 4, 2]);
    assert_eq!(settings.teams[&Team::parse("research").unwrap()].priority_max, Priority::Normal);
    assert_eq!(settings.retention, Retention { usage_days: 30, ..Retention::default() });
    let local = &settings.providers["local-1"];
    assert_eq!(local.base_url.as_deref(), Some("http://127.0.0.1:8000/v1"));
    assert_eq!(
        local.timeouts,
        Timeouts { connect_ms: 1_000, first_byte_ms: 1_000, idle_ms: 1_000, total_ms: 1_000 }
    );
    assert_eq!(local.models["meta/llama:8b"], Price { input: 0, cached_input: 0, output: 1 });
    let failing = SimulatorSettings { fail_rate: 1.0, fail_status: 429, seed: 7, ..Default::default() };
    assert_eq!(settings.providers["sim"].kind, ProviderKind::Simulator(failing));
    let targets: Vec<_> = settings.catalog.aliases["llama 8b"].iter().map(ToString::to_string).collect();
    assert_eq!(targets, ["local-1/meta/llama:8b", "sim/demo"]);
    assert!(
        settings.catalog.aliases["llama 8b"].iter().all(|target| settings.catalog.price(target).is_some())
    );
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let settings = good(
        r#"[teams.t]
models = ["openai/*"]
[providers.local]
kind = "compatible"
base_url = "http://localhost"
api_key = "sk-literal"
"#,
    );
    assert_eq!(
        settings.warnings,
        [
            r#"f:2:11: teams.t.models[0]: no model's name begins with "openai/""#,
            "f:3:1: providers.local.models: there is none, so that nothing can be asked of this provider",
            "f:6:11: providers.local.api_key: the key itself stands in the file; \"env:NAME\" keeps it out \
             of backups and version control",
        ]
    );
    assert_eq!(settings.providers["local"].api_keys, [Secret::parse("sk-literal").unwrap()]);
    assert_eq!(
        good("[teams.t]").warnings,
        ["f:1:1: providers: there is none, so that every request is rejected"]
    );
    assert!(!format!("{settings:?}").contains("sk-literal"));
}

/// Every key of the schema as `section.key`, with `*` for names that users choose.
fn keys(schema: &serde_json::Value, path: &str, into: &mut BTreeSet<String>) {
    for (key, below) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        into.insert(path.clone());
        keys(below, &path, into);
    }
    if schema["additionalProperties"].is_object() {
        keys(&schema["additionalProperties"], &format!("{path}.*"), into);
    }
}

/// The schema of one of these keys.
fn at(schema: &serde_json::Value, key: &str) -> serde_json::Value {
    key.split('.').fold(schema.clone(), |schema, part| match part {
        "*" => schema["additionalProperties"].clone(),
        name => schema["properties"][name].clone(),
    })
}

#[test]
fn every_key_is_described_and_typed() {
    let mut all = BTreeSet::new();
    keys(&schema(), "", &mut all);
    assert!(all.contains("providers.*.models.*.price.input_usd_per_mtok"), "{all:?}");
    for key in &all {
        let schema = at(&schema(), key);
        assert!(schema["type"].is_string() || schema["enum"].is_array(), "{key}: {schema}");
        assert!(schema["description"].as_str().is_some_and(|text| text.ends_with('.')), "{key}: {schema}");
    }
}

#[test]
fn the_schema_says_what_a_provider_is() {
    let schema = schema();
    let provider = &schema["properties"]["providers"]["additionalProperties"];
    assert_eq!(provider["required"], serde_json::json!(["kind"]));
    assert_eq!(provider["additionalProperties"], false);
    let max_in_flight = &provider["properties"]["max_in_flight"];
    assert_eq!((&max_in_flight["minimum"], &max_in_flight["maximum"]), (&1.into(), &100_000.into()));
    let kind = &provider["properties"]["kind"];
    assert_eq!(kind["enum"], serde_json::json!(["openai", "compatible", "simulator"]));
}
