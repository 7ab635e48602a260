//! `config plan`, `apply`, `rollback`, `history` and `show`: what is in force, and putting something else in its place.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use tollgate_bus::Bus;
use tollgate_config::{Change, Document, plan as changes_between};
use tollgate_policy::hot::Hot;
use tollgate_protocol::Sequence;
use tollgate_protocol::applied::Applied;

use super::kept::{self, Current};
use super::{Trouble, changes, load, meant, refuse};
use crate::args::Global;
use crate::client::connect::{self, At};
use crate::failure::Failure;
use crate::output::{Output, Table};

/// Which installation a file is for.
#[derive(Clone, Debug, Args)]
pub(super) struct Of {
    /// The file; without it --config, and without that ./tollgate.toml
    file: Option<PathBuf>,
    /// The subject prefix of the installation; without it `subject_prefix` of the file
    #[arg(long, env = "TOLLGATE_PREFIX", value_name = "NAME", help_heading = "Connection")]
    prefix: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(super) struct ApplyArgs {
    #[command(flatten)]
    of: Of,
    /// Why, for those who read the history
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Apply only if this is the version in force, as `plan` showed it; 0 for none
    #[arg(long, value_name = "VERSION")]
    expect: Option<Sequence>,
}

#[derive(Clone, Debug, Args)]
pub(super) struct RollbackArgs {
    /// The version to apply again; without it the one before that in force
    #[arg(value_name = "VERSION")]
    number: Option<Sequence>,
    /// Why, for those who read the history
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    #[command(flatten)]
    at: At,
}

#[derive(Clone, Debug, Args)]
pub(super) struct ShowArgs {
    /// The version; without it the one in force
    #[arg(value_name = "VERSION")]
    number: Option<Sequence>,
    #[command(flatten)]
    at: At,
}

#[derive(Clone, Debug, Args)]
pub(super) struct HistoryArgs {
    #[command(flatten)]
    at: At,
}

/// A file that is right, and the connection to the installation that it is for.
struct Opened {
    document: Document,
    bus: Bus,
    current: Current,
    changes: Vec<Change>,
}

/// Reads the file as a whole before anything is connected to. `Err` with an exit code: what is wrong was said.
async fn open(of: Of, global: &Global, output: &Output) -> Result<Result<Opened, ExitCode>, Failure> {
    let file = meant(of.file.as_deref(), global)?;
    let read = std::fs::read_to_string(&file)
        .map_err(|error| Trouble::Unreadable(file.clone(), error))
        .and_then(|text| match Document::read(&text, &file.display().to_string()) {
            Ok(document) => Ok((document, Document::prefix_of(&text))),
            Err(report) => Err(Trouble::Wrong(report)),
        });
    let (document, of_file) = match read {
        Ok(read) => read,
        Err(trouble) => return refuse(&file, &trouble, output).map(Err),
    };
    // A key that only the processes have is no matter here.
    let warnings = load(&file).map(|settings| settings.warnings).unwrap_or_default();
    warnings.iter().for_each(|warning| output.note(format!("warning: {warning}")));
    let prefix = match (of.prefix.filter(|prefix| !prefix.is_empty()), of_file) {
        (Some(named), Some(of_file)) if named != of_file => {
            return Err(Failure::usage(format!(
                "{} is for the installation {of_file:?} (subject_prefix), not for {named:?}",
                file.display()
            )));
        }
        (Some(prefix), _) | (None, Some(prefix)) => prefix,
        (None, None) => "llm".to_owned(),
    };
    let bus = connect::bus(global, &At { prefix }).await?;
    let current = kept::current(&bus, output).await?;
    let changes = changes_from(&current, &document)?;
    Ok(Ok(Opened { document, bus, current, changes }))
}

fn changes_from(current: &Current, document: &Document) -> Result<Vec<Change>, Failure> {
    let before = current.document.as_ref().map(hot).transpose()?.unwrap_or_default();
    Ok(changes_between(&before, &hot(document)?))
}

fn hot(document: &Document) -> Result<Hot, Failure> {
    let settings = document.settings().map_err(|report| Failure::usage(report.to_string()))?;
    Ok(settings.hot(0))
}

/// What is in force, in words.
fn in_force(current: &Current) -> String {
    current
        .version()
        .map_or_else(|| "nothing is applied yet".to_owned(), |version| format!("version {version}"))
}

/// `config plan`.
pub(super) async fn plan(of: Of, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    let Opened { current, changes, .. } = match open(of, global, output).await? {
        Ok(opened) => opened,
        Err(code) => return Ok(code),
    };
    if output.json {
        output.json(&json!({"version": current.version(), "changes": changes::as_json(&changes)}));
    } else if changes.is_empty() && current.version().is_some() {
        output.line(format!("no change against {}", in_force(&current)));
        output.note(NOT_COMPARED);
    } else {
        output.note(format!("in force: {}. This would change:", in_force(&current)));
        changes::lines(&changes).iter().for_each(|line| output.line(line));
    }
    Ok(ExitCode::SUCCESS)
}

/// `config apply`.
pub(super) async fn apply(args: ApplyArgs, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    let opened = match open(args.of, global, output).await? {
        Ok(opened) => opened,
        Err(code) => return Ok(code),
    };
    let Opened { document, bus, current, changes } = opened;
    if args.expect.is_some_and(|expected| expected != current.version().unwrap_or(0)) {
        let expected = args.expect.unwrap_or_default();
        return Err(Failure::failed(format!(
            "nothing was applied: version {expected} was expected, and {} is in force",
            in_force(&current)
        )));
    }
    let write = Write { bus: &bus, document: &document, note: args.note.as_deref(), again: None };
    write.to(&current, &changes, output).await
}

/// `config rollback`.
pub(super) async fn rollback(
    args: RollbackArgs,
    global: &Global,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let bus = connect::bus(global, &args.at).await?;
    let current = kept::current(&bus, output).await?;
    let version = match args.number {
        Some(version) => version,
        None => before(&bus, current.revision).await?,
    };
    let kept = kept::version(&bus, Some(version)).await?;
    let read = kept.as_ref().map(kept::read).transpose().map_err(|reason| {
        Failure::usage(format!("version {version} cannot be applied by this version of tollgate: {reason}"))
    })?;
    let Some((_, document)) = read.flatten() else {
        return Err(kept::no_version(&bus, version).await?);
    };
    let changes = changes_from(&current, &document)?;
    let write = Write { bus: &bus, document: &document, note: args.note.as_deref(), again: Some(version) };
    write.to(&current, &changes, output).await
}

/// The version before this one that said something.
async fn before(bus: &Bus, revision: Sequence) -> Result<Sequence, Failure> {
    let versions = kept::versions(bus).await?;
    let earlier = versions.iter().filter(|version| version.revision < revision && version.value.is_some());
    earlier.map(|version| version.revision).max().ok_or_else(|| {
        Failure::usage("there is no earlier version: `tollgate config history` lists those that are kept")
    })
}

/// A version that is to be written.
struct Write<'a> {
    bus: &'a Bus,
    document: &'a Document,
    note: Option<&'a str>,
    again: Option<Sequence>,
}

