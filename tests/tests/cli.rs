//! The command line, as a person or a script uses it.

mod ask;
mod exits;
mod reports;
mod submit;
mod waits;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tollgate_tests::process::Process;

use crate::stage::{PATIENCE, Stage};

/// A command that has ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Its standard output as one JSON value.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}:\n{}\n{}", self.stdout, self.stderr))
    }
}

/// Starts a command at the stage's server.
pub(crate) fn start(stage: &Stage, dir: &Path, arguments: &[&str]) -> Process {
    let url = stage.nats.url();
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--server", &url]).collect();
    Process::spawn("command", stage.broker.command(&arguments), dir)
}

/// Runs one to its end.
pub(crate) async fn run(stage: &Stage, dir: &Path, arguments: &[&str]) -> Ended {
    end(&start(stage, dir, arguments)).await
}

pub(crate) async fn end(process: &Process) -> Ended {
    let code = process.ended(PATIENCE).await;
    let (stdout, stderr) = (process.stdout(), process.stderr());
    assert!(!stderr.contains("panicked"), "{stderr}");
    Ended { code, stdout, stderr }
}

/// The lines of a result file by custom_id, each exactly once.
fn results(path: &Path) -> BTreeMap<String, Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "{path:?} ends in the middle of a line");
    let mut results = BTreeMap::new();
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let custom_id = value["custom_id"].as_str().unwrap().to_owned();
        assert!(results.insert(custom_id.clone(), value).is_none(), "{custom_id} stands twice in {path:?}");
    }
    results
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
