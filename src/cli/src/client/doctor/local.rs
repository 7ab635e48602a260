//! What can be looked at without a server.

use std::path::{Path, PathBuf};

use tollgate_config::{ProviderKind, Settings};

use super::Check;
use crate::args::Global;
use crate::client::config;

/// Where `make tools` puts the server.
const TOOLS: &str = ".tools/nats-server";

/// The checks, and the settings if they could be read.
pub(super) fn checks(global: &Global) -> (Option<Settings>, Vec<Check>) {
    let (settings, configuration) = match config::file_meant(global.config.as_deref()) {
        None => {
            let found = "no tollgate.toml here; the built-in simulator is used";
            (
                Some(tollgate_config::zero(&tollgate_config::EmptyEnvironment)),
                Check::good("configuration", found),
            )
        }
        Some(file) => match config::load(&file) {
            Ok(settings) => {
                let check = configuration(&file, &settings);
                (Some(settings), check)
            }
            Err(trouble) => {
                let advice = "correct the file; `tollgate config check` looks again";
                (None, Check::bad("configuration", trouble.to_string(), advice))
            }
        },
    };
    let mut checks = vec![configuration];
    checks.extend(settings.as_ref().map(keys));
    checks.push(server_program());
    (settings, checks)
}

fn configuration(file: &Path, settings: &Settings) -> Check {
    let found = format!("{} is valid", file.display());
    if settings.warnings.is_empty() {
        Check::good("configuration", found)
    } else {
        Check::warning("configuration", found, settings.warnings.join("\n    → "))
    }
}

/// Only whether a key is there. It is never shown, not even in part.
fn keys(settings: &Settings) -> Check {
    let missing: Vec<&str> = settings
        .providers
        .iter()
        .filter(|(_, provider)| provider.api_keys.is_empty() && provider.kind == ProviderKind::OpenAi)
        .map(|(name, _)| name.as_str())
        .collect();
    if missing.is_empty() {
        let with_key = settings.providers.values().filter(|provider| !provider.api_keys.is_empty()).count();
        return Check::good("API keys", format!("{with_key} providers have one; no other needs one"));
    }
    Check::bad(
        "API keys",
        format!("none for {}", missing.join(", ")),
        "give each an api_key such as \"env:OPENAI_API_KEY\" and set that variable",
    )
}

fn server_program() -> Check {
    match find_server() {
        Some(path) => Check::good("nats-server program", path.display().to_string()),
        None => Check::warning(
            "nats-server program",
            "not found",
            "only `tollgate up` without --server needs one: `make tools` fetches it, or put it on the PATH",
        ),
    }
}

#[expect(clippy::disallowed_methods, reason = "looks where `tollgate up` would look")]
fn find_server() -> Option<PathBuf> {
    if let Ok(named) = std::env::var("TOLLGATE_NATS_SERVER") {
        return Some(PathBuf::from(named)).filter(|path| path.is_file());
    }
    let path = std::env::var("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join("nats-server"))
        .chain([PathBuf::from(TOOLS)])
        .find(|path| path.is_file())
}
