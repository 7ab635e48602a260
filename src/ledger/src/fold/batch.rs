//! One batch: what it has read from the store, and what becomes of it.

use std::collections::BTreeMap;

use tollgate_protocol::usage::{Kind, UsageEvent};

use super::{Caps, Decision, Layout, Lost, Message, Report, Seen, Skipped, State, decide, parse};
use crate::key::Key;
use crate::row::Row;
use crate::store::{Changes, Error, Store, after_prefix};

/// Ids looked at by the sweep for every message of a batch: enough that a round over all ids ends long
/// before as many new ones have come.
pub(super) const SWEEP_PER_MESSAGE: usize = 4;

/// What a batch has read and changed so far: later messages of a batch see what earlier ones did.
pub(super) struct Batch<'a> {
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

impl<'a> Batch<'a> {
    pub(super) fn new(store: &'a dyn Store, caps: Caps, state: State) -> Self {
        Self {
            store,
            caps,
            state,
            rows: BTreeMap::new(),
            counts: BTreeMap::new(),
            seen: BTreeMap::new(),
            skipped: Vec::new(),
            report: Report::default(),
        }
    }

    /// Takes the next message of the stream.
    pub(super) fn message(&mut self, message: &Message) -> Result<(), Error> {
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
        let id = Layout::seen(&event.counted_id());
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
        let lost = (event.kind == Kind::Lost).then(|| Box::new(Lost { row, keys }));
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

    /// Everything there is to write.
    pub(super) fn finish(mut self, messages: usize) -> Result<(State, Changes, Report), Error> {
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
