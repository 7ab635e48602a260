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

use std::collections::BTreeMap;

use tollgate_protocol::usage::{Kind, UsageEvent};
use tollgate_protocol::{Sequence, Timestamp};

use crate::key::Key;
use crate::row::Row;
use crate::store::{Changes, Error, Store, after_prefix};

mod layout;
mod parse;
mod seen;
mod state;

#[cfg(test)]
mod tests;

pub use layout::{Layout, SKIPPED_KEPT, Skipped};
pub use parse::parse;
pub use seen::{Lost, SEEN_MS, Seen};
pub use state::State;

/// Ids looked at by the sweep for every message of a batch: enough that a round over all ids ends long
/// before as many new ones have come.
const SWEEP_PER_MESSAGE: usize = 4;

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
    Replace(Lost),
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
    let mut batch = Batch {
        store,
        caps,
        state,
        rows: BTreeMap::new(),
        counts: BTreeMap::new(),
        seen: BTreeMap::new(),
        skipped: Vec::new(),
        report: Report::default(),
    };
    for message in messages {
        batch.message(message)?;
    }
    batch.finish(messages.len())
}

/// What a batch has read and changed so far: later messages of a batch see what earlier ones did.
struct Batch<'a> {
    store: &'a dyn Store,
    caps: Caps,
    state: State,
    rows: BTreeMap<Vec<u8>, Cell<Row>>,
    counts: BTreeMap<Vec<u8>, Cell<u32>>,
    seen: BTreeMap<Vec<u8>, Cell<Seen>>,
    skipped: Vec<Skipped>,
    report: Report,
}

/// A value as stored, and as it will be.
struct Cell<T> {
    stored: Option<T>,
    now: Option<T>,
}

impl<T: Clone + PartialEq> Cell<T> {
    fn new(stored: Option<T>) -> Self {
        Self { now: stored.clone(), stored }
    }

    fn write(
        &self,
        key: &[u8],
        changes: &mut Changes,
        encode: impl Fn(&T) -> Result<Vec<u8>, Error>,
    ) -> Result<(), Error> {
        match &self.now {
            _ if self.now == self.stored => {}
            Some(value) => changes.put(key.to_vec(), encode(value)?),
            None => changes.delete(key.to_vec()),
        }
        Ok(())
    }
}

