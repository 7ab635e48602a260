use tollgate_tests::config::Config;
use tollgate_tests::process::Process;
use tollgate_tests::roles::Broker;

use crate::stage::PATIENCE;

/// A file with a mistake in most of its lines.
const BROKEN: &str = r#"subject_prefix = "LLM"
surprise = 1
[providers.sim]
kind = "compatible"
max_in_flight = -1
[teams."a.b"]
[timing]
ack_wait_ms = "soon"
"#;

/// The line and the key of each. What is missing is reported at its table's header.
const PROBLEMS: [(usize, &str); 6] = [
    (1, "subject_prefix"),
    (2, "surprise"),
    (3, "providers.sim.base_url"),
    (5, "providers.sim.max_in_flight"),
    (6, "teams"),
    (8, "timing.ack_wait_ms"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_error_is_reported_at_once_with_its_line() {
    let broker = Broker::new(&Config::new().raw(BROKEN), "nats://127.0.0.1:1");
    let config = broker.config_path().display().to_string();
    let data = broker.data_path().display().to_string();
    let commands: [&[&str]; 5] = [
        &["run", "router", "--config", &config],
        &["run", "ledger", "--config", &config, "--data", &data],
        &["up", "--json", "--config", &config, "--data", &data],
        &["config", "check", "--config", &config],
        &["config", "check", "--json", "--config", &config],
    ];
    let dir = tempfile::tempdir().unwrap();
    for command in commands {
        let process = Process::spawn("config", broker.command(command), dir.path());
        let code = process.ended(PATIENCE).await;
        let said = format!("{}{}", process.stderr(), process.stdout());
        assert_eq!(code, Some(2), "{command:?}: {said}");
        for (line, key) in PROBLEMS {
            let place = match command {
                ["config", "check", "--json", ..] => format!("\"line\":{line},"),
                _ => format!("{config}:{line}:"),
            };
            assert!(said.contains(&place) && said.contains(key), "{command:?} lacks {place} {key}:\n{said}");
        }
    }
    assert!(!broker.data_path().exists(), "a folder was made for a configuration that is wrong");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_limits_nothing_is_refused() {
    let config = Config::new().team("research").raw("[providers.sim]\nkind = \"simulator\"");
    let config = config.raw("[[limits]]\nscope = { team = \"research\" }\non_limit = \"reject\"");
    let broker = Broker::new(&config, "nats://127.0.0.1:1");
    let path = broker.config_path().display().to_string();
    let dir = tempfile::tempdir().unwrap();
    let command = broker.command(&["run", "router", "--config", &path]);
    let process = Process::spawn("config", command, dir.path());
    assert_eq!(process.ended(PATIENCE).await, Some(2));
    assert!(process.stderr().contains("expected one of requests_per_minute"), "{}", process.stderr());
}
