//! What becomes of requests that wait when their team or model is taken away.

use serde_json::json;
use tollgate_tests::config::Config;
use tollgate_tests::provider::Provider;
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use super::{apply, run};
use crate::budgets::hard::{PRICE, TOKEN, strict};
use crate::stage::{PATIENCE, Stage};

/// A model of each of two providers, and these teams, of which `poor` may spend nothing.
fn config(provider: &Provider, models: &[&str], teams: &[&str]) -> Config {
    let mut config = Config::new();
    for name in ["sim", "other"] {
        config = config.provider(name, &provider.base_url(), 4, &[("m-1", PRICE)]);
    }
    for model in models {
        let provider = if *model == "small" { "sim" } else { "other" };
        config = config.model(model, &[&format!("{provider}/m-1")]);
    }
    let config = teams.iter().fold(config, |config, team| config.team(team));
    let spent = teams.contains(&"poor");
    let budget = format!("[[budgets]]\nscope = {{ team = \"poor\" }}\n{}\n", strict(TOKEN, "hold"));
    if spent { config.raw(&budget) } else { config }
}

fn request(team: &str, model: &str, id: &str) -> Request {
    let messages = json!([{"role": "user", "content": id}]);
    let body = json!({"model": model, "max_tokens": 1, "messages": messages});
    Request::with_body(&Identity::new(team, "hot", id), body)
}

async fn end(stage: &Stage, request: &Request) -> (String, String) {
    let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    (text(&response["status"]), text(&response["error"]["code"]))
}

/// Waiting for a budget in a router's hands, and held until a provider is up.
#[tokio::test(flavor = "multi_thread")]
async fn requests_of_a_team_that_is_taken_away_are_rejected_and_others_stay() {
    let roles = [Role::Router, Role::Router, Role::Worker, Role::Ledger];
    let models = ["small", "large"];
    let mut stage =
        Stage::with(&roles, |provider| config(provider, &models, &["poor", "gone", "rich"])).await;
    let first = request("poor", "small", "first");
    stage.client.publish(&first).await;
    stage.client.await_response(&first.identity, PATIENCE).await;
    let poor: Vec<_> = (0..5).map(|n| request("poor", "small", &format!("p{n}"))).collect();
    stage.client.publish_all(&poor).await;
    eventually(PATIENCE, "requests that wait for their budget", async || {
        let waits = stage.metric("tollgate_budget_waits_total", &[]).await;
        let in_hand = stage.client.message_count("LLM_REQ").await;
        if in_hand == 5 { Ok(()) } else { Err((waits, in_hand)) }
    })
    .await;
    run(&stage, &["provider", "pause", "other"]).await;
    let held: Vec<_> = ["gone", "rich"].map(|team| request(team, "large", team)).into();
    stage.client.publish_all(&held).await;
    eventually(PATIENCE, "held requests", async || {
        let held = stage.metric("tollgate_held", &[]).await;
        if held == 2.0 { Ok(()) } else { Err(held) }
    })
    .await;

    apply(&stage, &config(&stage.provider, &models, &["rich"])).await;
    for request in poor.iter().chain(&held[..1]) {
        assert_eq!(end(&stage, request).await, ("rejected".into(), "unknown_team".into()));
    }
    assert!(stage.client.response(&held[1].identity).await.is_none(), "it waits for its provider");
    run(&stage, &["provider", "resume", "other"]).await;
    assert_eq!(end(&stage, &held[1]).await.0, "succeeded");
    let late = request("gone", "small", "late");
    stage.client.publish(&late).await;
    assert_eq!(end(&stage, &late).await, ("rejected".into(), "unknown_team".into()));
    stage.idle().await;
    stage.stop().await;
}

/// What no model stands for any more is rejected as if it came now; a new model can be asked for at once.
#[tokio::test(flavor = "multi_thread")]
async fn models_are_taken_away_and_added_for_what_waits_too() {
    let roles = [Role::Router, Role::Worker, Role::Ledger];
    let mut stage = Stage::with(&roles, |provider| config(provider, &["small"], &["poor"])).await;
    let first = request("poor", "small", "first");
    stage.client.publish(&first).await;
    stage.client.await_response(&first.identity, PATIENCE).await;
    let waiting = request("poor", "small", "waiting");
    stage.client.publish(&waiting).await;
    eventually(PATIENCE, "a request in a router's hands", async || {
        let lanes = stage.client.consumers("LLM_REQ").await;
        (lanes.iter().map(|lane| lane.num_ack_pending).sum::<usize>() == 1).then_some(())
    })
    .await;
    apply(&stage, &config(&stage.provider, &["large"], &["poor", "rich"])).await;
    assert_eq!(end(&stage, &waiting).await, ("rejected".into(), "unknown_model".into()));
    let new = request("rich", "large", "new");
    stage.client.publish(&new).await;
    let response = stage.client.await_response(&new.identity, PATIENCE).await.value();
    assert_eq!((&response["status"], &response["provider"]), (&json!("succeeded"), &json!("other")));
    stage.idle().await;
    stage.stop().await;
}
