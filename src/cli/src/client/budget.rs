//! `tollgate budget`: what may be spent, and what is.

mod change;

use std::process::ExitCode;
use std::time::Duration;

use async_nats::{Request, RequestErrorKind};
use clap::{Args, Subcommand};
use tollgate_protocol::NanoUsd;
use tollgate_protocol::budget::{BudgetList, BudgetState};

use super::connect::{self, At};
use crate::args::Global;
use crate::failure::Failure;
use crate::output::{Output, Table};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How wide a bar is.
const BAR: usize = 20;

/// Show what may be spent and what is, and change it
#[derive(Clone, Debug, Args)]
pub(crate) struct BudgetArgs {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What can be done about budgets.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Every budget, in its window of now
    List {
        #[command(flatten)]
        at: At,
    },
    /// Set the limit of a budget, at once
    Set(change::SetArgs),
    /// Raise the limit of a budget, at once
    Raise(change::RaiseArgs),
}

/// Runs the command.
pub(crate) async fn run(args: BudgetArgs, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    match args.command {
        Command::List { at } => list(&at, global, output).await,
        Command::Set(args) => change::set(args, global, output).await,
        Command::Raise(args) => change::raise(args, global, output).await,
    }
}

async fn list(at: &At, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    let bus = connect::bus(global, at).await?;
    let subject = bus.subjects().control("budget", "list");
    let request = Request::new().timeout(Some(ANSWER_TIMEOUT));
    let reply = bus.client().send_request(subject, request).await.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => {
            Failure::unreachable("no ledger answers: is `tollgate run ledger` or `tollgate up` running?")
        }
        _ => Failure::unreachable(format!("the ledger did not answer: {error}")),
    })?;
    let list: BudgetList = serde_json::from_slice(&reply.payload)
        .map_err(|error| Failure::failed(format!("the ledger's answer cannot be read: {error}")))?;
    if output.json {
        output.json(&serde_json::to_value(&list).unwrap_or_default());
        return Ok(ExitCode::SUCCESS);
    }
    if list.budgets.is_empty() {
        output.note("no budget is configured");
        return Ok(ExitCode::SUCCESS);
    }
    output.table(&table(&list.budgets));
    Ok(ExitCode::SUCCESS)
}

fn table(budgets: &[BudgetState]) -> Table {
    let mut table = Table::new(&["budget", "window", ">limit", ">spent", ">reserved", "", "when spent"]);
    for budget in budgets {
        table.row([
            budget.name.clone(),
            budget.window.clone(),
            NanoUsd(budget.limit_nano_usd).to_string(),
            NanoUsd(budget.spent_nano_usd).to_string(),
            NanoUsd(budget.reserved_nano_usd).to_string(),
            bar(budget.spent_nano_usd, budget.limit_nano_usd),
            if budget.is_open { budget.when_spent.clone() } else { "not open yet".to_owned() },
        ]);
    }
    table
}

/// How much of it is spent.
fn bar(spent: i64, limit: i64) -> String {
    let part = match i128::from(limit) {
        0 => 100,
        limit => (i128::from(spent.max(0)) * 100 / limit).min(999),
    };
    let full = usize::try_from(part).unwrap_or(0).min(100) * BAR / 100;
    format!("{}{} {part:>3} %", "█".repeat(full), "░".repeat(BAR - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_is_shown_beside_what_may_be() {
        let state = |name: &str, spent, is_open| BudgetState {
            name: name.into(),
            window: "20261101T000000Z".into(),
            limit_nano_usd: 100_000_000_000,
            spent_nano_usd: spent,
            reserved_nano_usd: 1_500_000,
            when_spent: "hold".into(),
            reserve: "estimate".into(),
            is_open,
        };
        let budgets = [state("research", 42_123_000_000, true), state("all", 100_000_000_000, false)];
        insta::assert_snapshot!(table(&budgets).render(false, false), @"
        budget    window              limit    spent  reserved                              when spent
        research  20261101T000000Z  $100.00  $42.123   $0.0015  ████████░░░░░░░░░░░░  42 %  hold
        all       20261101T000000Z  $100.00  $100.00   $0.0015  ████████████████████ 100 %  not open yet
        ");
        assert_eq!(bar(1, 0), "████████████████████ 100 %");
        assert_eq!(bar(-5, 10), "░░░░░░░░░░░░░░░░░░░░   0 %");
    }
}