impl Batch<'_> {
    fn message(&mut self, message: &Message) -> Result<(), Error> {
        if message.sequence <= self.state.cursor {
            self.report.repeated += 1;
            return Ok(());
        }
        let missing = message.sequence - self.state.cursor - 1;
        self.report.missing += missing;
        self.state.missing += missing;
        self.state.cursor = message.sequence;
        self.state.watermark_ms = self.state.watermark_ms.max(message.stored_at.timestamp_millis());
        match parse(&message.payload) {
            Ok(event) => self.event(&event),
            Err(reason) => {
                self.report.skipped += 1;
                self.skipped.push(Skipped { index: self.state.skipped, sequence: message.sequence, reason });
                self.state.skipped += 1;
                Ok(())
            }
        }
    }

    fn event(&mut self, event: &UsageEvent) -> Result<(), Error> {
        let id = Layout::seen(&event.ce_id());
        match decide(event.kind, self.seen(&id)?) {
            Decision::Ignore => {
                self.report.repeated += 1;
                return Ok(());
            }
            Decision::Add => {}
            Decision::Replace(lost) => {
                self.report.replaced += 1;
                self.state.total.subtract(&lost.row);
                for key in &lost.keys {
                    self.change_row(&Key::decode(key)?, |row| row.subtract(&lost.row))?;
                }
            }
        }
        match event.kind {
            Kind::Attempt => self.report.attempts += 1,
            Kind::Lost => self.report.lost += 1,
            Kind::Unpaid => self.report.unpaid += 1,
            Kind::Correction => self.report.corrections += 1,
        }
        let row = Row::of(event);
        self.state.total.add(&row);
        let mut keys = Vec::new();
        for wanted in Key::of(event) {
            if let Some(key) = self.place(wanted)? {
                self.change_row(&key, |sums| sums.add(&row))?;
                keys.push(key.encode());
            }
        }
        let lost = (event.kind == Kind::Lost).then_some(Lost { row, keys });
        let seen = Seen { stored_at_ms: self.state.watermark_ms, lost };
        self.seen.entry(id).or_insert_with(|| Cell::new(None)).now = Some(seen);
        Ok(())
    }

    /// What is stored about an id. What is too old to be remembered counts as forgotten, whether or not
    /// the sweep has come by: otherwise the totals would depend on the sizes of batches.
    fn seen(&mut self, id: &[u8]) -> Result<Option<Seen>, Error> {
        let cell = match self.seen.get(id) {
            Some(cell) => cell,
            None => {
                let stored = self.store.get(id)?.map(|bytes| Seen::decode(&bytes)).transpose()?;
                self.seen.entry(id.to_vec()).or_insert(Cell::new(stored))
            }
        };
        Ok(cell.now.clone().filter(|seen| !seen.is_old(self.state.watermark_ms)))
    }

    /// The row that takes an event: its own if there is one or room for one, else the one for what is
    /// beyond the cap.
    fn place(&mut self, wanted: Key) -> Result<Option<Key>, Error> {
        let mut next = Some(wanted);
        while let Some(key) = next {
            let has_room = match Layout::cap(&key, &self.caps) {
                Some(cap) => self.count(&key)? < cap,
                None => true,
            };
            if has_room || self.row(&key.encode())?.is_some() {
                return Ok(Some(key));
            }
            next = key.overflow();
        }
        Ok(None)
    }

    fn row(&mut self, key: &[u8]) -> Result<Option<&Row>, Error> {
        if !self.rows.contains_key(key) {
            let stored = self.store.get(key)?.map(|bytes| Row::decode(&bytes)).transpose()?;
            self.rows.insert(key.to_vec(), Cell::new(stored));
        }
        Ok(self.rows.get(key).and_then(|cell| cell.now.as_ref()))
    }

    /// Changes a row. A row of nothing but zeros is removed, and makes room under the cap.
    fn change_row(&mut self, key: &Key, change: impl FnOnce(&mut Row)) -> Result<(), Error> {
        let bytes = key.encode();
        let before = self.row(&bytes)?.cloned();
        let (was_there, mut row) = (before.is_some(), before.unwrap_or_default());
        change(&mut row);
        let is_there = !row.is_zero();
        if let Some(cell) = self.rows.get_mut(&bytes) {
            cell.now = is_there.then_some(row);
        }
        let count = self.count(key)?;
        let count = match (was_there, is_there) {
            (false, true) => count + 1,
            (true, false) => count.saturating_sub(1),
            _ => return Ok(()),
        };
        if let Some(cell) = self.counts.get_mut(&Layout::count(key)) {
            cell.now = (count > 0).then_some(count);
        }
        Ok(())
    }

    /// How many rows there are of this one's kind, in its table, hour and team.
    fn count(&mut self, key: &Key) -> Result<u32, Error> {
        let bytes = Layout::count(key);
        let cell = match self.counts.get(&bytes) {
            Some(cell) => cell,
            None => {
                let stored = self.store.get(&bytes)?.map(|bytes| Layout::decode_count(&bytes)).transpose()?;
                self.counts.entry(bytes).or_insert(Cell::new(stored))
            }
        };
        Ok(cell.now.unwrap_or(0))
    }

    fn finish(mut self, messages: usize) -> Result<(State, Changes, Report), Error> {
        let mut changes = Changes::default();
        self.sweep(SWEEP_PER_MESSAGE * messages, &mut changes)?;
        for (key, cell) in &self.rows {
            cell.write(key, &mut changes, Row::encode)?;
        }
        for (key, cell) in &self.counts {
            cell.write(key, &mut changes, |count| Ok(count.to_be_bytes().to_vec()))?;
        }
        for (key, cell) in &self.seen {
            cell.write(key, &mut changes, Seen::encode)?;
        }
        for skipped in &self.skipped {
            changes.put(Layout::skipped(skipped.index), skipped.encode()?);
        }
        changes.put(Layout::STATE.to_vec(), self.state.encode()?);
        Ok((self.state, changes, self.report))
    }

    /// Looks at the next few ids and forgets the old ones: a bounded piece of a walk without end.
    fn sweep(&mut self, mut steps: usize, changes: &mut Changes) -> Result<(), Error> {
        let end = after_prefix(Layout::SEEN);
        let start =
            if self.state.sweep.is_empty() { Layout::SEEN.to_vec() } else { self.state.sweep.clone() };
        let (mut next, mut old, mut failure) = (Vec::new(), Vec::new(), None);
        self.store.scan(&start, &end, &mut |key, value| {
            if steps == 0 {
                next = key.to_vec();
                return std::ops::ControlFlow::Break(());
            }
            steps -= 1;
            match Seen::decode(value) {
                Ok(seen) if seen.is_old(self.state.watermark_ms) => old.push(key.to_vec()),
                Ok(_) => {}
                Err(error) => failure = Some(error),
            }
            std::ops::ControlFlow::Continue(())
        })?;
        if let Some(error) = failure {
            return Err(error);
        }
        self.state.sweep = next;
        for key in old {
            // What this batch has counted anew is not old any more; its write comes after this one.
            self.report.forgotten += 1;
            changes.delete(key);
        }
        Ok(())
    }
}
