//! `tollgate usage`: what was used and what it cost, as the ledger has it.

use std::process::ExitCode;
use std::time::Duration;

use async_nats::{Request, RequestErrorKind};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use tollgate_bus::HeaderView;
use tollgate_protocol::budget::BudgetQuestion;
use tollgate_protocol::header::{self, Headers};
use tollgate_protocol::{NanoUsd, Timestamp};

use super::connect::{self, At};
use super::plan;
use crate::args::Global;
use crate::failure::Failure;
use crate::output::{Output, Table};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Show usage and cost, by team, model or anything else that requests are labelled with
#[derive(Clone, Debug, Args)]
pub(crate) struct UsageArgs {
    #[command(flatten)]
    pub(crate) at: At,
    /// What to break the numbers down by: team, project, user, task, model, provider, priority, tag:NAME …
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "team,model")]
    pub(crate) by: Vec<String>,
    /// From this time on: RFC 3339, or a day such as 2026-01-31
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) from: Option<Timestamp>,
    /// Up to this time, exclusive
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) to: Option<Timestamp>,
    /// Only what has this label; may be given several times
    #[arg(long = "where", value_name = "NAME=VALUE", value_parser = plan::tag)]
    pub(crate) filters: Vec<(String, String)>,
    /// One row for each hour or day, or one in all
    #[arg(long, value_enum)]
    pub(crate) bucket: Option<Bucket>,
}

/// The time that a row is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Bucket {
    /// An hour
    Hour,
    /// A day, UTC
    Day,
    /// All the time asked for
    Total,
}

/// Reads a time or a day.
fn time(text: &str) -> Result<Timestamp, String> {
    let day = format!("{text}T00:00:00Z");
    text.parse()
        .or_else(|_| day.parse())
        .map_err(|_| "expected a time such as 2026-01-31T12:00:00Z, or a day such as 2026-01-31".to_owned())
}

/// The question to the ledger.
fn query(args: &UsageArgs) -> Value {
    let by: Vec<&str> = args.by.iter().map(|name| name.trim()).filter(|name| !name.is_empty()).collect();
    let mut query = json!({"by": by});
    if let Some(from) = &args.from {
        query["from"] = from.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true).into();
    }
    if let Some(to) = &args.to {
        query["to"] = to.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true).into();
    }
    if !args.filters.is_empty() {
        let filters = args.filters.iter().map(|(name, value)| (name.clone(), Value::from(value.clone())));
        query["where"] = Value::Object(filters.collect::<Map<_, _>>());
    }
    if let Some(bucket) = args.bucket {
        query["bucket"] = format!("{bucket:?}").to_lowercase().into();
    }
    query
}

/// Runs the command.
pub(crate) async fn run(args: UsageArgs, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    let bus = connect::bus(global, &args.at).await?;
    let subject = bus.subjects().control("usage", "query");
    let request = Request::new().payload(query(&args).to_string().into()).timeout(Some(ANSWER_TIMEOUT));
    let reply = bus.client().send_request(subject, request).await.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => {
            Failure::unreachable("no ledger answers: is `tollgate run ledger` or `tollgate up` running?")
        }
        _ => Failure::unreachable(format!("the ledger did not answer: {error}")),
    })?;
    let view = HeaderView(reply.headers.as_ref());
    let answer: Value = serde_json::from_slice(&reply.payload).unwrap_or(Value::Null);
    if let Some(error) = view.get(header::SERVICE_ERROR) {
        let message = answer.pointer("/error/message").and_then(Value::as_str).unwrap_or(error);
        let refused = view.get(header::SERVICE_ERROR_CODE).is_some_and(|code| code.starts_with('4'));
        let message = format!("the ledger refused the query: {message}");
        return Err(if refused { Failure::usage(message) } else { Failure::failed(message) });
    }
    if output.json {
        output.json(&answer);
        return Ok(ExitCode::SUCCESS);
    }
    output.table(&table(&answer, &args.by));
    // Beside what was used: how much of what may be is left. A ledger of before budgets says nothing.
    if let Ok(list) = super::budget::ask(&bus, BudgetQuestion::default()).await
        && !list.budgets.is_empty()
    {
        output.line(String::new());
        output.table(&super::budget::table(&list.budgets));
    }
    if let Some(lag) = answer.pointer("/as_of/lag").and_then(Value::as_u64)
        && lag > 0
    {
        output.note(format!("the ledger is {lag} events behind: the numbers will still grow"));
    }
    Ok(ExitCode::SUCCESS)
}

/// The numbers that are shown first and last; what else the ledger counts stands between them.
const FIRST: [&str; 4] = ["requests", "succeeded", "failed", "errors"];
const LAST: &str = "cost_nano_usd";
/// What is shown even if it is 0 everywhere.
const ALWAYS: [&str; 5] = ["requests", "failed", "input_tokens", "output_tokens", LAST];

