//! Requests as a client writes them, from the public contract.

use std::fmt;

use async_nats::HeaderMap;
use bytes::Bytes;
use serde_json::{Value, json};

/// What makes a request the same request: (team, group, id).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The team, which the subject names.
    pub team: String,
    /// The group that the client chose.
    pub group: String,
    /// The id that the client chose.
    pub id: String,
}

impl Identity {
    /// An identity of these three parts.
    pub fn new(team: &str, group: &str, id: &str) -> Self {
        Self { team: team.to_owned(), group: group.to_owned(), id: id.to_owned() }
    }

    /// Where its response is stored.
    pub fn response_subject(&self) -> String {
        format!("llm.res.{self}")
    }

    /// Where its cancel is published.
    pub fn cancel_subject(&self) -> String {
        format!("llm.cancel.{self}")
    }

    /// The identity that `llm.res.<team>.<group>.<id>` is about; `None` for any other subject.
    pub fn of_response(subject: &str) -> Option<Self> {
        let parts: Vec<&str> = subject.strip_prefix("llm.res.")?.split('.').collect();
        match parts[..] {
            [team, group, id] => Some(Self::new(team, group, id)),
            _ => None,
        }
    }
}

/// `team.group.id`, as subjects and event ids have it.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.team, self.group, self.id)
    }
}

/// How an envelope is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// The default.
    #[default]
    Json,
    /// With `Content-Type: application/msgpack`.
    MessagePack,
}

/// A request and the way it is published.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which request it is; the envelope has its group and id.
    pub identity: Identity,
    /// `high`, `normal` or `low`.
    pub priority: String,
    /// The envelope.
    pub envelope: Value,
    /// How it is written.
    pub encoding: Encoding,
    /// Further headers.
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// A `chat.completions` request of normal priority with one user message. Let `text` differ between requests: it
    /// is what the provider's log tells them apart by.
    pub fn chat(identity: &Identity, model: &str, text: &str) -> Self {
        let body = json!({"model": model, "messages": [{"role": "user", "content": text}]});
        Self::with_body(identity, body)
    }

    /// A request of normal priority with this body.
    pub fn with_body(identity: &Identity, body: Value) -> Self {
        Self {
            identity: identity.clone(),
            priority: "normal".to_owned(),
            envelope: json!({"id": identity.id, "group": identity.group, "body": body}),
            encoding: Encoding::Json,
            headers: Vec::new(),
        }
    }

    /// The same with another priority.
    #[must_use]
    pub fn priority(mut self, priority: &str) -> Self {
        self.priority = priority.to_owned();
        self
    }

    /// The same with a field of the envelope set, such as `ttl_ms`.
    #[must_use]
    pub fn field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.envelope[name] = value.into();
        self
    }

    /// The same in this encoding.
    #[must_use]
    pub fn encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// The same with a further header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The endpoint's own body inside the envelope.
    pub fn body(&self) -> &Value {
        &self.envelope["body"]
    }

    /// Where it is published.
    pub fn subject(&self) -> String {
        format!("llm.req.{}.{}", self.identity.team, self.priority)
    }

    /// What is published.
    pub fn payload(&self) -> Bytes {
        encode(&self.envelope, self.encoding)
    }

    /// The headers it is published with.
    pub fn header_map(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if self.encoding == Encoding::MessagePack {
            headers.insert("Content-Type", "application/msgpack");
        }
        for (name, value) in &self.headers {
            headers.insert(name.as_str(), value.as_str());
        }
        headers
    }
}

/// A value in one of the two encodings.
///
/// # Panics
/// Never: a JSON value can be written as either.
pub fn encode(value: &Value, encoding: Encoding) -> Bytes {
    let bytes = match encoding {
        Encoding::Json => serde_json::to_vec(value).expect("a JSON value can be written"),
        Encoding::MessagePack => rmp_serde::to_vec_named(value).expect("a JSON value can be written"),
    };
    bytes.into()
}

/// A payload read by its `Content-Type`, which is JSON if there is none.
///
/// # Errors
/// Says what is wrong with a payload that is not what its header promises.
pub fn decode(headers: &HeaderMap, payload: &[u8]) -> Result<Value, String> {
    match headers.get("Content-Type").map(|value| value.as_str()) {
        Some("application/msgpack") => rmp_serde::from_slice(payload).map_err(|error| error.to_string()),
        _ => serde_json::from_slice(payload).map_err(|error| error.to_string()),
    }
}
