//! The simulator over a real socket.

use super::tokenizer::count_tokens;
use super::*;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const QUESTION: &str =
    r#"{"model":"m","messages":[{"role":"user","content":"Why do rivers bend?"}],"max_tokens":40}"#;
const CHAT: &str = "/v1/chat/completions";

/// A simulator that listens on a free port.
struct Running {
    simulator: Simulator,
    address: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), Error>>,
    client: reqwest::Client,
}

struct Answer {
    status: u16,
    headers: reqwest::header::HeaderMap,
    text: String,
}

impl Running {
    async fn start(settings: Settings) -> Self {
        Self::start_with_grace(settings, GRACE).await
    }

    #[expect(clippy::disallowed_methods, reason = "each test awaits or drops its one server")]
    async fn start_with_grace(settings: Settings, grace: Duration) -> Self {
        // Only the first test of the process installs it; the others find it there.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (simulator, stop) = (Simulator::new(settings).expect("settings"), CancellationToken::new());
        let (server, token) = (simulator.clone(), stop.clone());
        let serving = tokio::spawn(async move { server::serve(server, listener, token, grace).await });
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { simulator, address, stop, serving, client }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        Answer::of(self.client.post(self.url(path)).body(body)).await
    }

    async fn get(&self, path: &str) -> Answer {
        Answer::of(self.client.get(self.url(path))).await
    }

    /// Sends a chat call and does not wait for its answer.
    async fn send(&self, body: &str) -> TcpStream {
        let mut socket = TcpStream::connect(self.address).await.expect("a connection");
        let head = format!("POST {CHAT} HTTP/1.1\r\nhost: sim\r\ncontent-length: {}\r\n\r\n", body.len());
        socket.write_all(format!("{head}{body}").as_bytes()).await.expect("sent");
        socket
    }

    /// Waits for what happens soon but not at once.
    async fn until(&self, what: &str, holds: impl Fn(&Stats) -> bool) {
        for _ in 0..500 {
            if holds(&self.simulator.stats()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what}: {:?}", self.simulator.stats());
    }
}

impl Answer {
    async fn of(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let answer = Self { status, headers, text: response.text().await.expect("a body") };
        assert!(answer.header("x-request-id").starts_with("req_"), "every answer has a request id");
        answer
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).expect(&self.text)
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().expect("text")).unwrap_or_default()
    }

    fn error_code(&self) -> Value {
        let error = &self.json()["error"];
        assert_eq!(error.as_object().expect("an error object").len(), 4, "{error}");
        error["code"].clone()
    }
}

fn events(text: &str) -> Vec<Value> {
    let (events, end) = text.split_at(text.len() - "data: [DONE]\n\n".len());
    assert_eq!(end, "data: [DONE]\n\n");
    let parse = |event: &str| serde_json::from_str(event.strip_prefix("data: ").expect(event)).expect(event);
    events.split_terminator("\n\n").map(parse).collect()
}

#[tokio::test]
async fn a_completion_has_openais_shape() {
    let running = Running::start(Settings::default()).await;
    let answer = running.post(CHAT, QUESTION).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    let created = answer.json()["created"].to_string();
    insta::assert_snapshot!(answer.text.replace(&created, "0"));
    let again = running.post(CHAT, QUESTION).await;
    assert_eq!(again.json()["choices"], answer.json()["choices"]);
    assert_ne!(again.json()["id"], answer.json()["id"]);
    assert_ne!(again.header("x-request-id"), answer.header("x-request-id"));
}

#[tokio::test]
async fn a_stream_says_what_the_whole_says() {
    let running = Running::start(Settings::default()).await;
    for stop in ["", r#","stop":"the""#, r#","n":3"#] {
        let base = QUESTION.trim_end_matches('}');
        let whole = running.post(CHAT, format!("{base}{stop}}}")).await.json();
        let options = r#","stream":true,"stream_options":{"include_usage":true}"#;
        let stream = running.post(CHAT, format!("{base}{stop}{options}}}")).await;
        assert_eq!(stream.header("content-type"), "text/event-stream; charset=utf-8");
        let mut events = events(&stream.text);
        let last = events.pop().expect("a last event");
        assert_eq!((&last["usage"], &last["choices"]), (&whole["usage"], &json!([])));
        for choice in whole["choices"].as_array().expect("choices") {
            let of_choice: Vec<&Value> = events
                .iter()
                .map(|event| &event["choices"][0])
                .filter(|found| found["index"] == choice["index"])
                .collect();
            let text: String =
                of_choice.iter().filter_map(|found| found["delta"]["content"].as_str()).collect();
            assert_eq!(text, choice["message"]["content"]);
            assert_eq!(of_choice.last().expect("an end")["finish_reason"], choice["finish_reason"]);
        }
        assert!(events.iter().all(|event| event["usage"] == Value::Null && event["id"] == last["id"]));
    }
}

