//! The HTTP side of the scripted provider: one handler that does as it was told.

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use axum::body::{Body, Bytes};
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::answer::{answer_to, completion, completion_stream, key_of};
use super::log::{Call, End, Log};
use super::{Behaviour, Script};

/// What all connections share, over every restart.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) log: Log,
    pub(super) script: Mutex<Option<Script>>,
    pub(super) latency: Mutex<Duration>,
}

/// One run of the server: from a start to the stop that ends it.
#[derive(Clone)]
pub(super) struct Run {
    shared: Arc<Shared>,
    over: CancellationToken,
    connections: Arc<Mutex<Vec<Weak<TcpStream>>>>,
}

impl Run {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, over: CancellationToken::new(), connections: Arc::default() }
    }

    /// Serves until [`Run::end`].
    pub(super) async fn serve(self, listener: TcpListener) {
        let over = self.over.clone();
        let routes = Router::new()
            .route("/v1/chat/completions", post(chat))
            .route("/v1/models", get(models))
            .layer(DefaultBodyLimit::disable())
            .with_state(self)
            .into_make_service_with_connect_info::<Connection>();
        tokio::select! {
            () = over.cancelled() => {}
            // The accept loop retries for ever, so it never returns.
            _ = axum::serve(listener, routes) => {}
        }
    }

    /// Cuts every connection and stops listening, as the death of the process would.
    pub(super) fn end(&self) {
        self.over.cancel();
        let connections = std::mem::take(&mut *self.connections());
        connections.iter().filter_map(Weak::upgrade).for_each(|socket| close(&socket));
    }

    fn connections(&self) -> MutexGuard<'_, Vec<Weak<TcpStream>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A second handle of the connection's socket, so that a handler can cut it without an answer.
#[derive(Clone)]
struct Connection {
    socket: Arc<TcpStream>,
    known: Arc<Once>,
}

impl Connected<IncomingStream<'_, TcpListener>> for Connection {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        let socket = stream.io();
        socket.set_nodelay(true).expect("a fresh connection takes options");
        let second = socket.as_fd().try_clone_to_owned().expect("there are file descriptors left");
        Self { socket: Arc::new(TcpStream::from(second)), known: Arc::new(Once::new()) }
    }
}

impl Connection {
    /// Cuts the connection; hyper then drops the handler that called this.
    async fn cut(&self) -> Response {
        close(&self.socket);
        std::future::pending().await
    }
}

fn close(socket: &TcpStream) {
    // An error means that the other side was faster.
    let _ = socket.shutdown(Shutdown::Both);
}

/// Enters the end of a call whatever way the handler is left: dropped before it has an end, the client has left.
struct Entry {
    shared: Arc<Shared>,
    number: usize,
    end: End,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.shared.log.leave(self.number, self.end);
    }
}

async fn models() -> Json<Value> {
    Json(json!({"object": "list", "data": [{"id": "any", "object": "model", "owned_by": "tests"}]}))
}

