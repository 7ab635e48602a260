//! `tollgate status`: what waits where, and who is there to work on it. Reads, and changes nothing.

mod look;

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use tollgate_bus::Bus;
use tollgate_protocol::applied::InUse;
use tollgate_protocol::{Sequence, Timestamp};

use super::connect::{self, At};
use crate::args::Global;
use crate::failure::Failure;
use crate::output::{Output, Table};

pub(crate) use look::{dispatch, dispatch_streams, look};

/// Show what waits, what runs and who works
#[derive(Clone, Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) at: At,
}

/// An installation at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Status {
    /// The nats-server.
    pub(crate) server: Server,
    /// Requests that no router has taken for good yet, by priority.
    pub(crate) waiting: Waiting,
    /// Requests that come again later.
    pub(crate) retry: u64,
    /// The work of each provider.
    pub(crate) dispatch: Vec<Dispatch>,
    /// Responses that are stored.
    pub(crate) responses: u64,
    /// Usage events that are stored.
    pub(crate) usage_events: u64,
    /// Usage events that the ledger has not folded yet; absent if no ledger ever read them.
    pub(crate) usage_lag: Option<u64>,
    /// Who waits for work.
    pub(crate) roles: Roles,
    /// The version of teams, budgets, models and prices that is applied; absent if each process's own file counts.
    pub(crate) config: Option<Sequence>,
    /// Which version each process uses.
    pub(crate) in_use: Vec<InUse>,
    /// Streams that are missing.
    pub(crate) missing_streams: Vec<String>,
}

/// The nats-server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Server {
    /// Its name.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: String,
    /// What its streams take, in bytes.
    pub(crate) store_bytes: Option<u64>,
}

/// A number for each priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Waiting {
    /// Waiting at `high`.
    pub(crate) high: u64,
    /// Waiting at `normal`.
    pub(crate) normal: u64,
    /// Waiting at `low`.
    pub(crate) low: u64,
    /// Of all these, in the hands of routers.
    pub(crate) in_routers: u64,
}

/// A provider's queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Dispatch {
    /// The provider.
    pub(crate) provider: String,
    /// Waiting for a worker.
    pub(crate) waiting: u64,
    /// In the hands of workers.
    pub(crate) in_flight: u64,
    /// How many may be there at a time; absent if its consumer was never made.
    pub(crate) max_in_flight: Option<i64>,
    /// Pulls of workers that wait for work.
    pub(crate) idle_pulls: u64,
    /// Whether the next two could be read.
    pub(crate) rest_known: bool,
    /// Since when an operator has it paused.
    pub(crate) paused_since: Option<Timestamp>,
    /// Until when it asked not to be called; absent if that is over.
    pub(crate) throttled_until: Option<Timestamp>,
}

/// Who is there, as far as it can be seen from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Roles {
    /// Pulls of routers that wait for requests.
    pub(crate) router_pulls: u64,
    /// Pulls of workers that wait for work, over all providers.
    pub(crate) worker_pulls: u64,
    /// Pulls of ledgers that wait for usage events.
    pub(crate) ledger_pulls: u64,
    /// NATS services that answer a ping: name and version.
    pub(crate) services: Vec<String>,
}

