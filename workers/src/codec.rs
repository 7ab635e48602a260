//! Between our request and a provider's HTTP. Pure: bytes in, bytes out; the runner does all IO.

use bytes::Bytes;
use tollgate_policy::failure::Class;
use tollgate_policy::quota::Left;
use tollgate_protocol::job::Job;
use tollgate_protocol::{JsonText, Problem, TokenUsage};

/// How a provider is spoken to.
pub trait Codec: Send + Sync {
    /// The call for a request, to the given model of the provider.
    fn request(&self, job: &Job, model: &str) -> Result<Call, Problem>;

    /// What the provider's answer means.
    fn read(&self, answer: &Answer) -> Reading;
}

/// A `POST` with a JSON body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// After the provider's base URL, with a slash in front.
    pub path: &'static str,
    /// Headers beside the credentials and the content type.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Bytes,
}

/// What came back, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// `retry-after-ms`, or `Retry-After` in seconds or as a date, as milliseconds from now.
    pub retry_after_ms: Option<u64>,
    /// What the provider says is left of its limits.
    pub left: Vec<Left>,
    /// The body.
    pub body: Bytes,
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    /// The model answered.
    Answered {
        /// The answer as the provider wrote it.
        body: JsonText,
        /// What the provider counted; `None` if it did not say.
        usage: Option<TokenUsage>,
        /// The model that the provider says served the call.
        served_model: Option<String>,
    },
    /// The call failed.
    Failed(Failure),
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure.
    pub class: Class,
    /// For the client: the provider's own words, cut. Never logged.
    pub message: String,
}

impl Failure {
    /// A failure in our own words.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into() }
    }
}
