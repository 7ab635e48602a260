//! The commands that talk to a running broker.
//!
//! Nothing here decides anything about a request: a client publishes, reads what is stored, and shows it.
//! Each command is a file; `batch` has the pure parts of the batch commands.

mod ask;
mod batch;
mod budget;
mod cancel;
mod collect;
mod completions;
mod config;
mod connect;
mod dlq;
mod doctor;
mod duration;
#[cfg(test)]
mod end_to_end;
mod files;
mod gather;
mod outage;
mod plan;
mod provider;
mod reconcile;
mod results;
mod send;
mod show;
mod status;
mod stored;
mod submit;
mod summary;
mod usage;
mod wait;
mod waits;
mod watch;
mod whereabouts;

pub(crate) use outage::{OutageArgs, run as outage};

use std::process::ExitCode;

use clap::Subcommand;

use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;

/// The exit code after Ctrl-C, as shells have it: 128 + SIGINT.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// What a client can do.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    Submit(Box<submit::SubmitArgs>),
    Collect(collect::CollectArgs),
    Wait(wait::WaitArgs),
    Ask(Box<ask::AskArgs>),
    Show(show::ShowArgs),
    Watch(watch::WatchArgs),
    Cancel(cancel::CancelArgs),
    Dlq(dlq::DlqArgs),
    Provider(provider::ProviderArgs),
    Usage(usage::UsageArgs),
    Budget(budget::BudgetArgs),
    Reconcile(reconcile::ReconcileArgs),
    Status(status::StatusArgs),
    Doctor(doctor::DoctorArgs),
    Config(config::ConfigArgs),
    Completions(completions::CompletionsArgs),
}

/// Runs a command. What it could not do is the caller's to print.
pub(crate) async fn run(command: Command, global: &Global) -> Result<ExitCode, Failure> {
    let output = Output::new(global.json);
    match command {
        Command::Submit(args) => Box::pin(submit::run(*args, global, &output)).await,
        Command::Collect(args) => Box::pin(collect::run(args, global, &output)).await,
        Command::Wait(args) => Box::pin(wait::run(args, global, &output)).await,
        Command::Ask(args) => Box::pin(ask::run(*args, global, &output)).await,
        Command::Show(args) => Box::pin(show::run(args, global, &output)).await,
        Command::Watch(args) => Box::pin(watch::run(args, global, &output)).await,
        Command::Cancel(args) => Box::pin(cancel::run(args, global, &output)).await,
        Command::Dlq(args) => Box::pin(dlq::run(args, global, &output)).await,
        Command::Provider(args) => Box::pin(provider::run(args, global, &output)).await,
        Command::Usage(args) => Box::pin(usage::run(args, global, &output)).await,
        Command::Budget(args) => Box::pin(budget::run(args, global, &output)).await,
        Command::Reconcile(args) => Box::pin(reconcile::run(args, global, &output)).await,
        Command::Status(args) => Box::pin(status::run(args, global, &output)).await,
        Command::Doctor(args) => Box::pin(doctor::run(args, global, &output)).await,
        Command::Config(args) => Box::pin(config::run(args, global, &output)).await,
        Command::Completions(args) => Ok(completions::run(args, &output)),
    }
}
