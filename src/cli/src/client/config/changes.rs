//! What a version changes, for people and for programs. Pure.

use serde_json::{Value, json};
use tollgate_config::{Change, What};

/// One line for each change.
pub(super) fn lines(changes: &[Change]) -> Vec<String> {
    changes.iter().map(line).collect()
}

fn line(Change { kind, name, what }: &Change) -> String {
    match what {
        What::Added(values) => {
            let values: Vec<_> =
                values.iter().map(|(key, value)| format!("{key} {}", shown(value))).collect();
            format!("+ {kind} {name}: {}", values.join(", "))
        }
        What::Removed => format!("- {kind} {name}"),
        What::Changed { key, from, to } => format!("~ {kind} {name}: {key} {} → {}", shown(from), shown(to)),
    }
}

/// A value that is nothing is said to be.
fn shown(value: &str) -> &str {
    if value.is_empty() { "none" } else { value }
}

/// The same as JSON.
pub(super) fn as_json(changes: &[Change]) -> Vec<Value> {
    let one = |Change { kind, name, what }: &Change| match what {
        What::Added(values) => {
            let values: serde_json::Map<String, Value> =
                values.iter().map(|(key, value)| ((*key).to_owned(), value.as_str().into())).collect();
            json!({"kind": kind, "name": name, "change": "added", "values": values})
        }
        What::Removed => json!({"kind": kind, "name": name, "change": "removed"}),
        What::Changed { key, from, to } => {
            json!({"kind": kind, "name": name, "change": "changed", "key": key, "from": from, "to": to})
        }
    };
    changes.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_a_line() {
        let change = |what| Change { kind: "team", name: "research".into(), what };
        let changes = [
            change(What::Added(vec![("weight", "2".into()), ("models", String::new())])),
            change(What::Removed),
            change(What::Changed { key: "weight", from: "1".into(), to: "2".into() }),
        ];
        insta::assert_snapshot!(lines(&changes).join("\n"), @r"
        + team research: weight 2, models none
        - team research
        ~ team research: weight 1 → 2
        ");
        insta::assert_snapshot!(Value::from(as_json(&changes)), @r#"[{"change":"added","kind":"team","name":"research","values":{"models":"","weight":"2"}},{"change":"removed","kind":"team","name":"research"},{"change":"changed","from":"1","key":"weight","kind":"team","name":"research","to":"2"}]"#);
    }
}
