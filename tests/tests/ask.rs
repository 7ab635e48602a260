//! Plain request/reply: what any NATS client can send without knowing anything of JetStream.

mod answers;
mod repeats;
mod service;

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use serde_json::{Value, json};
use tollgate_tests::request::decode;

use crate::stage::{PATIENCE, Stage};

const TEAM: &str = "research";

fn chat(text: &str) -> Value {
    json!({"model": "small", "messages": [{"role": "user", "content": text}]})
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.insert(*name, *value);
    }
    headers
}

/// A reply: its headers, and its payload read by its content type.
struct Reply {
    headers: HeaderMap,
    value: Value,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.as_str())
    }

    /// The code and HTTP status of an error, as NATS micro services say it.
    fn service_error(&self) -> (Option<&str>, Option<&str>) {
        (self.header("Nats-Service-Error"), self.header("Nats-Service-Error-Code"))
    }

    fn text(&self) -> &str {
        self.value["choices"][0]["message"]["content"].as_str().unwrap_or_default()
    }
}

async fn ask(stage: &Stage, subject: &str, pairs: &[(&str, &str)], payload: impl Into<Bytes>) -> Reply {
    ask_within(stage, subject, pairs, payload, PATIENCE).await.expect("a reply")
}

async fn ask_within(
    stage: &Stage,
    subject: &str,
    pairs: &[(&str, &str)],
    payload: impl Into<Bytes>,
    timeout: Duration,
) -> Result<Reply, async_nats::RequestErrorKind> {
    let request =
        async_nats::Request::new().headers(headers(pairs)).payload(payload.into()).timeout(Some(timeout));
    let message = stage.client.nats().send_request(subject.to_owned(), request).await;
    let message = message.map_err(|error| error.kind())?;
    let headers = message.headers.unwrap_or_default();
    let value = decode(&headers, &message.payload)
        .unwrap_or_else(|error| panic!("a reply that cannot be read ({error}): {:?}", message.payload));
    Ok(Reply { headers, value })
}