#[tokio::test]
async fn usage_and_stats_can_be_recounted() {
    let running = Running::start(Settings::default()).await;
    let mut completion_tokens = 0;
    for number in 0..20 {
        let body =
            json!({"model": "m", "messages": [{"role": "user", "content": format!("river {number}")}]});
        let stream = json!({"stream": true, "model": "m", "messages": body["messages"]});
        let answer = running.post(CHAT, body.to_string()).await.json();
        let tokens = count_tokens(answer["choices"][0]["message"]["content"].as_str().expect("a text"));
        assert_eq!(answer["usage"]["completion_tokens"], tokens);
        assert_eq!(answer["usage"]["prompt_tokens"], 4 + count_tokens(&format!("river {number}")));
        running.post(CHAT, stream.to_string()).await;
        completion_tokens += 2 * tokens;
    }
    let stats = running.get("/__sim/stats").await.json();
    assert_eq!(stats["completion_tokens"], completion_tokens);
    assert_eq!(
        (&stats["calls"], &stats["by_status"], &stats["in_flight"]),
        (&json!(40), &json!({"200": 40}), &json!(0))
    );
}

#[tokio::test]
async fn every_kind_of_refusal() {
    let settings = Settings {
        models: vec!["m".to_owned()],
        api_key: Some(ApiKey::new("sk-right")),
        ..Settings::default()
    };
    let running = Running::start(settings).await;
    let post = |key: &str, path: &str, body: Vec<u8>| {
        let request = running.client.post(running.url(path)).header("authorization", format!("bearer {key}"));
        Answer::of(request.body(body))
    };
    assert_eq!(running.post(CHAT, QUESTION).await.error_code(), "invalid_api_key");
    for (path, body, status, code) in [
        (CHAT, QUESTION.to_owned(), 200, ""),
        (CHAT, QUESTION.replace(r#""m""#, r#""x""#), 404, "model_not_found"),
        (CHAT, QUESTION.replace("40", "0"), 400, "integer_below_min_value"),
        ("/v1/embeddings", r#"{"model":"x","input":"a"}"#.to_owned(), 404, "model_not_found"),
        ("/v1/nothing", String::new(), 404, "unknown_url"),
        ("/v1/models", String::new(), 404, "unknown_url"),
    ] {
        let answer = post("sk-right", path, body.into()).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
        assert!(status == 200 || answer.error_code() == code, "{path}: {}", answer.text);
    }
    assert_eq!(post("sk-wrong", CHAT, QUESTION.into()).await.status, 401);
    assert_eq!(running.get("/v1/models").await.status, 401);
    let large = post("sk-right", CHAT, vec![b' '; 8 * 1024 * 1024 + 1]).await;
    assert_eq!((large.status, large.error_code()), (413, Value::Null));
    let mut just_fits = QUESTION.as_bytes().to_vec();
    just_fits.resize(8 * 1024 * 1024, b' ');
    assert_eq!(post("sk-right", CHAT, just_fits).await.status, 200);
}

#[tokio::test]
async fn models_health_and_embeddings() {
    let running = Running::start(Settings::default()).await;
    assert_eq!(running.get("/v1/models").await.json()["data"][0]["id"], "simulator");
    assert_eq!(running.get("/healthz").await.status, 200);
    let answer = running
        .post("/v1/embeddings", r#"{"model":"m","input":["one river","two"],"dimensions":3}"#)
        .await
        .json();
    assert_eq!(answer["usage"], json!({"prompt_tokens": 4, "total_tokens": 4}));
    assert_eq!(answer["data"][1]["embedding"].as_array().expect("numbers").len(), 3);
}

#[tokio::test]
async fn an_outage_takes_everything_but_health_and_ends_by_command() {
    let running = Running::start(Settings::default()).await;
    assert_eq!(running.post("/__sim/outage", r#"{"seconds":600,"status":502}"#).await.status, 200);
    assert_eq!(running.post(CHAT, QUESTION).await.status, 502);
    assert_eq!(running.get("/v1/models").await.status, 502);
    assert_eq!(running.get("/healthz").await.status, 200);
    assert_eq!(
        running.post("/__sim/outage", r#"{"seconds":0}"#).await.json(),
        json!({"seconds": 0.0, "status": 503})
    );
    assert_eq!(running.post(CHAT, QUESTION).await.status, 200);
    assert_eq!(running.post("/__sim/outage", r#"{"seconds":0.05}"#).await.status, 200);
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(running.post(CHAT, QUESTION).await.status, 200);
    for bad in [
        r#"{"seconds":-1}"#,
        r#"{"seconds":1,"status":200}"#,
        r#"{"second":1}"#,
        "[1,503]",
        r#"{"seconds":1e300}"#,
    ] {
        assert_eq!(running.post("/__sim/outage", bad).await.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn the_same_calls_fail_in_every_run() {
    let fail = Failures { rate: 0.3, status: 429, retry_after: Some(Duration::from_millis(1_200)) };
    let mut runs = Vec::new();
    for _ in 0..2 {
        let running = Running::start(Settings { fail: fail.clone(), seed: 42, ..Settings::default() }).await;
        let mut statuses = Vec::new();
        for _ in 0..50 {
            let answer = running.post(CHAT, QUESTION).await;
            if answer.status == 429 {
                assert_eq!((answer.header("retry-after"), answer.header("retry-after-ms")), ("2", "1200"));
                assert_eq!(answer.error_code(), "rate_limit_exceeded");
            }
            statuses.push(answer.status);
        }
        runs.push(statuses);
    }
    assert_eq!(runs[0], runs[1]);
    assert!(runs[0].contains(&429) && runs[0].contains(&200));
}

#[tokio::test]
async fn settings_change_while_it_runs() {
    let running = Running::start(Settings::default()).await;
    let shown = running
        .post("/__sim/settings", r#"{"first_token_ms":20,"per_token_ms":0.5,"fail":{"status":500}}"#)
        .await;
    assert_eq!(shown.json(), running.get("/__sim/settings").await.json());
    assert_eq!((&shown.json()["per_token_ms"], &shown.json()["fail"]["status"]), (&json!(0.5), &json!(500)));
    let started = Instant::now();
    running.post(CHAT, QUESTION).await;
    assert!(
        started.elapsed() >= Duration::from_millis(40),
        "20 ms and 40 tokens of 0.5 ms: {:?}",
        started.elapsed()
    );
    assert_eq!(running.post("/__sim/settings", r#"{"fail":{"rate":7}}"#).await.status, 400);
}

#[tokio::test]
async fn a_stream_flows_at_its_pace() {
    let running =
        Running::start(Settings { per_token: Duration::from_secs(600), ..Settings::default() }).await;
    let body = QUESTION.replace("40", "20,\"stream\":true");
    let request = running.client.post(running.url(CHAT)).body(body.clone());
    let piece = request.send().await.expect("an answer").chunk().await.expect("a piece").expect("a piece");
    assert_eq!(
        String::from_utf8_lossy(&piece).matches("data: ").count(),
        1,
        "the role is due at once, alone"
    );

    running.simulator.change(&Change { per_token_ms: Some(2.5), ..Change::default() }).expect("a change");
    let started = Instant::now();
    assert_eq!(running.post(CHAT, body).await.text.matches("\"content\"").count(), 21);
    assert!(started.elapsed() >= Duration::from_millis(50), "20 tokens of 2.5 ms: {:?}", started.elapsed());
}

#[tokio::test]
async fn more_calls_than_places_are_told_so() {
    let (max_concurrent, first_token) = (Some(2), Duration::from_secs(600));
    let running = Running::start(Settings { max_concurrent, first_token, ..Settings::default() }).await;
    let waiting = [running.send(QUESTION).await, running.send(QUESTION).await];
    running.until("they are in flight", |stats| stats.in_flight == 2).await;
    let answer = running.post(CHAT, QUESTION).await;
    assert_eq!((answer.status, answer.error_code()), (429, json!("rate_limit_exceeded")));
    drop(waiting);
    running.until("they have gone", |stats| stats.in_flight == 0).await;
    running.simulator.change(&Change { first_token_ms: Some(0), ..Change::default() }).expect("a change");
    assert_eq!(running.post(CHAT, QUESTION).await.status, 200, "places are given back");
    assert_eq!(running.simulator.stats().in_flight_max, 3);
}

#[tokio::test]
async fn a_caller_that_hangs_up_is_counted() {
    let running =
        Running::start(Settings { per_token: Duration::from_secs(60), ..Settings::default() }).await;
    for stream in ["", ",\"stream\":true"] {
        let before = running.simulator.stats().abandoned;
        let socket = running.send(&QUESTION.replace("40", &format!("40{stream}"))).await;
        running.until("it is in flight", |stats| stats.in_flight == 1).await;
        drop(socket);
        running.until("it is abandoned", |stats| stats.in_flight == 0 && stats.abandoned == before + 1).await;
    }
    assert_eq!(running.simulator.stats().completion_tokens, 0);
}

#[tokio::test]
async fn a_stop_lets_calls_end_and_closes_the_rest() {
    let running =
        Running::start(Settings { first_token: Duration::from_millis(300), ..Settings::default() }).await;
    let idle = TcpStream::connect(running.address).await.expect("a connection");
    let (answer, ()) = tokio::join!(running.post(CHAT, QUESTION), async {
        running.until("it has arrived", |stats| stats.calls == 1).await;
        running.stop.cancel();
    });
    assert_eq!(answer.status, 200);
    running.serving.await.expect("no panic").expect("a clean end");
    assert!(TcpStream::connect(running.address).await.is_err(), "nobody listens any more");
    drop(idle);
}

#[tokio::test]
async fn a_stop_ends_calls_that_would_wait_too_long() {
    let settings = Settings { first_token: Duration::from_secs(600), ..Settings::default() };
    let running = Running::start_with_grace(settings, Duration::from_millis(50)).await;
    let (answer, ()) = tokio::join!(running.post(CHAT, QUESTION), async {
        running.until("it has arrived", |stats| stats.calls == 1).await;
        running.stop.cancel();
    });
    assert_eq!(answer.status, 503);
    running.serving.await.expect("no panic").expect("a clean end");
}
