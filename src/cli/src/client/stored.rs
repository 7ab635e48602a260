//! Reads many stored messages with one request: JetStream's batched direct get.
//!
//! Two forms. By subjects (`multi_last`), for a few known ones. By a cursor (`next_by_subj` from a
//! sequence), for everything of a group: one request finds what came since the last look, however many
//! answers are still missing, where asking for each missing one would send the whole list again each time.
//! Sequences of a stream never repeat and a replica applies them in order, so a cursor misses nothing.

use std::time::Duration;

use async_nats::{HeaderMap, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::json;
use tollgate_bus::retry::{Patience, Tries};
use tollgate_bus::{Bus, record};
use tollgate_protocol::{Group, Sequence, Team};

use crate::failure::Failure;

const MESSAGES_MAX: u64 = 500;
const BYTES_MAX: u64 = 32 * 1024 * 1024;
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// A stored message.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// Its place in the stream.
    pub(crate) sequence: Sequence,
    /// Its subject.
    pub(crate) subject: String,
    /// Its headers.
    pub(crate) headers: HeaderMap,
    /// Its content.
    pub(crate) payload: Bytes,
}

/// What one request brought.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    /// In the order of their sequences.
    pub(crate) messages: Vec<Stored>,
    /// How many more match.
    pub(crate) pending: u64,
}

/// Why nothing could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Error {
    Silence,
    NoStream,
    Refused(String),
}

/// All answers of a group.
pub(crate) fn group_subject(bus: &Bus, team: &Team, group: &Group) -> String {
    bus.subjects().under(&format!("res.{team}.{group}.*"))
}

/// The next messages of LLM_RECORD on `subject` (wildcards allowed) after `cursor`.
pub(crate) async fn after(bus: &Bus, subject: &str, cursor: Sequence) -> Result<Page, Failure> {
    let stream = bus.subjects().stream(record::STREAM);
    let request = json!({
        "seq": cursor + 1, "next_by_subj": subject, "batch": MESSAGES_MAX, "max_bytes": BYTES_MAX,
    });
    patiently(bus, &stream, &request).await
}

/// The last messages of LLM_RECORD on each of `subjects` (wildcards allowed, at most 1,024 results).
pub(crate) async fn last_of(bus: &Bus, subjects: &[String]) -> Result<Vec<Stored>, Failure> {
    let stream = bus.subjects().stream(record::STREAM);
    let request = json!({"multi_last": subjects, "batch": 1_024, "max_bytes": BYTES_MAX});
    Ok(patiently(bus, &stream, &request).await?.messages)
}

/// How many messages a stream holds on `subject`, without listing them.
pub(crate) async fn count(bus: &Bus, stream: &str, subject: &str) -> Result<u64, Failure> {
    let request = json!({"seq": 1, "next_by_subj": subject, "batch": 1});
    let page = patiently(bus, stream, &request).await?;
    Ok(page.pending + page.messages.len() as u64)
}

async fn patiently(bus: &Bus, stream: &str, request: &serde_json::Value) -> Result<Page, Failure> {
    let mut tries = Tries::new(Patience::NORMAL);
    // A server that has just started may need a moment before a stream answers; a stream that does not
    // exist never will.
    let mut missing = 0;
    loop {
        let error = match get(bus, stream, request).await {
            Ok(page) => return Ok(page),
            Err(error) => error,
        };
        missing += u32::from(matches!(error, Error::NoStream));
        let hopeless = matches!(error, Error::Refused(_)) || missing > 5;
        if hopeless || !tries.again().await {
            return Err(failure(bus, stream, error));
        }
    }
}

fn failure(bus: &Bus, stream: &str, error: Error) -> Failure {
    match error {
        Error::NoStream => Failure::unreachable(format!(
            "there is no stream {stream} on this server, so no Tollgate runs on it. Start one with `tollgate up`, \
             or name its --prefix if that is not {}",
            bus.subjects().prefix()
        )),
        Error::Silence => match bus.connection().health().violation {
            Some(violation) => Failure::usage(format!("no permission to read stored responses: {violation}")),
            None => Failure::unreachable(format!(
                "reading stored responses: no answer within {} s. Is the nats-server well? `tollgate doctor` looks",
                SILENCE_MAX.as_secs()
            )),
        },
        Error::Refused(reason) => Failure::failed(format!("the server refused to read {stream}: {reason}")),
    }
}

async fn get(bus: &Bus, stream: &str, request: &serde_json::Value) -> Result<Page, Error> {
    let client = bus.client();
    let inbox = client.new_inbox();
    let unsent = |error: &dyn std::fmt::Display| Error::Refused(error.to_string());
    let mut replies = client.subscribe(inbox.clone()).await.map_err(|error| unsent(&error))?;
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    let payload = Bytes::from(request.to_string());
    client.publish_with_reply(subject, inbox, payload).await.map_err(|error| unsent(&error))?;
    let mut page = Page::default();
    loop {
        let reply = match tokio::time::timeout(SILENCE_MAX, replies.next()).await {
            Ok(Some(reply)) => reply,
            Ok(None) | Err(_) => return Err(Error::Silence),
        };
        let headers = reply.headers.unwrap_or_default();
        let header = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
        let number = |name: &str| header(name).and_then(|value| value.parse::<u64>().ok());
        match reply.status {
            None => {
                let (Some(sequence), Some(subject)) = (number("Nats-Sequence"), header("Nats-Subject"))
                else {
                    return Err(Error::Refused("a reply without Nats-Sequence".into()));
                };
                page.pending = number("Nats-Num-Pending").unwrap_or(0);
                page.messages.push(Stored { sequence, subject, headers, payload: reply.payload });
                // A server that takes one message at a time sends no end mark.
                if request["batch"] == 1 {
                    return Ok(page);
                }
            }
            Some(status) if status.as_u16() == 204 => {
                page.pending = number("Nats-Num-Pending").unwrap_or(0);
                return Ok(page);
            }
            Some(StatusCode::NOT_FOUND) => return Ok(page),
            Some(StatusCode::NO_RESPONDERS) => return Err(Error::NoStream),
            Some(status) => {
                return Err(Error::Refused(reply.description.unwrap_or_else(|| status.to_string())));
            }
        }
    }
}