async fn chat(
    State(run): State<Run>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    connection.known.call_once(|| {
        let mut connections = run.connections();
        connections.retain(|socket| socket.strong_count() > 0);
        connections.push(Arc::downgrade(&connection.socket));
    });
    if run.over.is_cancelled() {
        return connection.cut().await;
    }
    let shared = &run.shared;
    let call = shared.log.enter(arrived(&headers, &body));
    let mut entry = Entry { shared: shared.clone(), number: call.number, end: End::ClientLeft };
    let (behaviour, latency) = told(shared, &call);
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    let response = match &behaviour {
        Behaviour::Answer | Behaviour::Delay(_) => answer(&call),
        Behaviour::Until(open) => {
            // An error says that the sender is gone.
            let _ = open.clone().wait_for(|open| *open).await;
            answer(&call)
        }
        Behaviour::Status { status, headers, body } => refusal(*status, headers, body),
        Behaviour::HugeAnswer(bytes) => huge(&call, *bytes),
        Behaviour::TruncatedBody => truncated(&call),
        Behaviour::Drip(time) => dripping(&call, *time),
        Behaviour::MalformedJson => good("application/json", r#"{"id":"chatcmpl-1","choices":[{"index":0,"#),
        Behaviour::WrongContentType => good("text/html", "<html><body>Service portal</body></html>"),
        Behaviour::CloseBeforeResponse => {
            entry.end = End::Spoiled;
            return connection.cut().await;
        }
        Behaviour::Hang => return std::future::pending().await,
    };
    entry.end = end_of(&behaviour);
    response
}

fn arrived(headers: &HeaderMap, body: &[u8]) -> Call {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let header = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    Call {
        number: 0,
        key: key_of(&body),
        earlier: 0,
        arrived: Instant::now(),
        arrived_at: SystemTime::now(),
        headers: headers.iter().map(header).collect(),
        body,
        ended: None,
        end: End::Open,
    }
}

/// What the script says about this call, and how long to wait before doing it.
fn told(shared: &Shared, call: &Call) -> (Behaviour, Duration) {
    let script = shared.script.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let behaviour = script.map_or(Behaviour::Answer, |script| script(call));
    let latency = *shared.latency.lock().unwrap_or_else(PoisonError::into_inner);
    match behaviour {
        Behaviour::Delay(delay) => (behaviour, latency + delay),
        other => (other, latency),
    }
}

fn end_of(behaviour: &Behaviour) -> End {
    match behaviour {
        Behaviour::Answer
        | Behaviour::Delay(_)
        | Behaviour::Until(_)
        | Behaviour::HugeAnswer(_)
        | Behaviour::Drip(_) => End::Answered,
        Behaviour::Status { status, .. } if *status < 400 => End::Answered,
        Behaviour::Status { status, .. } => End::Refused(*status),
        _ => End::Spoiled,
    }
}

fn answer(call: &Call) -> Response {
    let answer = answer_to(&call.body);
    if call.body["stream"] == true {
        return good("text/event-stream", completion_stream(call.number, &call.body, &answer));
    }
    good("application/json", completion(call.number, &call.body, &answer).to_string())
}

/// One word of this many bytes, so that its tokens stay countable.
fn huge(call: &Call, bytes: usize) -> Response {
    let mut answer = answer_to(&call.body);
    answer.text = "x".repeat(bytes);
    answer.tokens.output = 1;
    good("application/json", completion(call.number, &call.body, &answer).to_string())
}

/// The whole answer, in ten pieces.
fn dripping(call: &Call, time: Duration) -> Response {
    let whole = completion(call.number, &call.body, &answer_to(&call.body)).to_string();
    let pieces: Vec<Bytes> =
        whole.as_bytes().chunks(whole.len().div_ceil(10)).map(Bytes::copy_from_slice).collect();
    let pieces = futures_util::stream::iter(pieces).then(move |piece| async move {
        tokio::time::sleep(time / 10).await;
        Ok::<_, std::io::Error>(piece)
    });
    good("application/json", Body::from_stream(pieces))
}

/// Promises the whole length, sends half, and cuts the connection.
fn truncated(call: &Call) -> Response {
    let whole = completion(call.number, &call.body, &answer_to(&call.body)).to_string();
    let half = Bytes::copy_from_slice(&whole.as_bytes()[..whole.len() / 2]);
    let cut = async {
        // A body that is not ready makes hyper flush what it has; an error at once would take the head along.
        tokio::task::yield_now().await;
        Err(std::io::Error::other("cut by the script"))
    };
    let pieces = futures_util::stream::once(async { Ok(half) }).chain(futures_util::stream::once(cut));
    let mut response = good("application/json", Body::from_stream(pieces));
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(whole.len()));
    response
}

fn refusal(status: u16, headers: &[(String, String)], body: &str) -> Response {
    let status = StatusCode::from_u16(status).expect("the script names a valid status");
    let mut response = (status, body.to_owned()).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in headers {
        let name = HeaderName::try_from(name).expect("the script names a valid header");
        let value = HeaderValue::try_from(value).expect("the script gives a valid header value");
        response.headers_mut().insert(name, value);
    }
    response
}

fn good(content_type: &'static str, body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, content_type)], body.into()).into_response()
}
