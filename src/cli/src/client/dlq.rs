//! `tollgate dlq`: dead letters, by what they died of; and sending them again.

mod letters;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use tollgate_bus::Bus;
use tollgate_bus::retry::Patience;
use tollgate_protocol::Identity;
use tollgate_protocol::header::{self, Headers};

use super::connect::{self, At, publish_failure};
use super::duration;
use crate::args::Global;
use crate::failure::Failure;
use crate::output::{Output, Table};
use letters::{Letter, Which, read};

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Look at dead letters, send them again, remove them
#[derive(Clone, Debug, Args)]
pub(crate) struct DlqArgs {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What can be done with dead letters.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// By error code, provider and message
    List {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        at: At,
    },
    /// One dead letter with its whole history
    Show {
        /// TEAM.GROUP.ID
        id: String,
        #[command(flatten)]
        at: At,
    },
    /// Send them again, as new requests, and remove those that were accepted
    Replay {
        #[command(flatten)]
        which: Which,
        /// First so many; the others only if all of these succeed
        #[arg(long, value_name = "N")]
        canary: Option<NonZeroUsize>,
        /// How long to wait for the canaries, all of them together
        #[arg(long, value_parser = duration::parse, default_value = "60s")]
        wait: Duration,
        #[command(flatten)]
        at: At,
    },
    /// Remove them for good
    Purge {
        #[command(flatten)]
        which: Which,
        /// All that match, without asking
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        at: At,
    },
}

/// Runs the command.
pub(crate) async fn run(args: DlqArgs, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    match args.command {
        Command::List { which, at } => list(&connect::bus(global, &at).await?, &which, output).await,
        Command::Show { id, at } => show(&connect::bus(global, &at).await?, &id, output).await,
        Command::Replay { which, canary, wait, at } => {
            replay(&connect::bus(global, &at).await?, &which, canary, wait, output).await
        }
        Command::Purge { which, yes, at } => {
            purge(&connect::bus(global, &at).await?, &which, yes, output).await
        }
    }
}

async fn list(bus: &Bus, which: &Which, output: &Output) -> Result<ExitCode, Failure> {
    let letters = read(bus, which).await?;
    let mut clusters: BTreeMap<(String, String, String), Vec<&Letter>> = BTreeMap::new();
    for letter in &letters {
        clusters.entry(letter.cluster()).or_default().push(letter);
    }
    let mut clusters: Vec<_> = clusters.into_iter().collect();
    clusters.sort_by_key(|(_, letters)| std::cmp::Reverse(letters.len()));
    if output.json {
        let clusters: Vec<_> = clusters
            .iter()
            .map(|((code, provider, message), letters)| {
                json!({
                    "code": code,
                    "provider": provider,
                    "message": message,
                    "count": letters.len(),
                    "reason": letters.first().map(|letter| letter.reason.as_str()),
                    "example": letters.first().map(|letter| letter.identity.to_string()),
                })
            })
            .collect();
        output.json(&json!({"letters": letters.len(), "clusters": clusters}));
        return Ok(ExitCode::SUCCESS);
    }
    if letters.is_empty() {
        output.line(match read(bus, &Which::default()).await?.len() {
            0 => "There are no dead letters.".to_owned(),
            1 => "The one dead letter that there is does not match.".to_owned(),
            others => format!("None of the {others} dead letters matches."),
        });
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&[">count", "code", "provider", "why", "message", "example"]);
    for ((code, provider, message), letters) in &clusters {
        let Some(first) = letters.first() else { continue };
        table.row([
            &letters.len().to_string(),
            code,
            provider,
            &first.reason,
            message,
            &first.identity.to_string(),
        ]);
    }
    output.table(&table);
    output.note("`tollgate dlq show EXAMPLE` has one with its history; `tollgate dlq replay --canary 5` sends them again");
    Ok(ExitCode::SUCCESS)
}

