//! How far the fold has come.

use serde::{Deserialize, Serialize};
use tollgate_protocol::Sequence;

use crate::row::{self, Row};
use crate::store::Error;

/// Written with every batch, in the batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The last sequence of the usage stream that is in the totals.
    pub cursor: Sequence,
    /// The newest time at which the server stored a message, in milliseconds since 1970.
    pub watermark_ms: i64,
    /// The sum over everything: what the rows of the main table must add up to.
    pub total: Row,
    /// Messages that were no usage event.
    pub skipped: u64,
    /// Sequences that never came, because the stream no longer had them.
    pub missing: u64,
    /// Where the sweep over old ids goes on; empty: at the beginning.
    pub sweep: Vec<u8>,
}

impl State {
    /// As stored.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        row::encode(1, self)
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        row::decode(1, bytes, "the state")
    }
}
