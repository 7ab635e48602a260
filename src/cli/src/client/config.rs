//! `tollgate config`: says what is wrong with a configuration before anything runs on it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tollgate_config::{Report, Settings};

use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;

/// The file that is looked for in the current folder.
const DEFAULT_FILE: &str = "tollgate.toml";

/// Look at the configuration
#[derive(Clone, Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum ConfigCommand {
    /// Check a configuration as a whole and name everything that is wrong with it
    Check {
        /// The file; without it --config, and without that ./tollgate.toml
        file: Option<PathBuf>,
    },
    /// Print the JSON Schema of tollgate.toml, for editors
    Schema,
}

/// Why there are no settings.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The file cannot be read.
    Unreadable(PathBuf, std::io::Error),
    /// It is wrong.
    Wrong(Report),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreadable(path, error) => write!(f, "cannot read {}: {error}", path.display()),
            Self::Wrong(report) => write!(f, "{report}"),
        }
    }
}

/// The file that is meant, if any is: the one named, or that of the current folder if there is one.
pub(super) fn file_meant(named: Option<&Path>) -> Option<PathBuf> {
    match named {
        Some(file) => Some(file.to_owned()),
        None => Path::new(DEFAULT_FILE).is_file().then(|| DEFAULT_FILE.into()),
    }
}

/// Reads a configuration with the secrets of this process's environment.
#[expect(clippy::disallowed_methods, reason = "the shell is where the environment comes in")]
pub(super) fn load(file: &Path) -> Result<Settings, Trouble> {
    let text = std::fs::read_to_string(file).map_err(|error| Trouble::Unreadable(file.to_owned(), error))?;
    let environment = |name: &str| std::env::var(name).ok();
    tollgate_config::load(&text, &file.display().to_string(), &environment).map_err(Trouble::Wrong)
}

/// Runs the command.
pub(crate) fn run(args: &ConfigArgs, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    let file = match &args.command {
        ConfigCommand::Check { file } => file,
        ConfigCommand::Schema => {
            output.json(&tollgate_config::schema());
            return Ok(ExitCode::SUCCESS);
        }
    };
    let Some(file) = file_meant(file.as_deref().or(global.config.as_deref())) else {
        return Err(Failure::usage(
            "there is no tollgate.toml in this folder: name a file. Without one `tollgate up` runs on a built-in \
             simulator",
        ));
    };
    let trouble = match load(&file) {
        Ok(settings) => {
            show(&file, &settings, output);
            return Ok(ExitCode::SUCCESS);
        }
        Err(trouble) => trouble,
    };
    if output.json {
        output.json(&json!({"valid": false, "file": file, "problems": problems(&trouble)}));
        return Ok(ExitCode::from(2));
    }
    Err(Failure::usage(trouble.to_string()))
}

fn problems(trouble: &Trouble) -> Vec<Value> {
    match trouble {
        Trouble::Unreadable(..) => vec![json!({"message": trouble.to_string()})],
        Trouble::Wrong(report) => report
            .problems
            .iter()
            .map(|problem| {
                json!({"line": problem.line, "column": problem.column, "path": problem.path, "message": problem.message})
            })
            .collect(),
    }
}

fn show(file: &Path, settings: &Settings, output: &Output) {
    if output.json {
        output.json(&json!({
            "valid": true, "file": file, "warnings": settings.warnings,
            "providers": settings.providers.keys().collect::<Vec<_>>(),
            "teams": settings.teams.len(),
        }));
        return;
    }
    output.line(format!(
        "{} is valid: {} providers, {} teams",
        file.display(),
        settings.providers.len(),
        settings.teams.len()
    ));
    for warning in &settings.warnings {
        output.line(format!("warning: {warning}"));
    }
}