impl Write<'_> {
    async fn to(&self, current: &Current, changes: &[Change], output: &Output) -> Result<ExitCode, Failure> {
        let version = match current.version() {
            Some(version) if changes.is_empty() => {
                if !output.json {
                    output.note(NOT_COMPARED);
                }
                return unchanged(Some(version), output);
            }
            _ => kept::write(self.bus, self.document, self.note, self.again, current.revision).await?,
        };
        written(self.bus, version.ok_or_else(kept::overtaken)?, changes, output).await
    }
}

/// What a version does not hold.
const NOT_COMPARED: &str = "kinds, addresses, keys and max_in_flight of providers, times and bounds are no part of a version: \
                            each process reads them from its file when it starts";

/// Says that what is in force is what was wanted.
pub(crate) fn unchanged(version: Option<Sequence>, output: &Output) -> Result<ExitCode, Failure> {
    if output.json {
        output.json(&json!({"version": version, "applied": false, "changes": []}));
    } else {
        output.line(match version {
            Some(version) => format!("no change: version {version} stays in force"),
            None => {
                "no change: nothing was applied, and the file of each process counts as before".to_owned()
            }
        });
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what a version that was just written changes, and who uses it. That somebody cannot is a failure, though it is
/// applied.
pub(crate) async fn written(
    bus: &Bus,
    version: Sequence,
    changes: &[Change],
    output: &Output,
) -> Result<ExitCode, Failure> {
    if !output.json {
        changes::lines(changes).iter().for_each(|line| output.line(line));
        output.line(format!("applied as version {version}"));
    }
    let found = kept::taken_up(bus, version).await;
    let is_used = found.iter().all(|process| kept::uses(process, version));
    if output.json {
        let changes = changes::as_json(changes);
        output.json(&json!({"version": version, "applied": true, "changes": changes, "in_use": found}));
    } else {
        kept::told(&found, version).iter().for_each(|line| output.note(line));
    }
    Ok(if is_used { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// `config history`.
pub(super) async fn history(
    args: HistoryArgs,
    global: &Global,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let bus = connect::bus(global, &args.at).await?;
    let mut table = Table::new(&[">version", "applied", "by", "note"]);
    let mut list = Vec::new();
    for version in kept::versions(&bus).await? {
        let value = version.value.as_deref();
        let applied = value.map(serde_json::from_slice::<Applied>).transpose().ok().flatten();
        let (by, note) = match (&version.value, applied) {
            (None, _) => (String::new(), "deleted: the files of the processes count".to_owned()),
            (Some(_), None) => (String::new(), "not readable".to_owned()),
            (Some(_), Some(applied)) => {
                let again = applied.again.map(|again| format!("version {again} again"));
                let note = again.into_iter().chain(applied.note).collect::<Vec<_>>().join(": ");
                (applied.by, note)
            }
        };
        let at = version.stored_at.to_rfc3339();
        list.push(json!({"version": version.revision, "applied_at": at, "by": by, "note": note}));
        table.row([version.revision.to_string(), at, by, note]);
    }
    if output.json {
        output.json(&json!({"versions": list}));
    } else if list.is_empty() {
        output.note("nothing was applied yet: the file of each process counts");
    } else {
        output.table(&table);
    }
    Ok(ExitCode::SUCCESS)
}

/// `config show`.
pub(super) async fn show(args: ShowArgs, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    let bus = connect::bus(global, &args.at).await?;
    let kept = kept::version(&bus, args.number).await?;
    let value = kept.as_ref().and_then(|kept| kept.value.as_deref());
    let Some((kept, value)) = kept.as_ref().zip(value) else {
        return Err(match args.number {
            Some(version) => kept::no_version(&bus, version).await?,
            None => Failure::usage("nothing is applied: the file of each process counts"),
        });
    };
    let applied: Applied = serde_json::from_slice(value)
        .map_err(|error| Failure::failed(format!("version {} cannot be read: {error}", kept.revision)))?;
    if output.json {
        let at = kept.stored_at.to_rfc3339();
        output.json(&json!({
            "version": kept.revision, "applied_at": at, "by": applied.by, "note": applied.note, "toml": applied.toml,
        }));
    } else {
        output.note(format!(
            "version {}, applied {} by {}",
            kept.revision,
            kept.stored_at.to_rfc3339(),
            applied.by
        ));
        output.line(applied.toml.trim_end());
    }
    Ok(ExitCode::SUCCESS)
}
