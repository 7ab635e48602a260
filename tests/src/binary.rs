//! The `tollgate` binary under test, and where it finds what it needs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::nats;

/// The `tollgate` binary: the one in `TOLLGATE_BIN`, else built now, once for this test process.
///
/// # Panics
/// When it does not build.
pub fn path() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| std::env::var_os("TOLLGATE_BIN").map_or_else(build, PathBuf::from))
}

fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = Command::new(cargo)
        .args(["build", "--quiet", "--bin", "tollgate", "--message-format", "json-render-diagnostics"])
        .current_dir(nats::workspace_root())
        .output()
        .expect("cargo can be started");
    let errors = String::from_utf8_lossy(&build.stderr);
    assert!(build.status.success(), "tollgate does not build:\n{errors}");
    // One JSON object a line; the artifact of a binary says where it is.
    String::from_utf8_lossy(&build.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "tollgate")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo says where it put the binary")
}

/// The `PATH` for the broker: the nats-server of the tests comes first, so that `up` uses the same.
pub(crate) fn search_path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let tools = nats::binary().parent().map(Path::to_owned).unwrap_or_default();
    std::env::join_paths(std::iter::once(tools).chain(std::env::split_paths(&path)))
        .expect("the folder of the nats-server has no colon in its name")
}
