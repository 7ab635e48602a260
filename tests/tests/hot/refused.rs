//! What is wrong changes nothing, neither by a command nor by hand.

use serde_json::{Value, json};
use tollgate_tests::config::Config;
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use super::{apply, run, write};
use crate::stage::{PATIENCE, Stage, config};

/// Each with what has to be said of it, line and key among it.
const BROKEN: [(&str, &[&str]); 5] = [
    ("[teams.research", &[":1:", "this is not TOML"]),
    (
        "subject_prefix = \"llm\"\n[providers.sim]\nkind = \"simulator\"\n",
        &["teams: expected at least one team"],
    ),
    (
        "[teams.research]\nwieght = 2\nmodels = [\"nope\"]\n[providers.sim]\nkind = \"simulator\"\n\
         [models.small]\ntargets = [\"sim/gone\"]\n",
        &[":2:1: teams.research.wieght", ":3:11: teams.research.models[0]", ":7:12: models.small.targets[0]"],
    ),
    (
        "[teams.research]\n[providers.local]\nkind = \"compatible\"\nbase_url = \"http://127.0.0.1:1\"\n\
         [providers.local.models.m]\nprice = { input_usd_per_mtok = 0.1 }\n",
        &[":6:32: providers.local.models.m.price.input_usd_per_mtok", "output_usd_per_mtok: expected"],
    ),
    (
        "[teams.research]\n[providers.sim]\nkind = \"simulator\"\n[[budgets]]\nscope = { team = \"nobody\" }\n\
         limit_usd = \"-1\"\nper = \"fortnight\"\n",
        &[":5:18: budgets[0].scope.team", ":6:13: budgets[0].limit_usd", ":7:7: budgets[0].per"],
    ),
];

async fn answered(stage: &Stage, id: &str) -> Value {
    let identity = Identity::new("research", "hot", id);
    stage.client.publish(&Request::chat(&identity, "small", id)).await;
    stage.client.await_response(&identity, PATIENCE).await.value()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_changes_nothing_and_says_every_problem() {
    let roles = [Role::Router, Role::Worker, Role::Ledger];
    let stage = Stage::with(&roles, |provider| config(provider, 4, &["research"])).await;
    for (text, said) in BROKEN {
        let file = write(&stage, "broken.toml", text);
        for command in ["plan", "apply"] {
            let ended = run(&stage, &["config", command, &file]).await;
            assert_eq!(ended.code, Some(2), "{command}: {}{}", ended.stdout, ended.stderr);
            for part in said {
                assert!(ended.stderr.contains(part), "{command} lacks {part}:\n{}", ended.stderr);
            }
            let ended = run(&stage, &["config", command, &file, "--json"]).await;
            assert_eq!((ended.code, &ended.json()["valid"]), (Some(2), &json!(false)));
        }
    }
    let other = write(&stage, "other.toml", "subject_prefix = \"other\"\n[teams.t]\n");
    let ended = run(&stage, &["config", "apply", &other, "--prefix", "llm"]).await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("other"), "{}", ended.stderr);
    let ended = run(&stage, &["budget", "raise", "nobody", "--by-usd", "1"]).await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("no budget"), "{}", ended.stderr);

    assert_eq!(run(&stage, &["config", "history", "--json"]).await.json(), json!({"versions": []}));
    assert_eq!(answered(&stage, "one").await["status"], "succeeded");
    assert_eq!(stage.metric("tollgate_config_refused_total", &[]).await, 0.0);
}

