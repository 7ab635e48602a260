//! `tollgate watch`: what happens, as it happens.

use std::process::ExitCode;

use clap::Args;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tollgate_bus::HeaderView;
use tollgate_protocol::header::{self, Headers};
use tollgate_protocol::{Encoding, Team};

use super::connect::{self, At};
use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;

/// Show answers and events as they happen, until Ctrl-C
#[derive(Clone, Debug, Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    pub(crate) at: At,
    /// Only this team's, and what concerns all teams
    #[arg(long, env = "TOLLGATE_TEAM")]
    pub(crate) team: Option<String>,
    /// Only the request of this id
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// Stop after so many lines
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
}

/// Runs the command.
pub(crate) async fn run(args: WatchArgs, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    let team = args.team.as_deref().map(Team::parse).transpose();
    let team = team.map_err(|error| Failure::usage(format!("--team: {error}")))?;
    let bus = connect::bus(global, &args.at).await?;
    let subscribe = async |subject: String| {
        let subscribed = bus.client().subscribe(subject.clone()).await;
        subscribed.map_err(|error| Failure::failed(format!("cannot listen on {subject}: {error}")))
    };
    let of = team.as_ref().map_or("*", Team::as_str);
    let mut answers = subscribe(bus.subjects().under(&format!("live.res.{of}.>"))).await?;
    let mut events = subscribe(bus.subjects().under(&format!("event.{of}.*"))).await?;
    // Without a team the one above has them already.
    let all_teams = if team.is_some() { "event._.*" } else { "event._none.*" };
    let mut common = subscribe(bus.subjects().under(all_teams)).await?;
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let (message, is_answer) = tokio::select! {
            Some(message) = answers.next() => (message, true),
            Some(message) = events.next() => (message, false),
            Some(message) = common.next() => (message, false),
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(super::EXIT_INTERRUPTED)),
            else => return Err(Failure::unreachable("the connection to the nats-server is closed")),
        };
        let value = if is_answer { answer(&message) } else { serde_json::from_slice(&message.payload).ok() };
        let Some(value) = value else { continue };
        if args.id.as_deref().is_some_and(|id| value["id"] != id) {
            continue;
        }
        left -= 1;
        if output.json {
            output.line(value.to_string());
        } else {
            output.line(line(&value));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What of an answer is shown: not the answer itself.
fn answer(message: &async_nats::Message) -> Option<Value> {
    let view = HeaderView(message.headers.as_ref());
    let encoding = view.get(header::CONTENT_TYPE).and_then(Encoding::from_content_type).unwrap_or_default();
    let response: Value = encoding.decode(&message.payload).ok()?;
    Some(json!({
        "kind": "answered",
        "time": tollgate_bus::now(),
        "team": response["team"],
        "group": response["group"],
        "id": response["id"],
        "status": response["status"],
        "code": response["error"]["code"],
        "provider": response["provider"],
        "model": response["model"],
        "cost_nano_usd": response["cost_nano_usd"],
        "total_ms": response["timing"]["total_ms"],
    }))
}

fn line(value: &Value) -> String {
    let text = |name: &str| value[name].as_str().unwrap_or_default();
    let who = if value["id"].is_string() {
        format!("{}.{}.{}", text("team"), text("group"), text("id"))
    } else {
        [text("provider"), text("budget")].concat()
    };
    let mut parts = vec![text("time").to_owned(), format!("{:<18}", text("kind")), who];
    let details = ["status", "code", "model", "message"].map(|name| text(name).to_owned());
    parts.extend(details.into_iter().filter(|detail| !detail.is_empty()));
    for (name, unit) in [("waiting", " waiting"), ("total_ms", " ms")] {
        parts.extend(value[name].as_u64().map(|number| format!("{number}{unit}")));
    }
    parts.extend(value["until"].as_str().map(|until| format!("until {until}")));
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_when_what_and_who() {
        let event = json!({"time": "2026-03-01T12:00:00Z", "kind": "held", "team": "t", "group": "g", "id": "a",
                           "code": "provider_overloaded", "message": "no target is up"});
        assert_eq!(
            line(&event),
            "2026-03-01T12:00:00Z  held                t.g.a  provider_overloaded  no target is up"
        );
        let down =
            json!({"time": "T", "kind": "provider_down", "provider": "sim", "model": "m", "waiting": 7});
        assert_eq!(line(&down), "T  provider_down       sim  m  7 waiting");
        let spent = json!({"time": "T", "kind": "budget", "budget": "research", "team": "t",
                           "message": "80 % of the budget research is spent: $80.00 of $100.00 per month"});
        assert_eq!(
            line(&spent),
            "T  budget              research  80 % of the budget research is spent: $80.00 of $100.00 per month"
        );
    }
}
