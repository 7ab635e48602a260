//! Entries of `LLM_RECORD`: who has claimed a request, and what comes next for it.
//!
//! Every write is fenced by the last sequence over run record and response together, so that claim, answer,
//! cancellation and expiry of one request exclude each other. The answer's own facts stand in its headers.

use serde::{Deserialize, Serialize};

use crate::header::{self, Headers};
use crate::response::{Attempt, Status};
use crate::{Digest, NanoUsd, Sequence, Timestamp};

/// A stored message, as the proof of who is allowed to continue.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Source {
    /// The stream it is stored in.
    pub stream: String,
    /// Its sequence there.
    pub sequence: Sequence,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.stream, self.sequence)
    }
}

impl Source {
    /// Reads the form that [`std::fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        let (stream, sequence) = text.rsplit_once(':')?;
        Some(Self { stream: stream.into(), sequence: sequence.parse().ok()? })
    }
}

/// What is in `llm.run.<identity>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Entry {
    /// A worker is about to call, or calls, a provider.
    Started(Started),
    /// The call is over and the request goes on elsewhere.
    Ended(Ended),
}

/// A claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The attempt that begins.
    pub attempt: u32,
    /// The message in the claimant's hands.
    pub from: Source,
    /// The process that claimed; new for each start.
    pub owner: String,
    /// Digest of the request.
    pub digest: Digest,
    /// When the request was accepted, by the copy of it that goes on: all events about it say this time, whoever
    /// publishes them.
    pub accepted_at: Timestamp,
    /// The request's deadline.
    pub deadline: Timestamp,
    /// The provider that is called.
    pub provider: String,
    /// The model that is called.
    pub model: String,
    /// What the attempt is taken to cost if it is lost.
    pub estimate: Estimate,
    /// When the claim was written, by the claimant's clock.
    pub started_at: Timestamp,
    /// The attempts before this one.
    pub history: Vec<Attempt>,
}

/// What an attempt is expected to use, before it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// Input tokens.
    pub input_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Cost.
    pub cost_nano_usd: NanoUsd,
    /// The price of the cost.
    pub price_version: String,
}

/// An attempt is over, and what follows is described before it is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The attempt that ended.
    pub attempt: u32,
    /// The message in the writer's hands.
    pub from: Source,
    /// Digest of the request.
    pub digest: Digest,
    /// When the request was accepted, by the copy of it that goes on: all events about it say this time, whoever
    /// publishes them.
    pub accepted_at: Timestamp,
    /// The request's deadline.
    pub deadline: Timestamp,
    /// What comes next.
    pub next: Next,
    /// All attempts up to now, the ended one last.
    pub history: Vec<Attempt>,
}

/// Where a request goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "to", rename_all = "lowercase")]
pub enum Next {
    /// The same message is delivered again after a delay.
    Retry {
        /// Milliseconds, at most a quarter of a second.
        delay_ms: u64,
    },
    /// Another target of the request.
    Fallback {
        /// Index into the request's targets.
        target: usize,
    },
    /// It waits for a time, as a schedule in the retry stream; then the routers choose a target.
    Later {
        /// When it is due.
        at: Timestamp,
    },
    /// No target of it is up: it waits in the retry stream until the routers release it.
    Hold,
}

/// Why a request is a dead letter: a person may want to look at it, and to send it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dead {
    /// Its workers were lost again and again: something about it may be what kills them.
    Poison,
    /// Every target failed it again and again while answering others.
    Exhausted,
}

impl Dead {
    /// The text in headers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Poison => "poison",
            Self::Exhausted => "exhausted",
        }
    }

    /// Reads the text back.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Poison, Self::Exhausted].into_iter().find(|dead| dead.as_str() == text)
    }
}

/// The last entry of a request's record, as read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Last {
    /// Nothing is stored, or no longer.
    None,
    /// Something that this program cannot read, or that was not written for this request: of another
    /// version, or forged. It counts as nothing, but it is what the next write has to expect.
    Foreign {
        /// Its sequence.
        sequence: Sequence,
    },
    /// A claim.
    Started {
        /// Its sequence.
        sequence: Sequence,
        /// The claim.
        started: Started,
    },
    /// A hand-over.
    Ended {
        /// Its sequence.
        sequence: Sequence,
        /// The hand-over.
        ended: Ended,
    },
    /// The terminal response.
    Answered {
        /// Its sequence.
        sequence: Sequence,
        /// The facts of it that the protocol needs.
        answered: Answered,
    },
}

/// What the headers of a stored response say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Digest of the request it answers.
    pub digest: Digest,
    /// How the request ended.
    pub status: Status,
    /// The attempt that ended it; 0 if none.
    pub attempt: u32,
    /// The message it was written for.
    pub from: Source,
    /// Whether the request becomes a dead letter, and why.
    pub dead: Option<Dead>,
}

impl Answered {
    /// As headers of the response.
    pub fn to_headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            (header::DIGEST, self.digest.to_string()),
            (header::STATUS, self.status.as_str().to_owned()),
            (header::ATTEMPT, self.attempt.to_string()),
            (header::FROM, self.from.to_string()),
        ];
        headers.extend(self.dead.map(|dead| (header::DEAD, dead.as_str().to_owned())));
        headers
    }

    /// Reads the headers back. `None` if the message is not one of ours.
    pub fn from_headers<H: Headers + ?Sized>(headers: &H) -> Option<Self> {
        let status = match headers.get(header::STATUS)? {
            "succeeded" => Status::Succeeded,
            "failed" => Status::Failed,
            "rejected" => Status::Rejected,
            "expired" => Status::Expired,
            "cancelled" => Status::Cancelled,
            _ => return None,
        };
        Some(Self {
            digest: Digest::parse(headers.get(header::DIGEST)?)?,
            status,
            attempt: headers.get(header::ATTEMPT)?.parse().ok()?,
            from: Source::parse(headers.get(header::FROM)?)?,
            dead: headers.get(header::DEAD).and_then(Dead::parse),
        })
    }
}
