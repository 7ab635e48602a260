//! Keys of what is stored besides rows.

use serde::{Deserialize, Serialize};
use tollgate_protocol::{Digest, Sequence};

use super::Caps;
use crate::key::{Key, Table};
use crate::row;
use crate::store::Error;

/// How many unreadable messages are remembered by their sequence; the newest replace the oldest.
pub const SKIPPED_KEPT: u64 = 1_000;

/// Ids longer than this, in bytes, are kept as their digest.
const ID_LENGTH_MAX: usize = 400;

/// Where things are.
pub struct Layout;

impl Layout {
    /// What the store's contents are: checked when it is opened.
    pub const FORMAT: &[u8] = b"mformat";
    /// The one record that says how far the fold has come.
    pub const STATE: &[u8] = b"mstate";
    /// Which stream was folded.
    pub const STREAM: &[u8] = b"mstream";
    /// The prefix of all counted ids.
    pub const SEEN: &[u8] = b"s";
    /// The prefix of what could not be read.
    pub const SKIPPED: &[u8] = b"x";

    /// What is known about an id.
    pub fn seen(ce_id: &str) -> Vec<u8> {
        if ce_id.len() <= ID_LENGTH_MAX {
            [Self::SEEN, ce_id.as_bytes()].concat()
        } else {
            // Such a team or correction is nobody's that was configured; `#` is in no other id.
            [Self::SEEN, b"#", Digest::of(ce_id.as_bytes()).to_string().as_bytes()].concat()
        }
    }

    /// A message that could not be read.
    pub fn skipped(index: u64) -> Vec<u8> {
        [Self::SKIPPED, &(index % SKIPPED_KEPT).to_be_bytes()].concat()
    }

    /// How many rows like this one a team has in an hour.
    pub fn count(key: &Key) -> Vec<u8> {
        let mut bytes = vec![b'n', key.table() as u8, u8::from(key.is_overflow())];
        bytes.extend(key.hour.to_be_bytes());
        bytes.extend(key.team.as_bytes());
        bytes
    }

    pub(super) fn decode_count(bytes: &[u8]) -> Result<u32, Error> {
        bytes.try_into().map(u32::from_be_bytes).map_err(|_| Error::Unreadable("a count"))
    }

    /// How many rows like this one there may be; `None` if something else bounds them.
    pub fn cap(key: &Key, caps: &Caps) -> Option<u32> {
        match (key.table(), key.is_overflow()) {
            (Table::Main, false) => Some(caps.main),
            (Table::User, false) => Some(caps.users),
            (Table::Tag, false) => Some(caps.tags),
            (Table::Tag, true) => Some(caps.tag_names),
            (Table::Main | Table::User, true) => None,
        }
    }
}

/// A message that is no usage event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Counts them from 0.
    pub index: u64,
    /// Its sequence in the usage stream.
    pub sequence: Sequence,
    /// Why it could not be read.
    pub reason: String,
}

impl Skipped {
    pub(super) fn encode(&self) -> Result<Vec<u8>, Error> {
        row::encode(1, self)
    }

    /// Reads one back.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        row::decode(1, bytes, "a skipped message")
    }
}
