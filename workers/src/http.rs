//! One HTTP call: bytes out, bytes in, or how it broke. All providers share it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use tollgate_policy::failure::Class;
use tollgate_protocol::Timestamp;

use crate::codec::{Answer, Call, Failure};
use crate::quota;

/// Most bytes of an answer that are read: more cannot be stored in any case.
pub(crate) const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// OpenAI documents it for support: the caller's own name of a call. Ours is the `ce-id` of its usage event.
const CLIENT_REQUEST_ID: &str = "x-client-request-id";

/// Shorter keys are words, and protect nothing.
const KEY_BYTES_MIN: usize = 8;

/// Why there is no whole answer.
#[derive(Debug)]
pub(crate) enum Broken {
    /// A failure like those that a provider answers with.
    Failed(Failure),
    /// More bytes than are ever read.
    TooLarge,
}

/// When a call is given up.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Until the connection stands.
    pub connect: Duration,
    /// From the connection to the status line.
    pub first_byte: Duration,
    /// Between two pieces of the answer.
    pub idle: Duration,
    /// Until the last byte of the answer.
    pub total: Duration,
}

/// A provider's address and credentials.
#[derive(Clone)]
pub(crate) struct Endpoint {
    client: reqwest::Client,
    base_url: String,
    authorizations: Vec<HeaderValue>,
    timeouts: Timeouts,
}

impl Endpoint {
    pub(crate) fn new(base_url: &str, api_keys: &[String], timeouts: Timeouts) -> Result<Self, String> {
        let client = reqwest::Client::builder()
            .connect_timeout(timeouts.connect)
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .pool_idle_timeout(Duration::from_secs(30))
            .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| error.to_string())?;
        let authorization = |key: &String| {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
                .map_err(|_| "an API key has characters that a header cannot carry".to_owned())?;
            value.set_sensitive(true);
            Ok(value)
        };
        let authorizations = api_keys.iter().map(authorization).collect::<Result<_, String>>()?;
        let base_url = base_url.trim_end_matches('/').to_owned();
        Ok(Self { client, base_url, authorizations, timeouts })
    }

    /// How many keys there are.
    pub(crate) fn keys(&self) -> usize {
        self.authorizations.len()
    }

    /// Sends a call with one of the keys and reads the whole answer, within the provider's time-outs and `left`. `id`
    /// tells the provider's log which call it is.
    pub(crate) async fn send(
        &self,
        call: Call,
        key: usize,
        id: &str,
        left: Duration,
        now: Timestamp,
    ) -> Result<Answer, Broken> {
        let mut request = self
            .client
            .post(format!("{}{}", self.base_url, call.path))
            .timeout(self.timeouts.total.min(left))
            .header(CONTENT_TYPE, "application/json")
            .header(CLIENT_REQUEST_ID, id)
            .body(call.body);
        if let Some(authorization) = self.authorizations.get(key) {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        for (name, value) in call.headers {
            request = request.header(name, value);
        }
        let first = self.timeouts.connect + self.timeouts.first_byte;
        let response = match tokio::time::timeout(first, request.send()).await {
            Ok(response) => response.map_err(|error| Broken::Failed(broken(&error)))?,
            Err(_) => {
                return Err(Broken::Failed(Failure::new(
                    Class::TimedOut,
                    "the provider did not begin to answer in time",
                )));
            }
        };
        let status = response.status().as_u16();
        let retry_after_ms = retry_after_ms(response.headers(), now);
        let left = quota::left(response.headers(), now);
        let body = read_body(response, self.timeouts.idle).await?;
        // Clients read what a refusal says, and some servers say what they were sent.
        let body = if status < 400 { body } else { self.without_keys(body) };
        Ok(Answer { status, retry_after_ms, left, body })
    }

    fn without_keys(&self, body: Bytes) -> Bytes {
        let text = |value: &HeaderValue| value.to_str().ok()?.strip_prefix("Bearer ").map(str::to_owned);
        let keys = self.authorizations.iter().filter_map(text).filter(|key| key.len() >= KEY_BYTES_MIN);
        let is_there = |key: &String| body.windows(key.len()).any(|found| found == key.as_bytes());
        let found: Vec<String> = keys.filter(is_there).collect();
        if found.is_empty() {
            return body;
        }
        let text = String::from_utf8_lossy(&body).into_owned();
        found.iter().fold(text, |text, key| text.replace(key.as_str(), "[api key]")).into()
    }
}

async fn read_body(response: reqwest::Response, idle: Duration) -> Result<Bytes, Broken> {
    let mut body = BytesMut::new();
    let mut chunks = response.bytes_stream();
    loop {
        let chunk = match tokio::time::timeout(idle, chunks.next()).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(_) => {
                let text = "the provider stopped in the middle of its answer";
                return Err(Broken::Failed(Failure::new(Class::TimedOut, text)));
            }
        };
        let chunk = chunk.map_err(|error| {
            Broken::Failed(if error.is_timeout() {
                broken(&error)
            } else {
                Failure::new(Class::Truncated, "the connection to the provider broke during its answer")
            })
        })?;
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(Broken::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn broken(error: &reqwest::Error) -> Failure {
    // The error's own text has the URL and nothing of the body; the client learns the class only.
    tracing::debug!(%error, "a call of a provider broke");
    if error.is_connect() {
        Failure::new(Class::NotConnected, "no connection to the provider")
    } else if error.is_timeout() {
        Failure::new(Class::TimedOut, "the provider did not answer in time")
    } else {
        Failure::new(Class::ConnectionLost, "the connection to the provider broke before its answer")
    }
}

/// `retry-after-ms` goes before `Retry-After`, which is in seconds or a date (RFC 9110, 10.2.3).
fn retry_after_ms(headers: &HeaderMap, now: Timestamp) -> Option<u64> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    if let Some(milliseconds) = text("retry-after-ms").and_then(|value| value.trim().parse().ok()) {
        return Some(milliseconds);
    }
    let value = text(RETRY_AFTER.as_str())?.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(seconds.saturating_mul(1_000));
    }
    let until = chrono::DateTime::parse_from_rfc2822(value).ok()?.to_utc();
    Some(u64::try_from((until - now).num_milliseconds()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_all_its_forms() {
        let now = Timestamp::from_timestamp(1_790_000_000, 0).unwrap();
        let later = (now + chrono::TimeDelta::seconds(30)).to_rfc2822();
        let later = later.as_str();
        for (headers, expected) in [
            (vec![], None),
            (vec![("retry-after", "2")], Some(2_000)),
            (vec![("retry-after", "2"), ("retry-after-ms", "150")], Some(150)),
            (vec![("retry-after", later)], Some(30_000)),
            (vec![("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")], Some(0)),
            (vec![("retry-after", "1000000000")], Some(1_000_000_000_000)),
            (vec![("retry-after", "99999999999999999999")], None),
            (vec![("retry-after", "soon")], None),
            (vec![("retry-after", "-1")], None),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in &headers {
                map.insert(*name, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(retry_after_ms(&map, now), expected, "{headers:?}");
        }
    }
}
