//! `/metrics` and `/healthz`.

use std::io;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::health::{Health, Nats, RoleState};
use crate::recorder;

/// How often the values of histograms are put into their buckets: they take memory until then.
const UPKEEP: Duration = Duration::from_secs(5);
/// How long answers that are under way may take after the stop.
const CLOSING: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Shown {
    metrics: PrometheusHandle,
    health: watch::Receiver<Health>,
}

/// Serves metrics and health until `stop`. Installs the recorder if nobody has.
///
/// # Errors
/// When the listener fails, or another recorder was installed.
pub async fn serve_http(
    listener: TcpListener,
    health: watch::Receiver<Health>,
    stop: CancellationToken,
) -> io::Result<()> {
    let metrics = recorder::install().map_err(io::Error::other)?;
    let app = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(show_health))
        .with_state(Shown { metrics: metrics.clone(), health });
    let serving = axum::serve(listener, app).with_graceful_shutdown(stop.clone().cancelled_owned());
    let closing = async {
        stop.cancelled().await;
        tokio::time::sleep(CLOSING).await;
    };
    tokio::select! {
        served = serving.into_future() => served,
        () = upkeep(metrics) => Ok(()),
        () = closing => Ok(()),
    }
}

async fn upkeep(metrics: PrometheusHandle) {
    let mut ticks = tokio::time::interval(UPKEEP);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

async fn show_metrics(State(shown): State<Shown>) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, shown.metrics.render()).into_response()
}

async fn show_health(State(shown): State<Shown>) -> Response {
    let health = shown.health.borrow().clone();
    let reasons = health.reasons();
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let roles = health.roles.iter().map(|(role, state)| Row { role: role.as_str(), state: *state }).collect();
    (status, Json(Body { ready: reasons.is_empty(), reasons, nats: health.nats, roles })).into_response()
}

#[derive(Serialize)]
struct Body {
    ready: bool,
    reasons: Vec<String>,
    nats: Nats,
    roles: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    role: &'static str,
    state: RoleState,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Role;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn fetch(address: std::net::SocketAddr, path: &str) -> String {
        let mut socket = TcpStream::connect(address).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("it answers");
        answer
    }

    #[tokio::test]
    async fn serves_metrics_and_health_until_it_is_stopped() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (sender, health) = watch::channel(Health::starting(&[Role::Router]));
        let stop = CancellationToken::new();
        let asking = async {
            let answer = fetch(address, "/healthz").await;
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
            assert!(answer.contains("the router is starting"), "{answer}");

            sender.send_modify(|health| {
                health.nats.connected = true;
                health.set(Role::Router, RoleState::Ready);
            });
            let answer = fetch(address, "/healthz").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            let body = r#"{"ready":true,"reasons":[],"nats":{"connected":true},"roles":[{"role":"router","state":"ready"}]}"#;
            assert!(answer.ends_with(body), "{answer}");

            crate::count_request("succeeded", "normal");
            let answer = fetch(address, "/metrics").await;
            assert!(answer.contains("text/plain; version=0.0.4"), "{answer}");
            assert!(
                answer.contains(r#"tollgate_requests_total{status="succeeded",priority="normal"} 1"#),
                "{answer}"
            );
            assert!(fetch(address, "/other").await.starts_with("HTTP/1.1 404"));
            stop.cancel();
        };
        let (served, ()) = tokio::join!(serve_http(listener, health, stop.clone()), asking);
        served.expect("an orderly end");
    }
}