/// Whoever writes into the bucket by other means than our commands is checked by every process for itself.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_a_process_changes_nothing_there() {
    const SECRET: &str = "sk-must-not-be-shown";
    let roles = [Role::Router, Role::Worker, Role::Ledger, Role::Ask];
    let stage = Stage::with(&roles, |provider| config(provider, 4, &["research"])).await;
    let good = apply(&stage, &config(&stage.provider, 4, &["research", "finance"])).await;
    let bucket = stage.client.jetstream().get_key_value("llm_config").await.unwrap();
    let whole = format!("[teams.research]\n[providers.sim]\nkind = \"openai\"\napi_key = \"{SECRET}\"\n");
    let unknown = "[teams.research]\n[providers.elsewhere.models.m]\nprice = { input_usd_per_mtok = \"1\", \
                   output_usd_per_mtok = \"1\" }\n[models.small]\ntargets = [\"elsewhere/m\"]\n";
    let applied = |toml: &str| serde_json::to_vec(&json!({"by": "me", "toml": toml})).unwrap();
    let bad: [(Vec<u8>, &[&str]); 3] = [
        (b"rubbish".to_vec(), &["is not what"]),
        (applied(&whole), &["providers.sim.api_key: this stays in the file"]),
        (applied(unknown), &["providers.elsewhere: this process's own file", "models.small.targets[0]"]),
    ];
    for (index, (value, said)) in bad.into_iter().enumerate() {
        let version = bucket.put("applied", value.into()).await.unwrap();
        eventually(PATIENCE, "all to refuse it", async || {
            let refused = stage.metric("tollgate_config_refused_total", &[]).await;
            if refused == 4.0 * (index + 1) as f64 { Ok(()) } else { Err(refused) }
        })
        .await;
        let status = run(&stage, &["status", "--json"]).await.json();
        let processes = status["in_use"].as_array().unwrap();
        assert_eq!(processes.len(), 4);
        for process in processes {
            assert_eq!(
                (&process["version"], &process["refused"]["version"]),
                (&json!(good), &json!(version))
            );
            let problems = process["refused"]["problems"].to_string();
            assert!(said.iter().all(|part| problems.contains(part)), "{problems}");
        }
        let doctor = run(&stage, &["doctor"]).await;
        assert!(doctor.stdout.contains("not by one router, which cannot use it"), "{}", doctor.stdout);
    }
    assert_eq!(answered(&stage, "one").await["status"], "succeeded");
    for running in &stage.running {
        let logs = running.process().logs();
        assert!(logs.contains("changes nothing") && logs.contains("providers.elsewhere"), "{logs}");
        assert!(!logs.contains(SECRET));
    }
    // The next one that fits is used, also if nothing that can be read was in force.
    let next = apply(&stage, &config(&stage.provider, 4, &["research", "finance", "law"])).await;
    assert_eq!(next, good + 4);
    // A process that is started on one that does not fit uses what the others stay with.
    let version_of_late = async || {
        let late = stage.broker.run(Role::Router).await;
        let text = crate::stage::get(&format!("{}/metrics", late.http())).await;
        let metric =
            text.lines().find_map(|line| line.strip_prefix("tollgate_config_version{role=\"router\"} "));
        metric.unwrap_or_else(|| panic!("{text}")).parse::<u64>().unwrap()
    };
    bucket.put("applied", b"rubbish".to_vec().into()).await.unwrap();
    bucket.put("applied", applied(unknown).into()).await.unwrap();
    assert_eq!(version_of_late().await, next);
    // Deleted by hand: the files count again.
    bucket.delete("applied").await.unwrap();
    super::eventually(PATIENCE, "the files to count again", async || {
        let versions = stage.metric("tollgate_config_version", &[]).await;
        if versions == 0.0 { Ok(()) } else { Err(versions) }
    })
    .await;
    let finance = Identity::new("finance", "hot", "two");
    stage.client.publish(&Request::chat(&finance, "small", "two")).await;
    let response = stage.client.await_response(&finance, PATIENCE).await.value();
    assert_eq!(response["error"]["code"], "unknown_team", "{response}");
    // What was in force before that does not come back.
    bucket.put("applied", applied(unknown).into()).await.unwrap();
    assert_eq!(version_of_late().await, 0);
}

/// Without a file the built-in settings are what a version is laid over.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_a_file_follows_too() {
    let mut stage = Stage::empty(|_| Config::new()).await;
    std::fs::remove_file(stage.broker.config_path()).unwrap();
    let url = stage.nats.url();
    let dir = stage.broker.config_path();
    let mut command = stage.broker.command(&["up", "--json", "--server", &url, "--listen", "127.0.0.1:0"]);
    command.env_remove("OPENAI_API_KEY");
    let process = tollgate_tests::process::Process::spawn("up", command, dir.parent().unwrap());
    eventually(PATIENCE, "a ready broker", async || process.stdout().contains("ready").then_some(())).await;
    let text = "[teams.default]\n[teams.research]\n[providers.sim.models.demo]\n\
                price = { input_usd_per_mtok = \"1\", output_usd_per_mtok = \"1\" }\n[providers.sim.models.new]\n\
                price = { input_usd_per_mtok = \"2\", output_usd_per_mtok = \"2\" }\n[models.small]\n\
                targets = [\"sim/new\"]\n";
    let file = write(&stage, "part.toml", text);
    let ended = run(&stage, &["config", "apply", &file, "--json"]).await;
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    assert_eq!(super::used(&ended.json(), 1), 1);
    let response = answered(&stage, "one").await;
    assert_eq!((&response["status"], &response["model"]), (&json!("succeeded"), &json!("new")), "{response}");
    stage.running.clear();
}
