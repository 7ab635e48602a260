//! `tollgate config`: says what is wrong with a configuration before anything runs on it, and changes what of it may
//! change while everything runs.

pub(super) mod applied;
mod changes;
pub(super) mod kept;

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

/// Look at the configuration, and change what is in force
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
    /// Show what a file would change of the teams, budgets, models and prices in force
    Plan(applied::Of),
    /// Put a file's teams, budgets, models and prices in force, for all processes at once
    Apply(applied::ApplyArgs),
    /// Put an earlier version in force again
    Rollback(applied::RollbackArgs),
    /// List the versions that were applied
    History(applied::HistoryArgs),
    /// Print what is in force
    Show(applied::ShowArgs),
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
pub(crate) async fn run(args: ConfigArgs, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    match args.command {
        ConfigCommand::Check { file } => check(file.as_deref(), global, output),
        ConfigCommand::Plan(of) => applied::plan(of, global, output).await,
        ConfigCommand::Apply(args) => applied::apply(args, global, output).await,
        ConfigCommand::Rollback(args) => applied::rollback(args, global, output).await,
        ConfigCommand::History(args) => applied::history(args, global, output).await,
        ConfigCommand::Show(args) => applied::show(args, global, output).await,
        ConfigCommand::Schema => {
            output.json(&tollgate_config::schema());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn check(file: Option<&Path>, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    let file = meant(file, global)?;
    match load(&file) {
        Ok(settings) => {
            show(&file, &settings, output);
            Ok(ExitCode::SUCCESS)
        }
        Err(trouble) => refuse(&file, &trouble, output),
    }
}

/// The file that was named, or --config, or that of the current folder.
fn meant(file: Option<&Path>, global: &Global) -> Result<PathBuf, Failure> {
    file_meant(file.or(global.config.as_deref())).ok_or_else(|| {
        Failure::usage(
            "there is no tollgate.toml in this folder: name a file. Without one `tollgate up` runs on a built-in \
             simulator",
        )
    })
}

/// Says everything that is wrong with a file.
fn refuse(file: &Path, trouble: &Trouble, output: &Output) -> Result<ExitCode, Failure> {
    if output.json {
        output.json(&json!({"valid": false, "file": file, "problems": problems(trouble)}));
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
