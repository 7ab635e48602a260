//! The control paths: what a test or a demo may ask of the simulator itself.

use super::fields;
use super::problem::Problem;
use super::server::{self, Shell};
use super::settings::Control;
use super::{Change, Error, Simulator};
use axum::extract::{ConnectInfo, Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;

const OUTAGE_STATUS_DEFAULT: u16 = 503;

pub(super) fn routes() -> axum::Router<Shell> {
    axum::Router::new()
        .route("/__sim/outage", post(outage))
        .route("/__sim/settings", get(settings).post(change))
        .route("/__sim/stats", get(stats))
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Outage {
    seconds: f64,
    #[serde(default = "outage_status_default")]
    status: u16,
}

fn outage_status_default() -> u16 {
    OUTAGE_STATUS_DEFAULT
}

async fn outage(State(shell): State<Shell>, from: ConnectInfo<SocketAddr>, request: Request) -> Response {
    let asked = async {
        admit(&shell.simulator, &from)?;
        let body = server::read(request.into_body()).await?;
        let outage: Outage = parse(&body)?;
        let lasts = Duration::try_from_secs_f64(outage.seconds)
            .map_err(|_| refuse(&Error::Settings("seconds: a number that is not negative is expected")))?;
        shell.simulator.outage(lasts, outage.status).map_err(|error| refuse(&error))?;
        Ok(outage)
    };
    respond(&shell, asked.await)
}

async fn change(State(shell): State<Shell>, from: ConnectInfo<SocketAddr>, request: Request) -> Response {
    let asked = async {
        admit(&shell.simulator, &from)?;
        let body = server::read(request.into_body()).await?;
        let change: Change = parse(&body)?;
        shell.simulator.change(&change).map_err(|error| refuse(&error))?;
        Ok(shell.simulator.settings().view())
    };
    respond(&shell, asked.await)
}

async fn settings(State(shell): State<Shell>, from: ConnectInfo<SocketAddr>) -> Response {
    respond(&shell, admit(&shell.simulator, &from).map(|()| shell.simulator.settings().view()))
}

async fn stats(State(shell): State<Shell>, from: ConnectInfo<SocketAddr>) -> Response {
    respond(&shell, admit(&shell.simulator, &from).map(|()| shell.simulator.stats()))
}

fn admit(simulator: &Simulator, ConnectInfo(from): &ConnectInfo<SocketAddr>) -> Result<(), Problem> {
    match simulator.settings().control {
        Control::Anywhere => Ok(()),
        Control::Loopback if from.ip().to_canonical().is_loopback() => Ok(()),
        Control::Loopback => Err(Problem::new(403, None, "Control paths are for callers from this machine.")),
    }
}

/// Nothing here is a prompt, so what serde finds wrong may be told.
fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    fields::object::<serde::de::IgnoredAny>(body)?;
    serde_json::from_slice(body).map_err(|error| Problem::new(400, None, error.to_string()))
}

fn refuse(error: &Error) -> Problem {
    Problem::new(400, None, error.to_string())
}

fn respond(shell: &Shell, result: Result<impl Serialize, Problem>) -> Response {
    match result {
        Ok(body) => shell.json(&body),
        Err(problem) => shell.refuse(&problem),
    }
}
