//! The configuration: one `tollgate.toml`, checked as a whole, valid by construction after that.
//!
//! Two stages. `raw` says what a file may say and reads it with the place of every value; `resolve` makes
//! [`Settings`] of it, which is what the program uses. Both go on after a problem, so that a [`Report`]
//! names everything that is wrong at once. Reads no file, no environment and no clock.

mod environment;
mod report;
mod secret;
mod settings;
mod zero;

pub use environment::{EmptyEnvironment, Environment};
pub use report::{ConfigProblem, Report};
pub use secret::{InvalidSecret, Secret};
pub use settings::{
    Durability, Provider, ProviderKind, Queue, Retention, SHARES, Settings, SimulatorSettings, Timeouts,
    Timing,
};
pub use zero::zero;

/// The base URL of OpenAI.
pub const OPENAI_BASE_URL: &str = "https://api.openai.com/v1";

/// Reads a configuration. `file_name` is only for messages; `environment` is asked for the secrets that
/// the file gives as `env:NAME`.
pub fn load(text: &str, file_name: &str, environment: &dyn Environment) -> Result<Settings, Report> {
    let _ = (text, environment);
    Err(report::Findings::new("", file_name)
        .finish()
        .err()
        .unwrap_or(Report { file_name: file_name.into(), problems: Vec::new() }))
}
