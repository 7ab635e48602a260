//! The example and the reference page are complete and true.

use super::*;

const EXAMPLE: &str = include_str!("../../../../tollgate.example.toml");
const REFERENCE: &str = include_str!("../../../../docs/configuration.md");

#[test]
fn the_example_loads_without_a_warning() {
    let settings = good(EXAMPLE);
    assert_eq!(settings.warnings, [""; 0]);
    assert_eq!(settings.providers.len(), 3, "one of each kind");
}

#[test]
fn the_example_states_the_defaults() {
    let (settings, smallest) = (good(EXAMPLE), good(SMALLEST));
    assert_eq!(settings.subjects, smallest.subjects);
    assert_eq!(settings.durability, smallest.durability);
    assert_eq!(settings.timing, smallest.timing);
    assert_eq!(settings.retry, smallest.retry);
    assert_eq!(settings.queue, smallest.queue);
    assert_eq!(settings.retention, smallest.retention);
    assert_eq!(settings.shares, smallest.shares);
    assert_eq!(settings.providers["sim"], smallest.providers["sim"]);
    let openai = &settings.providers["openai"];
    assert_eq!((openai.max_in_flight, openai.timeouts), (64, Timeouts::default()));
    assert_eq!(openai.base_url.as_deref(), Some(OPENAI_BASE_URL));
}

#[test]
fn the_schema_accepts_the_example_and_no_unknown_key() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let mut example: serde_json::Value = toml::from_str(EXAMPLE).unwrap();
    let errors: Vec<_> = validator.iter_errors(&example).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    example["timing"]["lease"] = 1.into();
    assert!(!validator.is_valid(&example));
}

#[test]
fn every_key_is_in_the_example_and_in_the_reference() {
    let mut all = BTreeSet::new();
    keys(&schema(), "", &mut all);
    // What the example says, with the names that users choose written as in the schema.
    let mut said = BTreeSet::new();
    let root = DeTable::parse(EXAMPLE).unwrap();
    let root = toml::Spanned::new(0..0, toml::de::DeValue::Table(root.into_inner()));
    paths(&root, &schema(), "", &mut said);
    let unsaid: Vec<_> = all.difference(&said).collect();
    assert!(unsaid.is_empty(), "tollgate.example.toml lacks {unsaid:?}");
    for key in all {
        let name = key.rsplit('.').next().unwrap_or_default();
        let range = range(&schema(), &key);
        let told = |line: &&str| {
            (line.contains(&format!("`{name}`")) || line.contains(&format!("[{name}")))
                && line.contains(&range)
        };
        assert!(REFERENCE.lines().find(told).is_some(), "docs/configuration.md lacks {key} {range}");
    }
}

/// `MIN to MAX` of a number, as the reference has it.
fn range(schema: &serde_json::Value, key: &str) -> String {
    let schema = &at(schema, key);
    match (&schema["minimum"], &schema["maximum"]) {
        (serde_json::Value::Null, _) => String::new(),
        (minimum, maximum) => format!("{minimum} to {maximum}"),
    }
}

fn paths(node: &read::Node<'_>, schema: &serde_json::Value, path: &str, into: &mut BTreeSet<String>) {
    for (key, below) in node.get_ref().as_table().into_iter().flatten() {
        let fixed = &schema["properties"][key.get_ref().as_ref()];
        let (name, schema) = if fixed.is_null() {
            ("*", &schema["additionalProperties"])
        } else {
            (key.get_ref().as_ref(), fixed)
        };
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        into.insert(path.clone());
        paths(below, schema, &path, into);
    }
}
