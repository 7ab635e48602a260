//! The floor: what the design's messages cost without the design. The same durable writes with the same headers
//! and about the same bytes, the same HTTP call, the same acknowledgements, and nothing that decides anything.
//!
//! It runs as a child process of the benchmark, so that its CPU time stands beside the client's and not in it.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Republish, RetentionPolicy, SubjectTransform};
use async_nats::jetstream::{Context, Message};
use bytes::Bytes;
use futures_util::StreamExt;

use crate::support::client::{ID_HEADER, connect};

/// Padding of the messages, in bytes, so that each of them is about as large as Tollgate's. The run prints both
/// sides' stored bytes per request, so a padding that has become wrong is seen.
const DISPATCH_PADDING: usize = 400;
const CLAIM_BYTES: usize = 560;
const RESPONSE_PADDING: usize = 640;
const USAGE_BYTES: usize = 528;

const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
const EXPECTED_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence-Subject";

/// What the child process is told.
pub(crate) struct Settings {
    pub(crate) url: String,
    pub(crate) prefix: String,
    pub(crate) base_url: String,
    pub(crate) in_flight: usize,
}

impl Settings {
    /// As arguments of the child process.
    pub(crate) fn to_arguments(&self) -> Vec<String> {
        let in_flight = self.in_flight.to_string();
        vec!["floor".to_owned(), self.url.clone(), self.prefix.clone(), self.base_url.clone(), in_flight]
    }

    /// Read back; `None` if this process is not such a child.
    pub(crate) fn from_arguments(arguments: &[String]) -> Option<Self> {
        let [command, url, prefix, base_url, in_flight] = arguments else { return None };
        (command == "floor").then(|| Self {
            url: url.clone(),
            prefix: prefix.clone(),
            base_url: base_url.clone(),
            in_flight: in_flight.parse().expect("the benchmark wrote a number"),
        })
    }
}

/// Runs both stages until the process is killed.
pub(crate) async fn run(settings: Settings) {
    let (first, second) = (connect(&settings.url).await, connect(&settings.url).await);
    create_streams(&first, &settings).await;
    let requests = consumer(&first, &settings, "REQ", "lane.>").await;
    let dispatched = consumer(&second, &settings, "DISPATCH", "dispatch.>").await;
    let http = tollgate_tests::http();
    ready();
    let dispatching = each(requests, &settings, |message| dispatch(&first, &settings, message));
    let working = each(dispatched, &settings, |message| work(&second, &http, &settings, message));
    tokio::join!(dispatching, working);
}

#[expect(clippy::print_stdout, reason = "the parent waits for this line")]
fn ready() {
    println!("ready");
}

/// So many messages under way at once, the next one taken as soon as one is done.
async fn each<F: Future<Output = ()>>(
    consumer: PullConsumer,
    settings: &Settings,
    work: impl Fn(Message) -> F,
) {
    let messages = consumer
        .stream()
        .max_messages_per_batch(settings.in_flight)
        .expires(Duration::from_secs(30))
        .messages()
        .await
        .expect("a consumer can be pulled from");
    let messages = messages.map(|message| message.expect("the nats-server of this run goes on"));
    messages.for_each_concurrent(settings.in_flight, work).await;
}

/// The first hop.
async fn dispatch(jetstream: &Context, settings: &Settings, message: Message) {
    let id = id_of(&message);
    let mut headers = HeaderMap::new();
    headers.insert(ID_HEADER, id.as_str());
    headers.insert("Nats-Msg-Id", format!("bench.load.{id}/{}_REQ", settings.prefix));
    let subject = format!("{}.dispatch.sim.normal", settings.prefix);
    let payload = padded(&message.payload, DISPATCH_PADDING);
    publish(jetstream, &subject, headers, payload).await;
    message.ack().await.expect("an acknowledgement can be sent");
}

/// The second hop: claim, call, answer, usage, acknowledgement.
async fn work(jetstream: &Context, http: &reqwest::Client, settings: &Settings, message: Message) {
    let id = id_of(&message);
    let Settings { prefix, base_url, .. } = settings;
    let record = format!("{prefix}.*.bench.load.{id}");
    let fence = |expected: u64| {
        let mut headers = HeaderMap::new();
        headers.insert(EXPECTED, expected.to_string());
        headers.insert(EXPECTED_SUBJECT, record.as_str());
        headers.insert("Nats-TTL", "86400s");
        headers.insert("Tollgate-Write", "00000000000000000000000000000000");
        headers
    };
    let run = format!("{prefix}.run.bench.load.{id}");
    let claim = publish(jetstream, &run, fence(0), padded(b"", CLAIM_BYTES)).await;

    let call = http
        .post(format!("{base_url}/chat/completions"))
        .header("content-type", "application/json")
        .body(body_of(&message.payload))
        .send()
        .await
        .expect("the simulator answers");
    assert!(call.status().is_success(), "the simulator refuses the floor's request");
    let answer = call.bytes().await.expect("the simulator ends its answer");

    let mut headers = fence(claim);
    headers.insert("Content-Type", "application/json");
    headers.insert("Tollgate-Digest", "0".repeat(64));
    headers.insert("Tollgate-Status", "succeeded");
    headers.insert("Tollgate-Attempt", "1");
    headers.insert("Tollgate-From", "FLOOR_DISPATCH:1790000000000000");
    let response = format!("{prefix}.res.bench.load.{id}");
    publish(jetstream, &response, headers, padded(&answer, RESPONSE_PADDING)).await;

    let mut headers = HeaderMap::new();
    let event = format!("bench.load.{id}.1");
    headers.insert("Nats-Msg-Id", format!("{event}/attempt"));
    headers.insert("ce-id", event);
    headers.insert("ce-specversion", "1.0");
    headers.insert("ce-type", "dev.tollgate.usage.v1");
    headers.insert("ce-source", "tollgate/worker");
    headers.insert("ce-time", "2026-01-01T00:00:00.000Z");
    headers.insert("ce-subject", format!("bench.load.{id}"));
    headers.insert("ce-datacontenttype", "application/json");
    headers.insert("Content-Type", "application/json");
    let usage = format!("{prefix}.usage.bench.sim.bench-model");
    publish(jetstream, &usage, headers, padded(b"", USAGE_BYTES)).await;
    message.ack().await.expect("an acknowledgement can be sent");
}

