//! The configuration: one `tollgate.toml`, checked as a whole, valid by construction after that.
//!
//! Two stages. `raw` says what a file may say and reads it with the place of every value; `resolve` makes
//! [`Settings`] of it, which is what the program uses. Both go on after a problem, so that a [`Report`]
//! names everything that is wrong at once. Reads no file, no environment and no clock.

mod document;
mod environment;
mod plan;
mod raw;
mod read;
mod report;
mod resolve;
mod scalar;
mod secret;
mod settings;
mod url;
mod zero;

use toml::de::DeTable;

use read::Read;
use report::{Findings, Place};

pub use document::Document;
pub use environment::{EmptyEnvironment, Environment};
pub use plan::{Change, What, plan};
pub use report::{ConfigProblem, Report};
pub use secret::{InvalidSecret, Secret};
pub use settings::{
    Durability, Provider, ProviderKind, Queue, Retention, SHARES, Settings, SimulatorSettings, Timeouts,
    Timing,
};
pub use zero::{zero, zero_text};

/// The base URL of OpenAI.
pub const OPENAI_BASE_URL: &str = "https://api.openai.com/v1";

/// Reads a configuration. `file_name` is only for messages; `environment` is asked for the secrets that
/// the file gives as `env:NAME`.
pub fn load(text: &str, file_name: &str, environment: &dyn Environment) -> Result<Settings, Report> {
    // A byte order mark is no problem of its user's.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut findings = Findings::new(text, file_name);
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        findings.syntax(error.span().unwrap_or_default(), error.message());
    }
    let file = raw::File::from_table(root.get_ref(), &Place::root(), &mut findings);
    let settings = resolve::settings(&file, environment, &mut findings);
    Ok(Settings { warnings: findings.finish()?, ..settings })
}

/// The JSON Schema of `tollgate.toml`, for editors. It states keys, types and ranges; what only shows when
/// sections are compared, only [`load`] can tell.
pub fn schema() -> serde_json::Value {
    let mut schema = raw::File::schema();
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "Tollgate configuration".into();
    schema
}

#[cfg(test)]
mod tests;
