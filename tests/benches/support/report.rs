//! Where results are kept for programs to compare.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// Writes a result into `bench` of the target folder and says where that is.
pub(crate) fn write(name: &str, value: &Value) -> PathBuf {
    // `<target>/tmp`, wherever the target folder is.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap_or(Path::new("target"));
    let dir = target.join("bench");
    std::fs::create_dir_all(&dir).expect("the result's folder can be made");
    let path = dir.join(name);
    let text = serde_json::to_string_pretty(value).expect("a JSON value can be written");
    std::fs::write(&path, text + "\n").expect("the result can be written");
    path
}

/// How it is said whether a bar was kept.
pub(crate) fn verdict(is_kept: bool) -> &'static str {
    if is_kept { "kept" } else { "MISSED" }
}
