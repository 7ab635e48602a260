//! `tollgate budget`: what may be spent, and what is.

mod change;

use std::process::ExitCode;
use std::time::Duration;

use async_nats::{Request, RequestErrorKind};
use chrono::SecondsFormat;
use clap::{Args, Subcommand};
use tollgate_bus::Bus;
use tollgate_policy::budget::WhenSpent;
use tollgate_protocol::budget::{BudgetList, BudgetQuestion, BudgetState, Unit};
use tollgate_protocol::{NanoUsd, Timestamp};

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
    /// Every budget, and every limit of tokens and requests in flight, in its window of now
    List {
        #[command(flatten)]
        at: At,
    },
    /// One of them: what it is for, what is spent, and what was told
    Show {
        #[command(flatten)]
        at: At,
        /// Its name
        name: String,
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
        Command::Show { at, name } => show(&at, name, global, output).await,
        Command::Set(args) => change::set(args, global, output).await,
        Command::Raise(args) => change::raise(args, global, output).await,
    }
}

async fn list(at: &At, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    let bus = connect::bus(global, at).await?;
    let list = ask(&bus, BudgetQuestion::default()).await?;
    if output.json {
        output.json(&serde_json::to_value(&list).unwrap_or_default());
        return Ok(ExitCode::SUCCESS);
    }
    if list.budgets.is_empty() {
        output.note("no budget is configured");
    } else {
        output.table(&table(&list.budgets));
    }
    if !list.limits.is_empty() {
        output.line(String::new());
        output.table(&limits(&list.limits));
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(at: &At, name: String, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    let bus = connect::bus(global, at).await?;
    let list = ask(&bus, BudgetQuestion { name: Some(name.clone()) }).await?;
    let mut all = list.budgets.into_iter().chain(list.limits);
    let Some(budget) = all.find(|budget| budget.name == name) else {
        return Err(Failure::usage(format!(
            "no budget and no limit that is counted has the name {name}; `tollgate budget list` shows all (of requests per \
             minute nothing is kept)"
        )));
    };
    if output.json {
        output.json(&serde_json::to_value(&budget).unwrap_or_default());
    } else {
        output.line(details(&budget));
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the ledger about its budgets.
pub(super) async fn ask(bus: &Bus, question: BudgetQuestion) -> Result<BudgetList, Failure> {
    let subject = bus.subjects().control("budget", "list");
    let payload = serde_json::to_vec(&question).unwrap_or_default();
    let request = Request::new().payload(payload.into()).timeout(Some(ANSWER_TIMEOUT));
    let reply = bus.client().send_request(subject, request).await.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => {
            Failure::unreachable("no ledger answers: is `tollgate run ledger` or `tollgate up` running?")
        }
        _ => Failure::unreachable(format!("the ledger did not answer: {error}")),
    })?;
    serde_json::from_slice(&reply.payload)
        .map_err(|error| Failure::failed(format!("the ledger's answer cannot be read: {error}")))
}

/// One budget, line by line.
fn details(budget: &BudgetState) -> String {
    let scope: Vec<_> = budget.scope.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    let scope = if scope.is_empty() { "everything".to_owned() } else { scope.join(", ") };
    let time = |time: Option<Timestamp>| time.map(|time| time.to_rfc3339_opts(SecondsFormat::Secs, true));
    let window = match (time(budget.window_begins), time(budget.window_ends)) {
        (Some(begins), Some(ends)) => {
            format!("{}, from {begins} to {ends} ({})", budget.per, budget.timezone)
        }
        _ => budget.per.clone(),
    };
    let (limit, spent, reserved) = (budget.limit_nano_usd, budget.spent_nano_usd, budget.reserved_nano_usd);
    let left = limit.saturating_sub(spent).saturating_sub(reserved).max(0);
    let percents = |percents: &[u32]| match percents {
        [] => "nothing".to_owned(),
        some => some.iter().map(|percent| format!("{percent} %")).collect::<Vec<_>>().join(", "),
    };
    let told = percents(budget.told_percent.as_deref().unwrap_or_default());
    let amount = |nano_usd: i64| amount(budget.unit, nano_usd);
    let is_money = budget.unit == Unit::NanoUsd;
    let mut lines = vec![
        (if is_money { "budget" } else { "name" }, budget.name.clone()),
        ("for", scope),
        ("window", window),
        ("limit", amount(limit)),
    ];
    if budget.unit == Unit::InFlight {
        let taken = spent.saturating_add(reserved);
        lines.push(("in flight", format!("{taken}  {}", bar(taken, limit))));
    } else {
        lines.push((
            if is_money { "spent" } else { "used" },
            format!("{}  {}", amount(spent), bar(spent, limit)),
        ));
        lines.push(("reserved", amount(reserved)));
    }
    lines.push(("left", amount(left)));
    if is_money {
        lines.extend([
            ("when spent", budget.when_spent.clone()),
            ("reserves", budget.reserve.clone()),
            ("told at", format!("{}; told in this window: {told}", percents(&budget.alert_percent))),
        ]);
    } else {
        lines.push(("when full", when_full(budget).to_owned()));
    }
    lines.push(("open", if budget.is_open { "yes" } else { "not yet: requests wait" }.to_owned()));
    let lines: Vec<_> = lines.into_iter().map(|(name, value)| format!("{name:<11} {value}")).collect();
    lines.join("\n")
}

/// An amount of what a counter counts.
pub(super) fn amount(unit: Unit, amount: i64) -> String {
    match unit {
        Unit::NanoUsd => NanoUsd(amount).to_string(),
        Unit::Tokens => format!("{amount} tokens"),
        Unit::InFlight => format!("{amount} in flight"),
    }
}

/// What follows when nothing is left of a limit, in the words of a limit.
fn when_full(limit: &BudgetState) -> &'static str {
    if limit.when_spent == WhenSpent::Reject.as_str() { "reject" } else { "wait" }
}

/// Limits with what is taken of them: tokens that were used or are reserved, requests that are under way.
fn limits(limits: &[BudgetState]) -> Table {
    let mut table = Table::new(&["limit", "window", ">at most", ">used", ">reserved", "", "when full"]);
    for limit in limits {
        let taken = limit.spent_nano_usd.saturating_add(limit.reserved_nano_usd);
        // What is in flight is not used up.
        let (used, reserved) = match limit.unit {
            Unit::InFlight => (taken, String::new()),
            _ => (limit.spent_nano_usd, limit.reserved_nano_usd.to_string()),
        };
        table.row([
            limit.name.clone(),
            limit.window.clone(),
            amount(limit.unit, limit.limit_nano_usd),
            used.to_string(),
            reserved,
            bar(used, limit.limit_nano_usd),
            if limit.is_open { when_full(limit) } else { "not open yet" }.to_owned(),
        ]);
    }
    table
}

/// Budgets with what is spent of them.
pub(super) fn table(budgets: &[BudgetState]) -> Table {
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
            ..BudgetState::default()
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

    #[test]
    fn limits_are_shown_with_what_is_taken_of_them() {
        let state = |name: &str, unit, limit, spent, reserved, when_spent: WhenSpent| BudgetState {
            name: name.into(),
            window: if unit == Unit::Tokens { "20261101T000000Z" } else { "total" }.into(),
            unit,
            limit_nano_usd: limit,
            spent_nano_usd: spent,
            reserved_nano_usd: reserved,
            when_spent: when_spent.as_str().into(),
            is_open: true,
            ..BudgetState::default()
        };
        let two = [
            state("research-tokens", Unit::Tokens, 200_000, 40_000, 10_000, WhenSpent::Hold),
            state("research-in-flight", Unit::InFlight, 50, 0, 50, WhenSpent::Reject),
        ];
        insta::assert_snapshot!(limits(&two).render(false, false), @"
        limit               window                  at most   used  reserved                              when full
        research-tokens     20261101T000000Z  200000 tokens  40000     10000  ████░░░░░░░░░░░░░░░░  20 %  wait
        research-in-flight  total              50 in flight     50            ████████████████████ 100 %  reject
        ");
    }

    #[test]
    fn one_budget_is_shown_line_by_line() {
        let state = BudgetState {
            name: "research".into(),
            window: "20261101T000000Z".into(),
            limit_nano_usd: 100_000_000_000,
            spent_nano_usd: 81_200_000_000,
            reserved_nano_usd: 800_000_000,
            when_spent: "hold".into(),
            reserve: "estimate".into(),
            is_open: true,
            scope: [("team".to_owned(), "research".to_owned())].into(),
            per: "month".into(),
            timezone: "UTC".into(),
            window_begins: "2026-11-01T00:00:00Z".parse().ok(),
            window_ends: "2026-12-01T00:00:00Z".parse().ok(),
            alert_percent: vec![50, 80, 100],
            told_percent: Some(vec![50, 80]),
            ..BudgetState::default()
        };
        insta::assert_snapshot!(details(&state), @r"
        budget      research
        for         team = research
        window      month, from 2026-11-01T00:00:00Z to 2026-12-01T00:00:00Z (UTC)
        limit       $100.00
        spent       $81.20  ████████████████░░░░  81 %
        reserved    $0.80
        left        $18.00
        when spent  hold
        reserves    estimate
        told at     50 %, 80 %, 100 %; told in this window: 50 %, 80 %
        open        yes
        ");
        let tokens = BudgetState { unit: Unit::Tokens, alert_percent: Vec::new(), ..state.clone() };
        insta::assert_snapshot!(details(&tokens), @r"
        name        research
        for         team = research
        window      month, from 2026-11-01T00:00:00Z to 2026-12-01T00:00:00Z (UTC)
        limit       100000000000 tokens
        used        81200000000 tokens  ████████████████░░░░  81 %
        reserved    800000000 tokens
        left        18000000000 tokens
        when full   wait
        open        yes
        ");
        let total = BudgetState { per: "total".into(), told_percent: None, ..BudgetState::default() };
        assert!(details(&total).contains("told at     nothing; told in this window: nothing"));
    }
}
