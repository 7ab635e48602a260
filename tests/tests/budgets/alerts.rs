//! How much of a budget is spent is told, once for each threshold and window, whoever dies on the way.

use serde_json::{Value, json};
use tollgate_tests::provider::Provider;
use tollgate_tests::roles::{Broker, Role};
use tollgate_tests::wait::eventually;

use super::hard::{TEAM, TOKEN, config, request, strict};
use crate::cli::{run, start};
use crate::stage::{PATIENCE, Stage};

const ROLES: [Role; 3] = [Role::Ledger, Role::Worker, Role::Router];

/// The events about budgets: (team token, threshold, limit).
async fn told(stage: &Stage) -> Vec<(String, u64, i64)> {
    let events = stage.client.read_stream("LLM_EVENT").await;
    let of_budgets = events.iter().filter(|stored| stored.subject.ends_with(".budget"));
    of_budgets
        .map(|stored| {
            let (event, team) = (stored.value(), stored.subject.split('.').nth(2).unwrap().to_owned());
            assert_eq!(stored.header("ce-type"), Some("dev.tollgate.event.budget.v1"));
            let reached = event["percent"].as_u64().unwrap() >= event["threshold_percent"].as_u64().unwrap();
            assert!(reached, "{event}");
            (team, event["threshold_percent"].as_u64().unwrap(), event["limit_nano_usd"].as_i64().unwrap())
        })
        .collect()
}

/// Waits until so many events were told, and returns them.
async fn await_told(stage: &Stage, count: usize) -> Vec<(String, u64, i64)> {
    eventually(PATIENCE, "events about budgets", async || {
        let told = told(stage).await;
        if told.len() >= count { Ok(told) } else { Err(told) }
    })
    .await
}

/// Has requests answered, of two tokens each.
async fn spend(stage: &Stage, ids: std::ops::Range<usize>) {
    for n in ids {
        let request = request(&format!("r{n}"), 2);
        stage.client.publish(&request).await;
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{response}");
    }
}

/// What the bucket says was told of a window.
async fn noted(stage: &Stage, counter: &str) -> Value {
    let bucket = stage.client.jetstream().get_key_value("llm_alerts").await.unwrap();
    let value = bucket.get(counter.to_owned()).await.unwrap();
    value.map_or(Value::Null, |value| serde_json::from_slice(&value).unwrap())
}

/// What is told of the team's budget: three thresholds.
fn of_team(limit: i64, percents: &[u64]) -> Vec<(String, u64, i64)> {
    percents.iter().map(|percent| (TEAM.to_owned(), *percent, limit)).collect()
}

const COUNTER: &str = "team-research-total.total";

#[tokio::test(flavor = "multi_thread")]
async fn each_threshold_is_told_once_and_again_for_a_higher_limit() {
    let limit = 10 * 2 * TOKEN;
    let with = |limit: i64| {
        let more = format!(
            "[[budgets]]\nname = \"all\"\nscope = {{}}\nalert_percent = [1]\n{}\n\
             [[budgets]]\nname = \"quiet\"\nscope = {{}}\nalert_percent = []\n{}\n",
            strict(1_000 * 2 * TOKEN, "hold"),
            strict(limit, "hold")
        );
        move |provider: &Provider| config(provider, 4, &strict(limit, "hold")).raw(&more)
    };
    let mut stage = Stage::with(&ROLES, with(limit)).await;
    let dir = tempfile::tempdir().unwrap();
    let watch = start(&stage, dir.path(), &["watch", "--team", TEAM, "--json"]);
    // It listens when it has shown something.
    eventually(PATIENCE, "somebody who watches", async || {
        let probe = "llm.event._.probe";
        stage.client.nats().publish(probe, "{\"kind\":\"probe\"}".into()).await.unwrap();
        if watch.stdout().contains("probe") { Ok(()) } else { Err(watch.stderr()) }
    })
    .await;
    spend(&stage, 0..10).await;
    let mut seen = await_told(&stage, 4).await;
    seen.sort();
    let mut expected = of_team(limit, &[50, 80, 100]);
    expected.push(("_".to_owned(), 1, 1_000 * 2 * TOKEN));
    expected.sort();
    assert_eq!(seen, expected, "and nothing of the quiet one");
    eventually(PATIENCE, "what was told, shown", async || {
        let shown = watch.stdout().lines().filter(|line| line.contains("\"kind\":\"budget\"")).count();
        if shown == 4 { Ok(()) } else { Err(watch.stdout()) }
    })
    .await;
    let show = run(&stage, dir.path(), &["budget", "show", "team-research-total", "--json"]).await.json();
    assert_eq!(show["told_percent"], json!([50, 80, 100]), "{show}");
    assert_eq!(show["scope"], json!({"team": TEAM}), "{show}");
    assert_eq!(show["spent_nano_usd"], limit, "{show}");

    // Twice as much: half of it is spent, as was told already, and 80 % of it come again.
    stage.broker.configure(&with(2 * limit)(&stage.provider));
    stage.running[0].kill9();
    for index in [0, 2] {
        stage.running[index].restart().await;
    }
    spend(&stage, 10..16).await;
    eventually(PATIENCE, "the higher limit's threshold", async || {
        let noted = noted(&stage, COUNTER).await;
        let told = (noted["limit_nano_usd"].as_i64(), &noted["percents"]);
        if told == (Some(2 * limit), &json!([50, 80])) { Ok(()) } else { Err(noted) }
    })
    .await;
    let all = told(&stage).await;
    assert_eq!(all.len(), 5, "{all:?}");
    assert_eq!(all[4..], of_team(2 * limit, &[80]));
    let shown = run(&stage, dir.path(), &["budget", "show", "team-research-total"]).await.stdout;
    assert!(shown.contains("told in this window: 50 %, 80 %"), "{shown}");
    assert!(run(&stage, dir.path(), &["usage"]).await.stdout.contains("team-research-total"));
    let unknown = run(&stage, dir.path(), &["budget", "show", "nothing"]).await;
    assert_eq!(unknown.code, Some(2), "{}", unknown.stderr);
    watch.kill9();
    stage.stop().await;
}

