//! The rule for sums, as a function: messages and what is stored → changes.
//!
//! Each `ce-id` counts once. An `attempt` beats a `lost`: what the lost one added is taken away from
//! exactly the rows it was added to, and the attempt is added to its own. Corrections have ids of their own
//! and add, signed. So the totals are the same for every order and any repetition of the same events.
//!
//! Two *different* events of one id and kind cannot be told apart by their effect; there the first in the
//! stream counts, and a replay counts the same one.
//!
//! Knows nothing of NATS and of clocks: time is when the server stored each message.

use tollgate_protocol::usage::Kind;
use tollgate_protocol::{Sequence, Timestamp};

use crate::store::{Changes, Error, Store};

mod batch;
mod layout;
mod parse;
mod seen;
mod state;

#[cfg(test)]
mod tests;

use batch::Batch;
pub use layout::{Layout, SKIPPED_KEPT, Skipped};
pub use parse::parse;
pub use seen::{Lost, SEEN_MS, Seen};
pub use state::State;

/// A message of the usage stream.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its sequence.
    pub sequence: Sequence,
    /// When the server stored it.
    pub stored_at: Timestamp,
    /// Its bytes; normally the JSON of a usage event.
    pub payload: bytes::Bytes,
}

/// Most rows per team and hour, so that no client decides how large the ledger becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Rows of the main table, beyond which `project` and `requested_model` are no longer told apart.
    pub main: u32,
    /// Users.
    pub users: u32,
    /// Pairs of tag name and value.
    pub tags: u32,
    /// Tag names that get an *other* row once `tags` is reached.
    pub tag_names: u32,
}

impl Default for Caps {
    fn default() -> Self {
        Self { main: 10_000, users: 1_000, tags: 1_000, tag_names: 100 }
    }
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Attempts that were added.
    pub attempts: u64,
    /// Of these, the ones that replaced a `lost`.
    pub replaced: u64,
    /// Lost calls that were added.
    pub lost: u64,
    /// Requests without a final attempt that were added.
    pub unpaid: u64,
    /// Corrections that were added.
    pub corrections: u64,
    /// Events whose id had been counted, and messages at or before the cursor.
    pub repeated: u64,
    /// Messages that are no usage event.
    pub skipped: u64,
    /// Sequences that never came.
    pub missing: u64,
    /// Ids that were old enough to be forgotten.
    pub forgotten: u64,
}

impl Report {
    /// Events that were added to the totals.
    pub fn added(&self) -> u64 {
        self.attempts + self.lost + self.unpaid + self.corrections
    }
}

/// What to do with an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It counts already.
    Ignore,
    /// It is new.
    Add,
    /// It takes the place of this one.
    Replace(Box<Lost>),
}

/// The rule for one event, given what is stored about its id.
pub fn decide(kind: Kind, seen: Option<Seen>) -> Decision {
    match (kind, seen) {
        (_, None) => Decision::Add,
        (Kind::Attempt, Some(Seen { lost: Some(lost), .. })) => Decision::Replace(lost),
        (_, Some(_)) => Decision::Ignore,
    }
}

/// Folds `messages`, which are in the order of the stream, into `state` and what `store` holds. Reads only.
pub fn fold(
    store: &dyn Store,
    caps: Caps,
    state: State,
    messages: &[Message],
) -> Result<(State, Changes, Report), Error> {
    let mut batch = Batch::new(store, caps, state);
    for message in messages {
        batch.message(message)?;
    }
    batch.finish(messages.len())
}
