//! The shell: HTTP in, HTTP out, and the only place of the simulator that waits.
//!
//! A call is read, decided upon and answered in memory first; then it is held back until its time has come.
//! So a benchmark at no latency measures a socket and a few microseconds.

use super::chance::Digest;
use super::decide;
use super::problem::Problem;
use super::settings::Settings;
use super::stats::Call;
use super::stream::{Events, Written};
use super::{Error, Simulator, control, endpoints};
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use axum::serve::ListenerExt;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A larger body is a 413.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What is read of a body that is too large, so that its sender gets to read the answer.
const BODY_BYTES_READ_MAX: usize = 8 * BODY_BYTES_MAX;
/// How long connections may take to close when their calls have ended.
const CLOSING: Duration = Duration::from_secs(1);
/// A streamed body is sent in pieces of about this size if more events than that are due.
const PIECE_BYTES: usize = 16 * 1024;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");

/// What every request is handled with.
#[derive(Clone)]
pub(super) struct Shell {
    pub(super) simulator: Simulator,
    /// Ends all waiting.
    abort: CancellationToken,
}

/// An answer that waits for its time.
pub(super) struct Ready {
    pub(super) wait: Duration,
    pub(super) prompt_tokens: u64,
    pub(super) body: Prepared,
}

pub(super) enum Prepared {
    Whole { json: Vec<u8>, completion_tokens: u64 },
    Stream(Events),
}

/// Serves until `stop`; what still waits when `grace` has passed is told so.
pub(super) async fn serve(
    simulator: Simulator,
    listener: TcpListener,
    stop: CancellationToken,
    grace: Duration,
) -> Result<(), Error> {
    let abort = CancellationToken::new();
    // Whatever ends this function, nobody goes on waiting.
    let _abort_at_the_end = abort.clone().drop_guard();
    let listener = listener.tap_io(|socket| {
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "a socket of the simulator stays with Nagle's delay");
        }
    });
    let app = endpoints::routes()
        .merge(control::routes())
        .method_not_allowed_fallback(endpoints::unknown)
        .with_state(Shell { simulator, abort: abort.clone() })
        .into_make_service_with_connect_info::<SocketAddr>();
    let serving = axum::serve(listener, app).with_graceful_shutdown(stop.clone().cancelled_owned());
    let deadline = async {
        stop.cancelled().await;
        tokio::time::sleep(grace).await;
        abort.cancel();
        tokio::time::sleep(CLOSING).await;
    };
    tokio::select! {
        served = serving.into_future() => served.map_err(Error::Serve),
        () = deadline => Ok(()),
    }
}

/// The whole body, without a copy if it came in one piece.
pub(super) async fn read(body: Body) -> Result<Bytes, Problem> {
    let mut frames = body.into_data_stream();
    let (mut first, mut joined, mut size) = (Bytes::new(), Vec::new(), 0_usize);
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(|_| Problem::new(400, None, "The request body cannot be read."))?;
        size = size.saturating_add(frame.len());
        if size > BODY_BYTES_READ_MAX {
            break;
        }
        if size > BODY_BYTES_MAX {
            joined = Vec::new();
        } else if size == frame.len() {
            first = frame;
        } else {
            if joined.is_empty() {
                joined.extend_from_slice(&first);
            }
            joined.extend_from_slice(&frame);
        }
    }
    if size > BODY_BYTES_MAX {
        return Err(Problem::too_large(BODY_BYTES_MAX));
    }
    Ok(if joined.is_empty() { first } else { joined.into() })
}

impl Shell {
    /// The way of every call for an answer: counted, admitted, read, prepared, let through, held back, sent.
    pub(super) async fn call(
        &self,
        request: Request,
        prepare: impl FnOnce(&Self, &Settings, u64, &[u8]) -> Result<Ready, Problem>,
    ) -> Response {
        let mut call = self.simulator.0.counters.arrive();
        let arrived = Instant::now();
        let settings = self.simulator.settings();
        let ready = self.ready(&mut call, &settings, request, prepare).await;
        let waited = match ready {
            Ok(ready) => self.wait(arrived, ready.wait).await.map(|()| ready),
            Err(problem) => Err(problem),
        };
        match waited {
            Err(problem) => {
                call.answered(problem.status);
                self.refuse(&problem)
            }
            Ok(Ready { prompt_tokens, body: Prepared::Whole { json, completion_tokens }, .. }) => {
                call.read(prompt_tokens);
                call.wrote(completion_tokens);
                call.answered(StatusCode::OK.as_u16());
                self.respond(StatusCode::OK, JSON, Body::from(json))
            }
            Ok(Ready { prompt_tokens, body: Prepared::Stream(events), .. }) => {
                call.read(prompt_tokens);
                let body = self.clone().stream(call, settings, arrived, events);
                let mut response = self.respond(StatusCode::OK, EVENTS, body);
                response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
                response
            }
        }
    }

