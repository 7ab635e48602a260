//! What is remembered about an id that has been counted.

use serde::{Deserialize, Serialize};
use tollgate_protocol::request::TTL_MS_MAX;

use crate::row::{self, Row};
use crate::store::Error;

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// How long ids are remembered, in milliseconds of the stream's time: the longest deadline and two days for
/// the response after it. After that nothing is left that could publish the event again.
#[expect(clippy::cast_possible_wrap, reason = "seven days")]
pub const SEEN_MS: i64 = TTL_MS_MAX as i64 + 2 * DAY_MS;

/// An id that has been counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// When its event was stored in the stream, in milliseconds since 1970.
    pub stored_at_ms: i64,
    /// What it added, if that may still be replaced.
    pub lost: Option<Box<Lost>>,
}

/// What a `lost` event added, and where: a row for what is beyond a cap depends on what came before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// What it added to each row.
    pub row: Row,
    /// The encoded keys of the rows.
    pub keys: Vec<Vec<u8>>,
}

impl Seen {
    /// Whether it may be forgotten at `watermark_ms`, the stream's time.
    pub fn is_old(&self, watermark_ms: i64) -> bool {
        self.stored_at_ms.saturating_add(SEEN_MS) < watermark_ms
    }

    /// As stored.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        row::encode(1, self)
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        row::decode(1, bytes, "a counted id")
    }
}
