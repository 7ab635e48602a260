//! Versions: planned, applied, kept, and put in force again; of two at once one wins.

use std::time::Duration;

use serde_json::json;
use tollgate_tests::config::Config;
use tollgate_tests::process::Process;
use tollgate_tests::provider::Provider;
use tollgate_tests::roles::Role;

use super::{apply, end, in_use, run, start, write};
use crate::stage::{PATIENCE, Stage, config};

const ROLES: [Role; 2] = [Role::Router, Role::Worker];

fn with(provider: &Provider, teams: &[&str]) -> Config {
    config(provider, 4, teams)
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_planned_applied_kept_and_rolled_back() {
    let mut stage = Stage::with(&ROLES, |provider| with(provider, &["a"])).await;
    let [one, two] = [&["a"][..], &["a", "b"]].map(|teams| with(&stage.provider, teams));
    let [one, two] =
        [("one.toml", one), ("two.toml", two)].map(|(name, config)| write(&stage, name, config.text()));
    let nothing = run(&stage, &["config", "show"]).await;
    assert_eq!(nothing.code, Some(2));
    assert!(nothing.stderr.contains("nothing is applied"), "{}", nothing.stderr);

    let plan = run(&stage, &["config", "plan", &one, "--json"]).await;
    let kinds =
        plan.json()["changes"].as_array().unwrap().iter().map(|change| change["kind"].clone()).collect();
    assert_eq!((plan.code, &plan.json()["version"]), (Some(0), &json!(null)));
    assert_eq!(serde_json::Value::Array(kinds), json!(["model", "price", "team"]));
    let applied = run(&stage, &["config", "apply", &one, "--note", "the first"]).await;
    assert_eq!(applied.code, Some(0), "{}", applied.stderr);
    assert!(applied.stdout.contains("+ team a: ") && applied.stdout.contains("applied as version 1"));
    assert!(applied.stderr.contains("in use by: 1 router, 1 worker"), "{}", applied.stderr);
    let plan = run(&stage, &["config", "plan", &one]).await;
    assert_eq!((plan.code, plan.stdout.trim()), (Some(0), "no change against version 1"));
    let said = ["warning: ", "the key itself stands in the file", "max_in_flight of providers"];
    assert!(said.iter().all(|said| plan.stderr.contains(said)), "{}", plan.stderr);
    let negative = run(&stage, &["budget", "set", "any", "--limit-usd", "-1"]).await;
    assert_eq!(negative.code, Some(2));
    assert!(negative.stderr.contains("expected a decimal number of dollars"), "{}", negative.stderr);
    let again = run(&stage, &["config", "apply", &one]).await;
    assert_eq!((again.code, again.stdout.trim()), (Some(0), "no change: version 1 stays in force"));

    let plan = run(&stage, &["config", "plan", &two]).await;
    assert!(plan.stdout.starts_with("+ team b: weight 1, priority_max high, models *"), "{}", plan.stdout);
    assert_eq!(apply(&stage, &with(&stage.provider, &["a", "b"])).await, 2);
    let shown = run(&stage, &["config", "show"]).await;
    assert!(shown.stdout.contains("[teams.b]") && !shown.stdout.contains("test-key"), "{}", shown.stdout);
    // What is shown can be edited and applied as it is.
    let edited = write(&stage, "edited.toml", &shown.stdout.replace("teams.b", "teams.c"));
    let plan = run(&stage, &["config", "plan", &edited, "--json"]).await.json();
    let changes = plan["changes"].as_array().unwrap();
    assert_eq!(
        changes.iter().map(|change| change["change"].as_str()).collect::<Vec<_>>(),
        [Some("removed"), Some("added")]
    );

    let back = run(&stage, &["config", "rollback", "--note", "too early", "--json"]).await.json();
    assert_eq!((&back["version"], super::used(&back, 3)), (&json!(3), 2));
    assert_eq!(
        run(&stage, &["config", "show", "1"]).await.stdout,
        run(&stage, &["config", "show"]).await.stdout
    );
    let named = run(&stage, &["config", "rollback", "2", "--json"]).await.json();
    assert_eq!(named["version"], 4);
    for (command, number) in [("rollback", "0"), ("rollback", "99"), ("show", "0"), ("show", "99")] {
        let missing = run(&stage, &["config", command, number]).await;
        assert_eq!(missing.code, Some(1), "{}", missing.stderr);
        let said = format!("there is no version {number} (kept: 1 to 4)");
        assert!(missing.stderr.contains(&said), "{}", missing.stderr);
    }
    let history = run(&stage, &["config", "history", "--json"]).await.json();
    let notes: Vec<_> =
        history["versions"].as_array().unwrap().iter().map(|version| version["note"].clone()).collect();
    assert_eq!(notes, ["the first", "", "version 1 again: too early", "version 2 again"]);

    // Started later, after the nats-server was killed: in force is what was applied, not the file.
    stage.nats.kill9();
    stage.nats.restart().await;
    stage.start(Role::Ask).await;
    in_use(&stage, 4).await;
    let up = stage.broker.up(tollgate_tests::roles::Server::Given, &[]).await;
    let text = crate::stage::get(&format!("{}/metrics", up.http())).await;
    for role in ["router", "worker", "ledger", "ask"] {
        assert!(text.contains(&format!("tollgate_config_version{{role=\"{role}\"}} 4")), "{text}");
    }
}

/// Both expect the version that both have seen.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_at_once_one_wins_and_the_other_is_told() {
    let stage = Stage::with(&ROLES, |provider| with(provider, &["a"])).await;
    for round in 0..5_u64 {
        let files = ["x", "y"].map(|name| {
            let team = format!("{name}{round}");
            write(&stage, &format!("{name}.toml"), with(&stage.provider, &["a", &team]).text())
        });
        let expected = round.to_string();
        let both: [Process; 2] =
            files.each_ref().map(|file| start(&stage, &["config", "apply", file, "--expect", &expected]));
        let (one, other) = tokio::join!(end(&both[0]), end(&both[1]));
        let mut codes = [one.code, other.code];
        codes.sort();
        assert_eq!(codes, [Some(0), Some(1)], "{}\n{}", one.stderr, other.stderr);
        let loser = if one.code == Some(1) { one } else { other };
        assert!(loser.stderr.contains("nothing was applied"), "{}", loser.stderr);
    }
    in_use(&stage, 5).await;
    // What changes one value only is made again on top of the other's.
    let budget = "[[budgets]]\nname = \"all\"\nscope = {}\nlimit_usd = \"1\"\nper = \"total\"\n";
    assert_eq!(apply(&stage, &with(&stage.provider, &["a"]).raw(budget)).await, 6);
    let nothing = run(&stage, &["budget", "raise", "all", "--by-usd", "0.0"]).await;
    assert_eq!(nothing.code, Some(2), "{}", nothing.stdout);
    let same = run(&stage, &["budget", "set", "all", "--limit-usd", "1.00"]).await;
    assert_eq!((same.code, same.stdout.trim()), (Some(0), "no change: version 6 stays in force"));
    let raises: Vec<_> =
        (0..4).map(|_| start(&stage, &["budget", "raise", "all", "--by-usd", "0.25"])).collect();
    for raise in &raises {
        assert_eq!(raise.ended(PATIENCE).await, Some(0), "{}", raise.logs());
    }
    let shown = run(&stage, &["config", "show", "--json"]).await.json();
    assert_eq!(shown["version"], 10);
    assert!(shown["toml"].as_str().unwrap().contains("limit_usd = \"2.00\""), "{shown}");
    tokio::time::timeout(Duration::from_secs(60), in_use(&stage, 10)).await.unwrap();
}