    async fn ready(
        &self,
        call: &mut Call,
        settings: &Settings,
        request: Request,
        prepare: impl FnOnce(&Self, &Settings, u64, &[u8]) -> Result<Ready, Problem>,
    ) -> Result<Ready, Problem> {
        let (parts, body) = request.into_parts();
        // The body is read before anything is refused, or the connection could not be used again.
        let body = read(body).await;
        self.admit(settings, &parts.headers)?;
        let ready = prepare(self, settings, call.number, &body?)?;
        decide::survive(settings, call.number)?;
        if call.take_place(settings.max_concurrent) { Ok(ready) } else { Err(decide::crowded()) }
    }

    pub(super) fn admit(&self, settings: &Settings, headers: &HeaderMap) -> Result<(), Problem> {
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let shown = shown.and_then(|value| value.split_once(' '));
        let shown =
            shown.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, key)| key.trim());
        decide::admit(self.simulator.outage_at(Instant::now()), settings.api_key.as_ref(), shown)
    }

    /// Sends events as they fall due, all that are due at once in one piece.
    fn stream(self, call: Call, settings: Arc<Settings>, arrived: Instant, events: Events) -> Body {
        let next = move |state: Option<(Call, Events)>| {
            let (shell, settings) = (self.clone(), Arc::clone(&settings));
            async move {
                let (call, mut events) = state?;
                let mut piece = Vec::with_capacity(1_024);
                loop {
                    let wait = decide::latency(&settings, events.tokens_due());
                    if !piece.is_empty() && (piece.len() > PIECE_BYTES || arrived.elapsed() < wait) {
                        return Some((Ok::<_, Infallible>(Bytes::from(piece)), Some((call, events))));
                    }
                    if let Err(problem) = shell.wait(arrived, wait).await {
                        Events::write_problem(&mut piece, &problem);
                        call.answered(problem.status);
                        return Some((Ok(piece.into()), None));
                    }
                    match events.write(&mut piece) {
                        Written::Tokens(tokens) => call.wrote(tokens),
                        Written::End => {
                            call.answered(StatusCode::OK.as_u16());
                            return Some((Ok(piece.into()), None));
                        }
                    }
                }
            }
        };
        Body::from_stream(stream::unfold(Some((call, events)), next))
    }

    /// Holds a call back until `wait` has passed since it arrived.
    async fn wait(&self, arrived: Instant, wait: Duration) -> Result<(), Problem> {
        if wait.is_zero() {
            return Ok(());
        }
        let Some(until) = arrived.checked_add(wait) else {
            self.abort.cancelled().await;
            return Err(Problem::stopping());
        };
        tokio::select! {
            () = tokio::time::sleep_until(until) => Ok(()),
            () = self.abort.cancelled() => Err(Problem::stopping()),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "an answer says when it was made, and this is the shell")]
    pub(super) fn created(&self) -> i64 {
        chrono::Utc::now().timestamp()
    }

    pub(super) fn json(&self, body: &impl Serialize) -> Response {
        self.respond(StatusCode::OK, JSON, Body::from(to_json(body)))
    }

    pub(super) fn refuse(&self, problem: &Problem) -> Response {
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = self.respond(status, JSON, Body::from(problem.to_json()));
        if let Some(wait) = problem.retry_after {
            let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            response.headers_mut().insert(header::RETRY_AFTER, wait_ms.div_ceil(1_000).into());
            response.headers_mut().insert(RETRY_AFTER_MS, wait_ms.into());
        }
        response
    }

    fn respond(&self, status: StatusCode, content_type: HeaderValue, body: Body) -> Response {
        let number = self.simulator.0.requests.fetch_add(1, Relaxed) + 1;
        let id = format!("req_{:016x}", Digest::new(self.simulator.settings().seed).number(number).value());
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, content_type);
        if let Ok(id) = HeaderValue::try_from(id) {
            headers.insert(REQUEST_ID, id);
        }
        response
    }
}

pub(super) fn to_json(body: &impl Serialize) -> Vec<u8> {
    // Plain strings and numbers cannot fail to serialize.
    serde_json::to_vec(body).unwrap_or_default()
}
