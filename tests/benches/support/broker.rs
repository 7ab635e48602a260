//! The broker that is measured: the release build, its provider, its configuration.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tollgate_tests::config::Config;
use tollgate_tests::money::Price;
use tollgate_tests::process::Process;
use tollgate_tests::wait::eventually;

/// The model that every request asks for.
pub(crate) const MODEL: &str = "bench-model";
/// The provider that has it.
pub(crate) const PROVIDER: &str = "sim";

/// The binary in `TOLLGATE_BIN`, else the release build, made now.
pub(crate) fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TOLLGATE_BIN") {
        return path.into();
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            "tollgate",
            "--bin",
            "tollgate",
            "--message-format",
        ])
        .arg("json-render-diagnostics")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo can be started");
    assert!(build.status.success(), "tollgate does not build:\n{}", String::from_utf8_lossy(&build.stderr));
    String::from_utf8_lossy(&build.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "tollgate")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo says where it put the binary")
}

/// The simulator in a process of its own, without any latency.
pub(crate) struct Provider {
    process: Process,
    base_url: String,
}

impl Provider {
    /// Starts it and waits until it answers.
    pub(crate) async fn start(binary: &Path, dir: &Path) -> Self {
        let mut command = Command::new(binary);
        command.args(["simulator", "--json", "--listen", "127.0.0.1:0"]).current_dir(dir);
        command.env_remove("NATS_URL");
        let process = Process::spawn("simulator", command, dir);
        let line = eventually(Duration::from_secs(20), "the simulator's ready line", async || {
            process.stdout().split_once('\n').map(|(line, _)| line.to_owned()).ok_or_else(|| process.stderr())
        })
        .await;
        let ready: Value = serde_json::from_str(&line).expect("the ready line is JSON");
        let base_url = ready["base_url"].as_str().expect("the ready line has the address").to_owned();
        Self { process, base_url }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where it answers.
    pub(crate) fn base_url(&self) -> &str {
        &self.base_url
    }
}

/// One team, one model, one priced provider, under a subject prefix of its own.
pub(crate) fn config(prefix: &str, base_url: &str, max_in_flight: usize) -> Config {
    let places = u32::try_from(max_in_flight).expect("a small number");
    Config::new()
        .raw(&format!("subject_prefix = \"{prefix}\""))
        .team(super::client::TEAM)
        .provider(PROVIDER, base_url, places, &[(MODEL, Price::new(150_000_000, 600_000_000))])
        .model(MODEL, &[&format!("{PROVIDER}/{MODEL}")])
}