/// Rows and their total. What the ledger counts is the ledger's to say, so the columns come from the rows:
/// the time, the labels that were asked for, then the numbers.
fn table(answer: &Value, by: &[String]) -> Table {
    let rows: Vec<Map<String, Value>> =
        answer["rows"].as_array().into_iter().flatten().filter_map(Value::as_object).map(flat).collect();
    let total = answer["total"].as_object().map(flat).unwrap_or_default();
    let mut columns: Vec<(&String, bool)> = Vec::new();
    for (name, value) in rows.iter().chain([&total]).flatten() {
        match columns.iter_mut().find(|(known, _)| *known == name) {
            Some(column) => column.1 |= value.is_number(),
            None => columns.push((name, value.is_number())),
        }
    }
    // Sums that are there to be divided by something say nothing to a reader, and neither does a row of zeros.
    columns.retain(|(name, number)| {
        let zero = rows.iter().chain([&total]).all(|row| row.get(*name).is_none_or(|value| *value == 0));
        let part = name.ends_with("_sum") || name.ends_with("_count");
        !number || ALWAYS.contains(&name.as_str()) || !(zero || part)
    });
    columns.sort_by_key(|(name, number)| {
        let asked = by.iter().position(|label| label.trim() == name.as_str());
        let first = FIRST.iter().position(|known| known == name);
        let place = if *number { first.unwrap_or(FIRST.len()) } else { asked.map_or(0, |place| place + 1) };
        (*number && asked.is_none(), *name == LAST, place)
    });
    let header: Vec<String> = columns
        .iter()
        .map(|(name, number)| {
            let shown = name.trim_end_matches("_nano_usd").replace('_', " ");
            if *number { format!(">{shown}") } else { shown }
        })
        .collect();
    let mut table = Table::new(&header.iter().map(String::as_str).collect::<Vec<_>>());
    for row in &rows {
        table.row(columns.iter().map(|(name, _)| cell(name, row.get(*name))));
    }
    let mut cells: Vec<String> = columns.iter().map(|(name, _)| cell(name, total.get(*name))).collect();
    if let Some(first) = cells.first_mut().filter(|first| first.is_empty() || *first == "-") {
        *first = "total".into();
    }
    table.row(cells);
    table
}

/// One level: `{"tags": {"a": 1}}` becomes `tags.a`. What is an array or deeper stays out of the table.
fn flat(row: &Map<String, Value>) -> Map<String, Value> {
    let mut flat = Map::new();
    for (name, value) in row {
        match value {
            Value::Object(inner) => {
                for (inner_name, value) in
                    inner.iter().filter(|(_, value)| !value.is_array() && !value.is_object())
                {
                    flat.insert(inner_name.clone(), value.clone());
                }
            }
            Value::Array(_) => {}
            _ => {
                flat.insert(name.clone(), value.clone());
            }
        }
    }
    flat
}

fn cell(name: &str, value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".into(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) if name.ends_with("_nano_usd") => {
            number.as_i64().map_or_else(|| number.to_string(), |nanos| NanoUsd(nanos).to_string())
        }
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> UsageArgs {
        UsageArgs {
            at: At { prefix: "llm".into() },
            by: vec!["team".into(), "model ".into()],
            from: None,
            to: None,
            filters: Vec::new(),
            bucket: None,
        }
    }

    #[test]
    fn a_query_says_only_what_was_asked() {
        assert_eq!(query(&args()), json!({"by": ["team", "model"]}));
        let full = UsageArgs {
            from: time("2026-01-31").ok(),
            to: time("2026-02-01T12:00:00+01:00").ok(),
            filters: vec![("team".into(), "a=b".into())],
            bucket: Some(Bucket::Day),
            ..args()
        };
        insta::assert_snapshot!(query(&full), @r#"{"bucket":"day","by":["team","model"],"from":"2026-01-31T00:00:00Z","to":"2026-02-01T11:00:00Z","where":{"team":"a=b"}}"#);
        assert!(time("yesterday").is_err());
    }

    #[test]
    fn money_is_shown_as_dollars_and_the_total_last() {
        let answer = json!({
            "rows": [
                {"team": "research", "model": "gpt-4o-mini", "requests": 12, "lost": 0, "latency_ms_sum": 9, "cost_nano_usd": 1_234_000},
                {"team": "a", "model": null, "requests": 1, "cost_nano_usd": 0, "extra": [1]},
            ],
            "total": {"requests": 13, "cost_nano_usd": 1_234_000},
            "as_of": {"lag": 0},
        });
        insta::assert_snapshot!(table(&answer, &args().by).render(false, false), @r"
        team      model        requests       cost
        research  gpt-4o-mini        12  $0.001234
        a         -                   1      $0.00
        total     -                  13  $0.001234
        ");
        assert_eq!(table(&json!({}), &[]).rows.len(), 1);
    }
}