/// Publishes and waits for the acknowledgement; a full stream is tried again.
async fn publish(jetstream: &Context, subject: &str, headers: HeaderMap, payload: Bytes) -> u64 {
    loop {
        let message = PublishMessage::build().headers(headers.clone()).payload(payload.clone());
        let sent = jetstream.send_publish(subject.to_owned(), message).await.expect("a publish can be sent");
        match sent.await {
            Ok(stored) => return stored.sequence,
            Err(error) if error.kind() == PublishErrorKind::TimedOut => panic!("{subject}: {error}"),
            Err(error) if error.to_string().contains("exceeded") => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(error) => panic!("{subject}: {error}"),
        }
    }
}

fn id_of(message: &Message) -> String {
    let id = message.headers.as_ref().and_then(|headers| headers.get(ID_HEADER));
    id.expect("the load names its requests in a header").to_string()
}

fn padded(start: &[u8], more: usize) -> Bytes {
    let mut payload = Vec::with_capacity(start.len() + more);
    payload.extend_from_slice(start);
    payload.resize(start.len() + more, b' ');
    payload.into()
}

/// What stands behind `"body":` in the load's envelope, by its shape and not by reading JSON.
fn body_of(payload: &Bytes) -> Bytes {
    let text = std::str::from_utf8(payload).expect("the load is text");
    let start = text.find("\"body\":").expect("the load is an envelope") + "\"body\":".len();
    let end = text.rfind('}').expect("the load is an envelope");
    payload.slice(start..end)
}

async fn consumer(jetstream: &Context, settings: &Settings, stream: &str, filter: &str) -> PullConsumer {
    let in_flight = i64::try_from(settings.in_flight).expect("a small number");
    let config = pull::Config {
        durable_name: Some("floor".to_owned()),
        filter_subject: format!("{}.{filter}", settings.prefix),
        ack_policy: AckPolicy::Explicit,
        ack_wait: Duration::from_secs(30),
        max_deliver: -1,
        max_ack_pending: in_flight,
        ..pull::Config::default()
    };
    let stream = format!("{}_{stream}", settings.prefix.to_ascii_uppercase());
    jetstream.create_consumer_on_stream(config, stream).await.expect("a consumer can be created")
}

/// The broker's own settings, without what no request of this load touches.
async fn create_streams(jetstream: &Context, settings: &Settings) {
    let under = |rest: &str| format!("{}.{rest}", settings.prefix);
    let base = |kind: &str, subjects: &[&str]| Config {
        name: format!("{}_{kind}", settings.prefix.to_ascii_uppercase()),
        subjects: subjects.iter().map(|subject| under(subject)).collect(),
        max_messages: -1,
        max_messages_per_subject: -1,
        max_bytes: -1,
        max_consumers: 1_000,
        allow_direct: true,
        duplicate_window: Duration::from_secs(120),
        ..Config::default()
    };
    let queue = |config: Config| Config {
        retention: RetentionPolicy::WorkQueue,
        discard: DiscardPolicy::New,
        discard_new_per_subject: true,
        first_sequence: Some(1_790_000_000_000_000),
        ..config
    };
    let republish = |kind: &str| {
        let (source, destination) = (under(&format!("{kind}.>")), under(&format!("live.{kind}.>")));
        Some(Republish { source, destination, headers_only: false })
    };
    let places = i64::try_from(settings.in_flight).expect("a small number");
    let extra = (places / 8).max(1);
    let streams = [
        queue(Config {
            max_messages_per_subject: 1_000_000,
            duplicate_window: Duration::from_millis(100),
            subject_transform: Some(SubjectTransform {
                source: under("req.*.*"),
                destination: under("lane.{{wildcard(2)}}.{{partition(16,1)}}.{{wildcard(1)}}"),
            }),
            ..base("REQ", &["req.*.high", "req.*.normal", "req.*.low"])
        }),
        queue(Config {
            max_messages_per_subject: places + extra,
            max_messages: places + 3 * extra,
            ..base("DISPATCH", &["dispatch.sim.*"])
        }),
        Config {
            max_messages_per_subject: 1,
            allow_message_ttl: true,
            max_age: Duration::from_secs(16 * 24 * 3_600),
            republish: republish("res"),
            ..base("RECORD", &["run.*.*.*", "res.*.*.*"])
        },
        Config {
            max_age: Duration::from_secs(400 * 24 * 3_600),
            republish: republish("usage"),
            ..base("USAGE", &["usage.>"])
        },
    ];
    for stream in streams {
        jetstream.create_stream(stream).await.expect("a stream of the floor can be created");
    }
}