/// Runs the command.
pub(crate) async fn run(args: StatusArgs, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    let bus: Bus = connect::bus(global, &args.at).await?;
    let status = look(&bus).await?;
    if output.json {
        output.json(&status);
        return Ok(ExitCode::SUCCESS);
    }
    output.table(&overview(&status));
    if !status.dispatch.is_empty() {
        output.line("");
        output.table(&providers(&status.dispatch));
    }
    if !status.missing_streams.is_empty() {
        output.note(format!(
            "not set up: {}. `tollgate up` or `tollgate run` makes what is missing",
            status.missing_streams.join(", ")
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn overview(status: &Status) -> Table {
    let mut table = Table::new(&["", ""]);
    let (waiting, roles) = (&status.waiting, &status.roles);
    table.row(["nats-server", &format!("{} ({})", status.server.version, status.server.name)]);
    if let Some(bytes) = status.server.store_bytes {
        table.row(["stored", &format!("{:.1} MB", bytes_to_mb(bytes))]);
    }
    table.row(["waiting", &format!("{} high, {} normal, {} low", waiting.high, waiting.normal, waiting.low)]);
    table.row(["in routers", &format!("{} of them", waiting.in_routers)]);
    table.row(["for later", &status.retry.to_string()]);
    table.row(["responses stored", &status.responses.to_string()]);
    let lag = match status.usage_lag {
        Some(0) => "all in the ledger".to_owned(),
        Some(lag) => format!("{lag} not in the ledger yet"),
        None => "no ledger has read them".to_owned(),
    };
    table.row(["usage events", &format!("{}, {lag}", status.usage_events)]);
    let seen = |pulls: u64| if pulls > 0 { "alive" } else { "none waits for work" };
    table.row(["routers", seen(roles.router_pulls)]);
    table.row(["workers", seen(roles.worker_pulls)]);
    table.row(["ledger", seen(roles.ledger_pulls)]);
    let services =
        if roles.services.is_empty() { "none answers".to_owned() } else { roles.services.join(", ") };
    table.row(["services", &services]);
    table.row(["configuration", &configuration(status)]);
    table
}

fn configuration(status: &Status) -> String {
    let version = status.config.unwrap_or(0);
    let name =
        if version == 0 { "the file of each process".to_owned() } else { format!("version {version}") };
    let others = status.in_use.iter().filter(|process| process.version != version).count();
    match (others, status.in_use.len()) {
        (0, _) => name,
        (others, all) => {
            format!("{name}, but {others} of {all} processes use another; see `tollgate doctor`")
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a size that is only shown")]
fn bytes_to_mb(bytes: u64) -> f64 {
    bytes as f64 / 1_000_000.0
}

fn providers(dispatch: &[Dispatch]) -> Table {
    let mut table = Table::new(&["provider", ">waiting", ">in flight", ">at most", ">idle pulls", "paused"]);
    for provider in dispatch {
        table.row([
            provider.provider.clone(),
            provider.waiting.to_string(),
            provider.in_flight.to_string(),
            provider.max_in_flight.map_or_else(|| "-".into(), |max| max.to_string()),
            provider.idle_pulls.to_string(),
            paused(provider),
        ]);
    }
    table
}

fn paused(provider: &Dispatch) -> String {
    match (provider.paused_since, provider.throttled_until) {
        (Some(since), _) => format!("by an operator, since {}", since.to_rfc3339()),
        (None, Some(until)) => format!("as it asked, until {}", until.to_rfc3339()),
        (None, None) if !provider.rest_known => "not known".to_owned(),
        (None, None) => "no".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_for_people() {
        let status = Status {
            server: Server { name: "n1".into(), version: "2.15.1".into(), store_bytes: Some(12_345_678) },
            waiting: Waiting { high: 1, normal: 2, low: 3_000, in_routers: 64 },
            retry: 4,
            dispatch: vec![Dispatch {
                provider: "openai".into(),
                waiting: 8,
                in_flight: 64,
                max_in_flight: Some(64),
                rest_known: true,
                ..Dispatch::default()
            }],
            responses: 100,
            usage_events: 120,
            usage_lag: Some(2),
            roles: Roles {
                router_pulls: 48,
                worker_pulls: 0,
                ledger_pulls: 1,
                services: vec!["ask 0.1.0".into()],
            },
            config: Some(3),
            in_use: vec![InUse { version: 3, ..InUse::default() }, InUse::default()],
            missing_streams: Vec::new(),
        };
        insta::assert_snapshot!(overview(&status).render(false, false), @r"
        nats-server       2.15.1 (n1)
        stored            12.3 MB
        waiting           1 high, 2 normal, 3000 low
        in routers        64 of them
        for later         4
        responses stored  100
        usage events      120, 2 not in the ledger yet
        routers           alive
        workers           none waits for work
        ledger            alive
        services          ask 0.1.0
        configuration     version 3, but 1 of 2 processes use another; see `tollgate doctor`
        ");
        insta::assert_snapshot!(providers(&status.dispatch).render(false, false), @r"
        provider  waiting  in flight  at most  idle pulls  paused
        openai          8         64       64           0  no
        ");
        let time = |text: &str| text.parse().ok();
        let paused = Dispatch { paused_since: time("2026-11-29T10:00:00Z"), ..status.dispatch[0].clone() };
        let throttled =
            Dispatch { throttled_until: time("2026-11-29T10:00:07Z"), ..status.dispatch[0].clone() };
        let unread = Dispatch { rest_known: false, ..status.dispatch[0].clone() };
        insta::assert_snapshot!(providers(&[paused, throttled, unread]).render(false, false), @r"
        provider  waiting  in flight  at most  idle pulls  paused
        openai          8         64       64           0  by an operator, since 2026-11-29T10:00:00+00:00
        openai          8         64       64           0  as it asked, until 2026-11-29T10:00:07+00:00
        openai          8         64       64           0  not known
        ");
    }
}
