//! One HTTP call: bytes out, bytes in, or how it broke. All providers share it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use tollgate_policy::failure::Class;
use tollgate_protocol::Timestamp;

use crate::codec::{Answer, Call, Failure};

/// Most bytes of an answer that are read: more cannot be stored in any case.
pub(crate) const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Why there is no whole answer.
#[derive(Debug)]
pub(crate) enum Broken {
    /// A failure like those that a provider answers with.
    Failed(Failure),
    /// More bytes than are ever read.
    TooLarge,
}

/// A provider's address and credentials.
#[derive(Clone)]
pub(crate) struct Endpoint {
    client: reqwest::Client,
    base_url: String,
    authorization: Option<HeaderValue>,
    total: Duration,
}

impl Endpoint {
    pub(crate) fn new(
        base_url: &str,
        api_key: Option<&str>,
        connect: Duration,
        total: Duration,
    ) -> Result<Self, String> {
        let client = reqwest::Client::builder()
            .connect_timeout(connect)
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .pool_idle_timeout(Duration::from_secs(30))
            .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| error.to_string())?;
        let authorization = match api_key {
            Some(key) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
                    .map_err(|_| "the API key has characters that a header cannot carry".to_owned())?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        Ok(Self { client, base_url: base_url.trim_end_matches('/').to_owned(), authorization, total })
    }

    /// Sends a call and reads the whole answer, within the provider's total time-out and `left`.
    pub(crate) async fn send(&self, call: Call, left: Duration, now: Timestamp) -> Result<Answer, Broken> {
        let mut request = self
            .client
            .post(format!("{}{}", self.base_url, call.path))
            .timeout(self.total.min(left))
            .header(CONTENT_TYPE, "application/json")
            .body(call.body);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        for (name, value) in call.headers {
            request = request.header(name, value);
        }
        let response = request.send().await.map_err(|error| Broken::Failed(broken(&error)))?;
        let status = response.status().as_u16();
        let retry_after_ms = retry_after_ms(response.headers(), now);
        let body = read_body(response).await?;
        Ok(Answer { status, retry_after_ms, body })
    }
}

async fn read_body(response: reqwest::Response) -> Result<Bytes, Broken> {
    let mut body = BytesMut::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
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
