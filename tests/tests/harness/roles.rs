use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tollgate_tests::config::Config;
use tollgate_tests::money::Price;
use tollgate_tests::roles::{Broker, Role, Server};

/// A program in the place of the broker: this shell script.
fn stand_in(script: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tollgate");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    (dir, path)
}

/// Reports ready with its arguments, and stays until it is told to end.
const PATIENT: &str = r#"
trap 'exit 7' TERM
echo "{\"ready\":true,\"http\":\"http://127.0.0.1:1\",\"arguments\":\"$*\",\"pid\":$$}"
while :; do sleep 0.05; done"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_role_is_started_with_its_arguments_and_ends_when_told() {
    let (_dir, binary) = stand_in(PATIENT);
    let broker = Broker::with_binary(&binary, &Config::new().team("research"), "nats://127.0.0.1:9");
    let ledger = broker.run(Role::Ledger).await;

    let arguments = ledger.ready()["arguments"].as_str().unwrap();
    let config = broker.config_path().display().to_string();
    let data = broker.data_path().display().to_string();
    assert_eq!(
        arguments,
        format!(
            "run ledger --server nats://127.0.0.1:9 --data {data} --config {config} --listen 127.0.0.1:0"
        )
    );
    assert_eq!(ledger.http(), "http://127.0.0.1:1");
    let up = broker.up(Server::Own, &["--verbose"]).await;
    let arguments = up.ready()["arguments"].as_str().unwrap();
    assert!(arguments.contains("--nats-port 0") && arguments.ends_with(" --verbose"), "{arguments}");

    ledger.term();
    assert_eq!(ledger.process().ended(Duration::from_secs(10)).await, Some(7));
    assert!(!ledger.is_alive() && up.is_alive());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_role_starts_again() {
    let (_dir, binary) = stand_in(PATIENT);
    let broker = Broker::with_binary(&binary, &Config::new(), "nats://127.0.0.1:9");
    let mut router = broker.run(Role::Router).await;
    let first = router.ready()["pid"].clone();
    assert_eq!(first, router.process().pid());

    router.stop();
    assert!(router.is_alive());
    router.kill9();
    assert!(!router.is_alive());
    router.restart().await;
    assert!(router.is_alive());
    assert_ne!(router.ready()["pid"], first);
}

#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "router ended before it was ready")]
async fn a_role_that_fails_to_start_shows_why() {
    let (_dir, binary) = stand_in("echo 'no such team' >&2; exit 2");
    Broker::with_binary(&binary, &Config::new(), "nats://127.0.0.1:9").run(Role::Router).await;
}

#[tokio::test(flavor = "multi_thread")]
#[should_panic(expected = "the first line of worker is no ready line: starting")]
async fn the_first_line_must_be_the_ready_line() {
    let (_dir, binary) = stand_in("echo starting; sleep 60");
    Broker::with_binary(&binary, &Config::new(), "nats://127.0.0.1:9").run(Role::Worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_role_left_behind_ends_with_the_test() {
    let (dir, binary) = stand_in(
        r#"sleep 600 & echo "{\"ready\":true,\"child\":$!}"
wait"#,
    );
    let broker = Broker::with_binary(&binary, &Config::new(), "nats://127.0.0.1:9");
    let up = broker.up(Server::Own, &[]).await;
    let child = nix::unistd::Pid::from_raw(i32::try_from(up.ready()["child"].as_i64().unwrap()).unwrap());
    up.kill9();
    nix::sys::signal::kill(child, None).expect("a crash of the parent leaves the child alive");
    drop(up);
    let gone = async || match nix::sys::signal::kill(child, None) {
        Err(nix::errno::Errno::ESRCH) => true,
        // Not reaped yet by whoever adopted it.
        _ => std::fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| stat.contains(") Z ")),
    };
    tollgate_tests::wait::eventually(Duration::from_secs(10), "the child's end", async || {
        gone().await.then_some(())
    })
    .await;
    drop(dir);
}

#[test]
fn a_configuration_reads_as_documented() {
    let config = Config::new()
        .timing(Duration::from_secs(2), Duration::from_millis(1_500))
        .weighted_team("research", 2)
        .provider("sim", "http://127.0.0.1:1/v1", 64, &[("m-1", Price::new(150_000_000, 600_000_000))])
        .model("small", &["sim/m-1"])
        .team_budget("research", 1, "month", "hold")
        .raw("[[limits]]\nscope = { team = \"research\" }\nin_flight = 5");
    let expected = r#"[timing]
ack_wait_ms = 2000
lease_ms = 1500

[teams.research]
weight = 2
models = ["*"]

[providers.sim]
kind = "compatible"
base_url = "http://127.0.0.1:1/v1"
api_key = "test-key"
max_in_flight = 64
[providers.sim.models."m-1"]
price = { input_usd_per_mtok = "0.150000000", cached_input_usd_per_mtok = "0.150000000", output_usd_per_mtok = "0.600000000" }

[models."small"]
targets = ["sim/m-1"]

[[budgets]]
scope = { team = "research" }
limit_usd = "0.000000001"
per = "month"
when_spent = "hold"

[[limits]]
scope = { team = "research" }
in_flight = 5
"#;
    assert_eq!(config.text(), expected);
}