async fn show(bus: &Bus, id: &str, output: &Output) -> Result<ExitCode, Failure> {
    let Some(identity) = Identity::from_tokens(id) else {
        return Err(Failure::usage(format!("{id:?} is not TEAM.GROUP.ID")));
    };
    let which = Which { identity: Some(identity), ..Which::default() };
    let letters = read(bus, &which).await?;
    let Some(letter) = letters.first() else {
        return Err(Failure::failed(format!("there is no dead letter of {id}")));
    };
    if output.json {
        output.json(&letter.to_json());
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["", ""]);
    table.row(["request", &letter.identity.to_string()]);
    table.row(["why", &letter.reason]);
    table.row(["error", &format!("{}: {}", letter.code, letter.message)]);
    table.row(["since", &letter.stored_at.to_rfc3339()]);
    table.row(["asked for", &letter.job.requested_model]);
    table.row(["body", &format!("{} bytes", letter.job.body_bytes())]);
    output.table(&table);
    output.line("");
    output.table(&super::show::attempts_table(&letter.job.history));
    Ok(ExitCode::SUCCESS)
}

async fn replay(
    bus: &Bus,
    which: &Which,
    canary: Option<NonZeroUsize>,
    wait: Duration,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let letters = read(bus, which).await?;
    let canaries = canary.map_or(0, NonZeroUsize::get).min(letters.len());
    let (first, others) = letters.split_at(canaries);
    let mut sent = Vec::new();
    for letter in first {
        sent.push((letter, letter.send_again(bus).await?));
    }
    if canaries > 0 {
        output.note(format!("{canaries} canaries are sent; waiting up to {wait:?} for their answers"));
    }
    let end = tokio::time::Instant::now() + wait;
    let mut bad = 0;
    for (_, identity) in &sent {
        let status = tokio::time::timeout_at(end, status_of(bus, identity)).await;
        let status = status.unwrap_or_else(|_| Ok("not answered in time".to_owned()))?;
        if status != "succeeded" {
            bad += 1;
            output.note(format!("canary {identity}: {status}"));
        }
    }
    let stopped = bad > 0;
    if !stopped {
        for letter in others {
            sent.push((letter, letter.send_again(bus).await?));
        }
    }
    if output.json {
        let sent: Vec<_> = sent
            .iter()
            .map(|(letter, identity)| {
                json!({"letter": letter.identity.to_string(), "request": identity.to_string()})
            })
            .collect();
        output.json(&json!({"sent": sent, "failed_canaries": bad, "left": letters.len() - sent.len()}));
    } else {
        let mut table = Table::new(&["dead letter", "sent again as"]);
        for (letter, identity) in &sent {
            table.row([letter.identity.to_string(), identity.to_string()]);
        }
        output.table(&table);
        if stopped {
            output.note(format!("{bad} canaries did not succeed: the other {} are left", others.len()));
        }
    }
    Ok(if stopped { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn status_of(bus: &Bus, identity: &Identity) -> Result<String, Failure> {
    loop {
        let stored = bus.stored_response(identity).await.map_err(|error| publish_failure(&error))?;
        if let Some(stored) = stored {
            let view = tollgate_bus::HeaderView(Some(&stored.headers));
            return Ok(view.get(header::STATUS).unwrap_or("unreadable").to_owned());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn purge(bus: &Bus, which: &Which, yes: bool, output: &Output) -> Result<ExitCode, Failure> {
    let letters = read(bus, which).await?;
    if !yes {
        return Err(Failure::usage(format!(
            "this removes {} dead letters for good: say --yes if that is meant",
            letters.len()
        )));
    }
    for letter in &letters {
        letter.remove(bus).await?;
    }
    if output.json {
        output.json(&json!({"removed": letters.len()}));
    } else {
        output.line(format!("{} dead letters are removed", letters.len()));
    }
    Ok(ExitCode::SUCCESS)
}

/// A dead letter is sent with no more patience than any other request.
const PATIENCE: Patience = Patience(Duration::from_secs(60));