/// The ledger dies when the event is stored and not noted. Ids are remembered by nobody then.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_dies_after_it_told_does_not_tell_again() {
    let limit = 10 * 2 * TOKEN;
    let config = |provider: &Provider| config(provider, 4, &strict(limit, "hold"));
    let mut stage = Stage::with(&ROLES, config).await;
    stage.running[0].kill9();
    stage.running[0].restart_at(Some("ledger.alert:1:kill"));
    stage.running[0].await_ready().await;
    spend(&stage, 0..5).await;
    eventually(PATIENCE, "the ledger's death", async || {
        if stage.running[0].is_alive() { Err(told(&stage).await) } else { Ok(()) }
    })
    .await;
    assert_eq!(told(&stage).await, of_team(limit, &[50]));
    assert_eq!(noted(&stage, COUNTER).await, Value::Null);
    stage.running[0].restart().await;
    eventually(PATIENCE, "what was told to be noted", async || {
        let noted = noted(&stage, COUNTER).await;
        if noted["percents"] == json!([50]) { Ok(()) } else { Err(noted) }
    })
    .await;
    assert_eq!(told(&stage).await, of_team(limit, &[50]));
    spend(&stage, 5..10).await;
    assert_eq!(await_told(&stage, 3).await, of_team(limit, &[50, 80, 100]));
    stage.stop().await;
}

/// The ledger stands still at the same place until another one has taken over and gone on.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_stood_still_tells_nothing_twice() {
    let limit = 10 * 2 * TOKEN;
    let config = |provider: &Provider| config(provider, 4, &strict(limit, "hold"));
    let mut stage = Stage::with(&ROLES, config).await;
    stage.running[0].kill9();
    stage.running[0].restart_at(Some("ledger.alert:1:stop"));
    stage.running[0].await_ready().await;
    spend(&stage, 0..5).await;
    assert_eq!(await_told(&stage, 1).await, of_team(limit, &[50]));
    let other = Broker::new(&config(&stage.provider), &stage.nats.url());
    let other = other.run(Role::Ledger).await;
    let percents = async |wanted: Value| {
        eventually(PATIENCE, "what was told to be noted", async || {
            let noted = noted(&stage, COUNTER).await;
            if noted["percents"] == wanted { Ok(()) } else { Err(noted) }
        })
        .await;
    };
    percents(json!([50])).await;
    spend(&stage, 5..8).await;
    percents(json!([50, 80])).await;
    stage.running[0].cont();
    spend(&stage, 8..10).await;
    percents(json!([50, 80, 100])).await;
    assert_eq!(told(&stage).await, of_team(limit, &[50, 80, 100]));
    drop(other);
}
