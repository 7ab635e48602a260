//! A renamed field is a broken contract: it shows here first.

use super::samples;

fn json(message: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(message).unwrap()
}

#[test]
fn responses() {
    for (status, response) in samples::responses() {
        assert_eq!(response.status.as_str(), status);
        insta::assert_snapshot!(format!("response-{status}"), json(&response));
    }
}

#[test]
fn usage_events() {
    for (kind, event) in samples::usage_events() {
        assert_eq!(event.kind.as_str(), kind);
        insta::assert_snapshot!(format!("usage-{kind}"), json(&event));
    }
}

#[test]
fn event() {
    insta::assert_snapshot!("event", json(&samples::event()));
    insta::assert_snapshot!("budget-event", json(&samples::budget_event()));
}
