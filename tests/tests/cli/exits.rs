//! Exit codes: 2 for a wrong command line, 3 when nobody is there.

use std::path::Path;

use tollgate_tests::config::Config;
use tollgate_tests::port::free_port;
use tollgate_tests::process::Process;
use tollgate_tests::roles::Broker;

use super::{end, text};

fn start(broker: &Broker, dir: &Path, arguments: &[&str]) -> Process {
    Process::spawn("command", broker.command(arguments), dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_on_the_command_line_is_exit_code_2() {
    let broker = Broker::new(&Config::new(), "nats://127.0.0.1:1");
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("broken.jsonl"), "{\"custom_id\":\"a\"}\nnot JSON\n").unwrap();
    let line = r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[{}]}}"#;
    std::fs::write(path("twice.jsonl"), format!("{line}\n{line}\n")).unwrap();
    std::fs::write(path("good.jsonl"), format!("{line}\n")).unwrap();
    let (broken, twice, good) = (path("broken.jsonl"), path("twice.jsonl"), path("good.jsonl"));
    let missing = path("missing.jsonl");
    let cases: [(&[&str], &str); 11] = [
        (&[], "Usage"),
        (&["explode"], "explode"),
        (&["submit"], "FILE"),
        (&["submit", text(&missing)], "missing.jsonl"),
        (&["submit", text(&broken)], "line 2: invalid_json_line"),
        (&["submit", text(&twice)], "line 2"),
        (&["submit", text(&good), "--team", "a.b"], "--team"),
        (&["submit", text(&good), "--priority", "urgent"], "urgent"),
        (&["submit", text(&good), "--in-flight", "0"], "--in-flight"),
        (&["ask", "hello", "--timeout", "soon"], "--timeout"),
        (&["dlq", "replay", "--canary", "0"], "--canary"),
    ];
    for (arguments, part) in cases {
        let ended = end(&start(&broker, dir.path(), arguments)).await;
        assert_eq!(ended.code, Some(2), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(part), "{arguments:?} does not say {part:?}:\n{}", ended.stderr);
        assert_eq!(ended.stdout, "", "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_exit_code_3() {
    let broker = Broker::new(&Config::new(), "nats://127.0.0.1:1");
    let dir = tempfile::tempdir().unwrap();
    let url = format!("nats://127.0.0.1:{}", free_port());
    let good = dir.path().join("good.jsonl");
    let line = r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[{}]}}"#;
    std::fs::write(&good, format!("{line}\n")).unwrap();
    let commands: [&[&str]; 7] = [
        &["submit", text(&good)],
        &["collect", "g"],
        &["wait", "g", "--count", "1"],
        &["ask", "hello"],
        &["usage"],
        &["status"],
        &["show", "q"],
    ];
    for command in commands {
        let arguments: Vec<&str> = command.iter().copied().chain(["--server", &url]).collect();
        let ended = end(&start(&broker, dir.path(), &arguments)).await;
        assert_eq!(ended.code, Some(3), "{command:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(&url), "{command:?} does not name the server:\n{}", ended.stderr);
    }
}

/// Whoever is at the default address instead may be somebody else's broker.
#[tokio::test(flavor = "multi_thread")]
async fn it_says_when_the_broker_of_the_folder_is_not_running() {
    let broker = Broker::new(&Config::new(), "nats://127.0.0.1:1");
    let dir = tempfile::tempdir().unwrap();
    let url = format!("nats://127.0.0.1:{}", free_port());
    std::fs::create_dir(dir.path().join(".tollgate")).unwrap();
    std::fs::write(dir.path().join(".tollgate/nats.json"), format!("{{\"url\":\"{url}\"}}")).unwrap();
    let mut command = broker.command(&["status"]);
    command.current_dir(dir.path()).env_remove("NATS_URL");
    let ended = end(&Process::spawn("command", command, dir.path())).await;
    assert!(ended.stderr.contains(&url) && ended.stderr.contains("is not running"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn help_version_and_completions_are_exit_code_0() {
    let broker = Broker::new(&Config::new(), "nats://127.0.0.1:1");
    let dir = tempfile::tempdir().unwrap();
    let cases: [(&[&str], &str); 4] = [
        (&["--help"], "Exit codes"),
        (&["--version"], "tollgate "),
        (&["completions", "bash"], "complete"),
        (&["config", "schema"], "\"$schema\""),
    ];
    for (arguments, part) in cases {
        let ended = end(&start(&broker, dir.path(), arguments)).await;
        assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stdout.contains(part), "{arguments:?}:\n{}", ended.stdout);
    }
}

/// Nobody reads what goes wrong: the exit code says it all the same.
#[test]
fn a_closed_standard_error_is_no_panic() {
    let broker = Broker::new(&Config::new(), "nats://127.0.0.1:1");
    for (arguments, code) in [(["config", "check", "nowhere.toml"].as_slice(), 2), (&["status"], 3)] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = broker.command(arguments);
        assert_eq!(command.stderr(writer).status().unwrap().code(), Some(code), "{arguments:?}");
    }
}
