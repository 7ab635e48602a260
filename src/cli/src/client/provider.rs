//! `tollgate provider`: which providers are up, and having them rest.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;
use tollgate_bus::Bus;
use tollgate_health::Health;
use tollgate_policy::health::{Availability, Breaker, Why};
use tollgate_protocol::Timestamp;

use super::connect::{self, At};
use crate::args::Global;
use crate::failure::Failure;
use crate::output::{Output, Table};

/// Show which providers are up, and pause or resume one
#[derive(Clone, Debug, Args)]
pub(crate) struct ProviderArgs {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What can be done about providers.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// What is known of each provider and model; one that never failed is not listed
    List {
        #[command(flatten)]
        at: At,
    },
    /// Call it no more: its requests wait, or go to other targets of theirs
    Pause {
        /// Its name in the configuration
        name: String,
        #[command(flatten)]
        at: At,
    },
    /// Call it again
    Resume {
        /// Its name in the configuration
        name: String,
        #[command(flatten)]
        at: At,
    },
}

/// Runs the command.
pub(crate) async fn run(args: ProviderArgs, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    match args.command {
        Command::List { at } => list(&at, global, output).await,
        Command::Pause { name, at } => set_paused(&name, true, &at, global, output).await,
        Command::Resume { name, at } => set_paused(&name, false, &at, global, output).await,
    }
}

async fn health(bus: &Bus) -> Result<Health, Failure> {
    let health = Health::new(bus);
    health.load().await.map_err(|reason| {
        Failure::failed(format!(
            "the health of the providers cannot be read: {reason}. Did a broker ever run here?"
        ))
    })?;
    Ok(health)
}

async fn set_paused(
    name: &str,
    is_paused: bool,
    at: &At,
    global: &Global,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let is_name = (1..=32).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if !is_name {
        return Err(Failure::usage(format!("{name:?} is no provider's name")));
    }
    let bus = connect::bus(global, at).await?;
    let health = health(&bus).await?;
    // A name that is only misspelt must not look as if its provider were called no more, or again.
    let is_known = bus.jetstream().get_stream(bus.subjects().dispatch_stream(name)).await.is_ok();
    // One that was taken out of the configuration while it was paused would otherwise stay so for good.
    let was_paused =
        || health.all().0.iter().any(|(known, health)| known == name && health.paused_since.is_some());
    if !is_known && (is_paused || !was_paused()) {
        return Err(Failure::failed(format!("the broker has no provider {name:?}, or does not answer")));
    }
    if !health.set_paused(name, is_paused, tollgate_bus::now()).await {
        return Err(Failure::failed("the bucket of the providers' health does not take the change"));
    }
    if output.json {
        output.json(&json!({"provider": name, "paused": is_paused}));
    } else if is_paused {
        output.line(format!("{name} is paused: its requests wait until `tollgate provider resume {name}`"));
    } else {
        output.line(format!("{name} is called again"));
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(at: &At, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    let health = health(&connect::bus(global, at).await?).await?;
    let (providers, targets) = health.all();
    if output.json {
        let providers: Vec<_> = providers
            .iter()
            .map(|(name, known)| {
                json!({
                    "provider": name,
                    "paused_since": known.paused_since,
                    "throttled_until": known.throttled_until,
                })
            })
            .collect();
        output.json(&json!({"providers": providers, "targets": targets}));
        return Ok(ExitCode::SUCCESS);
    }
    let now = tollgate_bus::now();
    let mut table = Table::new(&["provider", "model", "state", "why", "since", "until"]);
    for (name, _) in &providers {
        if let Availability::Down { why: why @ (Why::Paused | Why::Throttled), until } =
            health.availability(name, "", now)
        {
            table.row([name.as_str(), "*", "down", &why_text(why), "", &shown(until)]);
        }
    }
    for target in &targets {
        let (state, until) = match target.breaker {
            Breaker::Closed => ("up".to_owned(), None),
            Breaker::Open { until, .. } => ("down".to_owned(), Some(until)),
            Breaker::HalfOpen { allowed, succeeded, .. } => {
                (format!("coming back, {succeeded} of {allowed} answered"), None)
            }
        };
        let why = target.code.filter(|_| target.breaker != Breaker::Closed);
        table.row([
            target.provider.as_str(),
            &target.model,
            &state,
            &why_text(Why::Broken(why)),
            &target.since.to_rfc3339(),
            &shown(until),
        ]);
    }
    if table.rows.is_empty() {
        output.line("Nothing has failed so far: every provider is taken to be up.");
    } else {
        output.table(&table);
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(until: Option<Timestamp>) -> String {
    until.map_or_else(String::new, |until| until.to_rfc3339())
}

pub(crate) fn why_text(why: Why) -> String {
    match why {
        Why::Paused => "paused by an operator".to_owned(),
        Why::Throttled => "it asked for a pause".to_owned(),
        Why::Broken(code) => code.map_or_else(String::new, |code| code.to_string()),
    }
}
