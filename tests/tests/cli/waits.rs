//! What `show` and `status` say of what waits, and of why.

use std::path::Path;

use serde_json::{Value, json};
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use super::run;
use crate::stage::{PATIENCE, Stage, TARGET, config};

const TEAM: &str = "red";

fn request(id: &str, model: &str) -> Request {
    Request::chat(&Identity::new(TEAM, "waits", id), model, id)
}

/// What is said of where a request is, once that is as it should be.
async fn shown(stage: &Stage, dir: &Path, request: &Request, is_so: impl Fn(&Value) -> bool) -> Value {
    let id = request.identity.to_string();
    eventually(PATIENCE, "where a request is", async || {
        let shown = run(stage, dir, &["show", &id, "--json"]).await;
        if shown.code != Some(0) {
            return Err(shown.stderr.into());
        }
        let place = shown.json()["where"].clone();
        if is_so(&place) { Ok(place) } else { Err(place) }
    })
    .await
}

async fn told(stage: &Stage, dir: &Path, request: &Request) -> String {
    run(stage, dir, &["show", &request.identity.to_string()]).await.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_for_a_budget_says_so() {
    const BUDGET: &str = "[[budgets]]\nname = \"little\"\nscope = { team = \"red\" }\n\
                          limit_usd = \"0.000001\"\nper = \"total\"\n";
    let stage = Stage::up(|provider| config(provider, 8, &[TEAM]).raw(BUDGET)).await;
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (request("first", "small"), request("second", "small"));
    stage.client.publish(&first).await;
    stage.client.await_response(&first.identity, PATIENCE).await;
    stage.client.publish(&second).await;
    let place = shown(&stage, dir.path(), &second, |place| place["may_wait"][0]["name"] == "little").await;
    assert_eq!(place["state"], "queued", "{place}");
    assert_eq!(place["may_wait"][0]["what"], "budget");
    let told = told(&stage, dir.path(), &second).await;
    assert!(told.contains("for budget little: $0.00 left of $0.000001"), "{told}");
    assert!(told.contains("may wait"), "{told}");

    let raised = run(&stage, dir.path(), &["budget", "raise", "little", "--by-usd", "1"]).await;
    assert_eq!(raised.code, Some(0), "{}", raised.stderr);
    let response = stage.client.await_response(&second.identity, PATIENCE).await.value();
    assert_eq!(response["status"], "succeeded", "{response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_paused_is_said_to_be() {
    let mut stage = Stage::up(|provider| config(provider, 8, &[TEAM])).await;
    let dir = tempfile::tempdir().unwrap();
    let status = async |stage: &Stage| run(stage, dir.path(), &["status", "--json"]).await.json();
    let before = status(&stage).await;
    let line = &before["dispatch"][0];
    assert_eq!((&line["provider"], &line["paused_since"]), (&"sim".into(), &Value::Null), "{before}");
    assert_eq!(run(&stage, dir.path(), &["provider", "pause", "sim"]).await.code, Some(0));
    let after = status(&stage).await;
    assert!(after["dispatch"][0]["paused_since"].is_string(), "{after}");
    let table = run(&stage, dir.path(), &["status"]).await.stdout;
    assert!(table.contains("by an operator, since "), "{table}");

    let held = request("held", "small");
    stage.client.publish(&held).await;
    let place = shown(&stage, dir.path(), &held, |place| place["state"] == "held").await;
    assert_eq!(place["targets"][0]["why"], "paused by an operator", "{place}");

    let at = (chrono::Utc::now() + chrono::TimeDelta::minutes(10)).to_rfc3339();
    let parked = request("parked", "small").field("not_before", at.clone());
    stage.client.publish(&parked).await;
    shown(&stage, dir.path(), &parked, |place| place["state"] == "parked").await;
    let text = told(&stage, dir.path(), &parked).await;
    assert!(text.contains("as it asked for (not_before)"), "{text}");

    // Nobody has seen this one yet, and no ledger says anything of budgets.
    stage.stop().await;
    let queued = request("queued", TARGET).field("not_before", at);
    stage.client.publish(&queued).await;
    let place = shown(&stage, dir.path(), &queued, |place| place["state"] == "queued").await;
    let what: Vec<&Value> = place["may_wait"].as_array().unwrap().iter().map(|why| &why["what"]).collect();
    assert_eq!(what, ["not_before", "target"], "{place}");
    let text = told(&stage, dir.path(), &queued).await;
    assert!(text.contains("until one of its targets is up: sim/m-1 (paused by an operator)"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_provider_has_no_place_says_so() {
    // Nobody works, and few have a place.
    let stage = Stage::with(&[Role::Router], |provider| config(provider, 1, &[TEAM])).await;
    let dir = tempfile::tempdir().unwrap();
    let requests: Vec<_> = (0..20).map(|n| request(&format!("placed-{n}"), TARGET)).collect();
    for request in &requests {
        stage.client.publish(request).await;
    }
    let place = shown(&stage, dir.path(), &requests[0], |place| place["state"] == "dispatched").await;
    assert_eq!(place["provider"], "sim", "{place}");
    assert_eq!(place["may_wait"], json!([]), "{place}");
    let is_full = |place: &Value| place["may_wait"][0]["what"] == "provider";
    let place = shown(&stage, dir.path(), &requests[19], is_full).await;
    assert_eq!(
        (&place["state"], &place["may_wait"][0]["name"]),
        (&"queued".into(), &"sim".into()),
        "{place}"
    );
}
