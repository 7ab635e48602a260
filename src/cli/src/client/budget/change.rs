//! `budget set` and `budget raise`: the configuration in force with another limit, as a new version.

use std::process::ExitCode;

use clap::Args;
use tollgate_config::{Change, Document, What};
use tollgate_protocol::{NanoUsd, money};

use crate::args::Global;
use crate::client::config::{applied, file_meant, kept};
use crate::client::connect::{self, At};
use crate::failure::Failure;
use crate::output::Output;

/// How often it is tried again when others change something at the same time: this changes one value only.
const TRIES_MAX: u32 = 8;

#[derive(Clone, Debug, Args)]
pub(crate) struct SetArgs {
    /// The budget, as `budget list` names it
    name: String,
    /// What may be spent in a window
    #[arg(long, value_name = "AMOUNT", value_parser = money::parse_usd, allow_negative_numbers = true)]
    limit_usd: NanoUsd,
    /// Why, for those who read the history
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    #[command(flatten)]
    at: At,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RaiseArgs {
    /// The budget, as `budget list` names it
    name: String,
    /// How much more may be spent in a window
    #[arg(long, value_name = "AMOUNT", value_parser = money::parse_usd, allow_negative_numbers = true)]
    by_usd: NanoUsd,
    /// Why, for those who read the history
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    #[command(flatten)]
    at: At,
}

/// `budget set`.
pub(super) async fn set(args: SetArgs, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    let limit = args.limit_usd;
    change(&args.name, |_| limit, args.note.as_deref(), &args.at, global, output).await
}

/// `budget raise`.
pub(super) async fn raise(args: RaiseArgs, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    let more = args.by_usd;
    if more == NanoUsd(0) {
        return Err(Failure::usage("--by-usd: expected more than 0"));
    }
    change(&args.name, |limit| limit.plus(more), args.note.as_deref(), &args.at, global, output).await
}

async fn change(
    name: &str,
    next: impl Fn(NanoUsd) -> NanoUsd,
    note: Option<&str>,
    at: &At,
    global: &Global,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let bus = connect::bus(global, at).await?;
    for _ in 0..TRIES_MAX {
        let current = kept::current(&bus, output).await?;
        let version = current.version();
        let (from_file, document) = match current.document {
            Some(document) => (false, document),
            None => (true, of_file(global, at)?),
        };
        let Some(before) = document.limit(name) else {
            let known = document.budgets();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Failure::usage(format!("there is no budget {name:?}; there are: {known}")));
        };
        let limit = next(before);
        if limit == before {
            return applied::unchanged(version, output);
        }
        let what = What::Changed { key: "limit_usd", from: before.to_string(), to: limit.to_string() };
        let changes = [Change { kind: "budget", name: name.to_owned(), what }];
        let changed = document
            .with_limit(name, limit)
            .ok_or_else(|| Failure::failed(format!("the limit of {name} cannot be changed")))?;
        let text = changed.text();
        // By the rules for every version, as if it had been written by hand.
        let changed = Document::parse(&text, "the changed configuration")
            .map_err(|report| Failure::usage(report.to_string()))?;
        let Some(version) = kept::write(&bus, &changed, note, None, current.revision).await? else {
            continue;
        };
        if from_file && !output.json {
            output.note(
                "nothing was applied before: from now on the teams, budgets, models and prices of that file are in force \
                 as applied, and those in the files of processes are not",
            );
        }
        return applied::written(&bus, version, &changes, output).await;
    }
    Err(kept::overtaken())
}

/// What the file here says, where nothing is applied yet.
fn of_file(global: &Global, at: &At) -> Result<Document, Failure> {
    let file = file_meant(global.config.as_deref()).ok_or_else(|| {
        Failure::usage(
            "nothing is applied yet, and there is no tollgate.toml in this folder to begin with: name one with --config, \
             or apply one with `tollgate config apply FILE`",
        )
    })?;
    let text = std::fs::read_to_string(&file)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", file.display())))?;
    let document = Document::read(&text, &file.display().to_string())
        .map_err(|report| Failure::usage(report.to_string()))?;
    match Document::prefix_of(&text) {
        Some(prefix) if prefix != at.prefix => Err(Failure::usage(format!(
            "{} is for the installation {prefix:?} (subject_prefix), not for {:?}",
            file.display(),
            at.prefix
        ))),
        _ => Ok(document),
    }
}
