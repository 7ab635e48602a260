//! Teams, budgets, models and prices change while everything runs: for all processes at once, as a whole or not at all.

mod followed;
mod refused;
mod versions;
mod waiting;

use serde_json::Value;
use tollgate_tests::config::Config;
use tollgate_tests::process::Process;
use tollgate_tests::wait::eventually;

use crate::stage::{PATIENCE, Stage};

/// A command that has ended.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}:\n{}\n{}", self.stdout, self.stderr))
    }
}

fn start(stage: &Stage, arguments: &[&str]) -> Process {
    let url = stage.nats.url();
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--server", &url]).collect();
    let dir = stage.broker.config_path();
    Process::spawn("command", stage.broker.command(&arguments), dir.parent().unwrap())
}

async fn end(process: &Process) -> Ended {
    let code = process.ended(PATIENCE).await;
    let (stdout, stderr) = (process.stdout(), process.stderr());
    assert!(!stderr.contains("panicked"), "{stderr}");
    Ended { code, stdout, stderr }
}

/// Runs a command to its end.
async fn run(stage: &Stage, arguments: &[&str]) -> Ended {
    end(&start(stage, arguments)).await
}

/// Writes a configuration beside that of the processes, which keep theirs.
fn write(stage: &Stage, name: &str, text: &str) -> String {
    let path = stage.broker.config_path().with_file_name(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Applies a configuration, which every process that runs can use, and returns the version.
async fn apply(stage: &Stage, config: &Config) -> u64 {
    let file = write(stage, "applied.toml", config.text());
    let ended = run(stage, &["config", "apply", &file, "--json"]).await;
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    let said = ended.json();
    let version = said["version"].as_u64().unwrap();
    assert_eq!(used(&said, version), stage.running.len(), "{said}");
    version
}

/// How many processes use this version, as a command says; no other answers.
fn used(said: &Value, version: u64) -> usize {
    let processes = said["in_use"].as_array().unwrap();
    assert!(processes.iter().all(|process| process["version"] == version), "{said}");
    processes.len()
}

/// Waits until every process says that it uses this version.
async fn in_use(stage: &Stage, version: u64) {
    eventually(PATIENCE, "all processes to use a version", async || {
        let status = run(stage, &["status", "--json"]).await.json();
        let processes = status["in_use"].as_array().unwrap();
        let using = processes.iter().filter(|process| process["version"] == version).count();
        if using == stage.running.len() && using == processes.len() {
            Ok(())
        } else {
            Err(status["in_use"].clone())
        }
    })
    .await;
}
