use tollgate_tests::provider::answer_to;
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use super::run;
use crate::stage::{PATIENCE, PRICE, Stage, config};

#[tokio::test(flavor = "multi_thread")]
async fn usage_status_and_doctor_say_what_is() {
    let mut stage = Stage::up(|provider| config(provider, 8, &["alpha", "beta"])).await;
    let dir = tempfile::tempdir().unwrap();
    let request = |team: &str, n: usize| {
        Request::chat(&Identity::new(team, "reports", &n.to_string()), "small", &format!("{team} {n}"))
    };
    let requests: Vec<_> = (0..12).map(|n| request(if n < 8 { "alpha" } else { "beta" }, n)).collect();
    stage.client.publish_all(&requests).await;
    for request in &requests {
        stage.client.await_response(&request.identity, PATIENCE).await;
    }
    let cost: i128 = requests.iter().map(|request| PRICE.cost(answer_to(request.body()).tokens)).sum();
    let usage = eventually(PATIENCE, "the ledger's numbers", async || {
        let usage = run(&stage, dir.path(), &["usage", "--by", "team,model", "--json"]).await;
        assert_eq!(usage.code, Some(0), "{}", usage.stderr);
        let usage = usage.json();
        if usage["total"]["requests"] == 12 { Ok(usage) } else { Err(usage) }
    })
    .await;
    assert_eq!(usage["total"]["cost_nano_usd"].to_string(), cost.to_string());
    let rows = usage["rows"].as_array().unwrap();
    let shown: Vec<_> = rows.iter().map(|row| (row["team"].clone(), row["requests"].clone())).collect();
    assert_eq!(shown, [("alpha".into(), 8.into()), ("beta".into(), 4.into())]);
    let filtered =
        run(&stage, dir.path(), &["usage", "--by", "team", "--where", "team=beta", "--json"]).await;
    assert_eq!(filtered.json()["total"]["requests"], 4);
    let table = run(&stage, dir.path(), &["usage"]).await;
    assert!(table.code == Some(0) && table.stdout.contains("alpha"), "{}", table.stdout);
    let wrong = run(&stage, dir.path(), &["usage", "--by", "colour"]).await;
    assert_eq!(wrong.code, Some(2), "{}", wrong.stderr);

    let status = run(&stage, dir.path(), &["status", "--json"]).await;
    assert_eq!(status.code, Some(0), "{}", status.stderr);
    let status = status.json();
    assert_eq!((&status["responses"], &status["usage_events"]), (&12.into(), &12.into()), "{status}");
    assert_eq!(status["missing_streams"], serde_json::json!([]));
    let doctor = run(&stage, dir.path(), &["doctor", "--json"]).await;
    assert_eq!(doctor.code, Some(0), "{} {}", doctor.stdout, doctor.stderr);

    // Without roles the streams are still there, and the doctor says what is missing.
    stage.stop().await;
    let request = request("alpha", 99);
    stage.client.publish(&request).await;
    let status = run(&stage, dir.path(), &["status", "--json"]).await.json();
    assert_eq!(status["waiting"]["normal"], 1, "{status}");
    let doctor = run(&stage, dir.path(), &["doctor"]).await;
    assert_eq!(doctor.code, Some(1), "{}", doctor.stdout);
    let said = format!("{}{}", doctor.stdout, doctor.stderr);
    assert!(said.contains("router") && said.contains("worker"), "{said}");
    let usage = run(&stage, dir.path(), &["usage"]).await;
    assert_eq!(usage.code, Some(3), "{}", usage.stderr);
    assert!(usage.stderr.contains("no ledger answers"), "{}", usage.stderr);
    stage.start(Role::Router).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_and_what_changes_nothing_is_no_success() {
    const BUDGET: &str = "[[budgets]]\nname = \"all\"\nscope = {}\nlimit_usd = \"1\"\nper = \"total\"\n";
    let roles = [Role::Router, Role::Worker];
    let stage = Stage::with(&roles, |provider| config(provider, 8, &["alpha"]).raw(BUDGET)).await;
    let dir = tempfile::tempdir().unwrap();
    let refused = async |arguments: &[&str], code: i32, part: &str| {
        let ended = run(&stage, dir.path(), arguments).await;
        assert_eq!(ended.code, Some(code), "{arguments:?}: {}{}", ended.stdout, ended.stderr);
        assert!(ended.stderr.contains(part), "{arguments:?} does not say {part:?}:\n{}", ended.stderr);
    };
    for command in ["pause", "resume"] {
        refused(&["provider", command, "nosuch"], 1, "no provider \"nosuch\"").await;
    }
    // Paused, and then taken out of the configuration.
    assert_eq!(run(&stage, dir.path(), &["provider", "pause", "sim"]).await.code, Some(0));
    let health = stage.client.jetstream().get_key_value("llm_health").await.unwrap();
    let paused = health.get("provider.sim").await.unwrap().unwrap();
    health.put("provider.gone", paused).await.unwrap();
    for name in ["sim", "gone"] {
        let resumed = run(&stage, dir.path(), &["provider", "resume", name]).await;
        assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    }
    refused(&["provider", "resume", "gone"], 1, "no provider \"gone\"").await;

    refused(&["config", "rollback", "0"], 1, "there is no version 0 (kept: none)").await;
    refused(&["budget", "raise", "all", "--by-usd", "0"], 2, "more than 0").await;
    let same = run(&stage, dir.path(), &["budget", "set", "all", "--limit-usd", "1.0", "--json"]).await;
    assert_eq!(same.json(), serde_json::json!({"version": null, "applied": false, "changes": []}));
    let history = run(&stage, dir.path(), &["config", "history", "--json"]).await.json();
    assert_eq!(history["versions"], serde_json::json!([]));
}
