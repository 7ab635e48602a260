//! One store, folded into and asked.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use tollgate_protocol::{Sequence, Timestamp};

use crate::Error;
use crate::fold::{self, Caps, Layout, Message, Report, Skipped, State};
use crate::key::Table;
use crate::query::{Query, Sums, answer};
use crate::row::Row;
use crate::store::{self, Changes, Store, after_prefix};

/// What is written into a new store. Another value is another layout: rebuild.
const FORMAT: &[u8] = b"tollgate-ledger/1";

/// The totals of one usage stream.
pub struct Ledger {
    store: Box<dyn Store>,
    folder: PathBuf,
    caps: Caps,
    /// Taken to write by each batch and to read by each query, so that an answer is the totals at exactly
    /// one cursor. A query delays the fold by its own duration and no more.
    consistent: RwLock<()>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Ledger {
    /// Works on `store`, which must be empty or a ledger's. `folder` is for error messages.
    pub fn open(store: Box<dyn Store>, folder: &Path, caps: Caps) -> Result<Self, Error> {
        let unusable = |reason: &str| Error::Unusable { folder: folder.to_owned(), reason: reason.into() };
        match store.get(Layout::FORMAT)? {
            Some(format) if format == FORMAT => {}
            Some(_) => return Err(unusable("it was written by another version of Tollgate")),
            None if is_empty(store.as_ref())? => {
                let mut changes = Changes::default();
                changes.put(Layout::FORMAT.to_vec(), FORMAT.to_vec());
                store.apply(&changes)?;
            }
            None => return Err(unusable("its store is not a ledger's")),
        }
        let ledger = Self { store, folder: folder.to_owned(), caps, consistent: RwLock::new(()) };
        ledger.state()?;
        Ok(ledger)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How far it is, and the sum of everything.
    pub fn state(&self) -> Result<State, store::Error> {
        Ok(self.store.get(Layout::STATE)?.map(|bytes| State::decode(&bytes)).transpose()?.unwrap_or_default())
    }

    /// The last sequence that is in the totals.
    pub fn cursor(&self) -> Result<Sequence, store::Error> {
        Ok(self.state()?.cursor)
    }

    /// Folds messages, in one transaction. Messages at or before the cursor change nothing.
    pub fn fold(&self, messages: &[Message]) -> Result<Report, store::Error> {
        let _alone = self.consistent.write().unwrap_or_else(PoisonError::into_inner);
        let (_, changes, report) = fold::fold(self.store.as_ref(), self.caps, self.state()?, messages)?;
        self.store.apply(&changes)?;
        Ok(report)
    }

    /// Goes on after `sequence`, because the stream no longer has what is before. Returns how many
    /// sequences that leaves out.
    pub fn skip_to(&self, sequence: Sequence) -> Result<u64, store::Error> {
        let _alone = self.consistent.write().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state()?;
        let missing = sequence.saturating_sub(state.cursor);
        if missing > 0 {
            state.missing += missing;
            state.cursor = sequence;
            let mut changes = Changes::default();
            changes.put(Layout::STATE.to_vec(), state.encode()?);
            self.store.apply(&changes)?;
        }
        Ok(missing)
    }

    /// Answers a query with the totals at one cursor, which is returned with it.
    pub fn query(&self, query: &Query) -> Result<(Sums, State), store::Error> {
        let _unchanged = self.consistent.read().unwrap_or_else(PoisonError::into_inner);
        Ok((answer(self.store.as_ref(), query)?, self.state()?))
    }

    /// The newest messages that could not be read, at most [`fold::SKIPPED_KEPT`].
    pub fn skipped(&self) -> Result<Vec<Skipped>, store::Error> {
        let mut found = Vec::new();
        self.read_all(Layout::SKIPPED, |_, value| {
            found.push(Skipped::decode(value)?);
            Ok(())
        })?;
        found.sort_by_key(|skipped| skipped.index);
        Ok(found)
    }

    /// Checks that the rows of both full tables add up to the total that is stored beside the cursor.
    pub fn verify(&self) -> Result<State, store::Error> {
        let _unchanged = self.consistent.read().unwrap_or_else(PoisonError::into_inner);
        let state = self.state()?;
        for table in [Table::Main, Table::User] {
            let mut sum = Row::default();
            self.read_all(&[table as u8], |_, value| {
                sum.add(&Row::decode(value)?);
                Ok(())
            })?;
            if sum != state.total {
                return Err(store::Error::Unreadable("rows that do not add up to their total, and so"));
            }
        }
        Ok(state)
    }

    /// The stream that is folded, by the time of its creation; remembers `created_at` if there is none yet.
    pub fn adopt_stream(&self, created_at: Timestamp) -> Result<Timestamp, store::Error> {
        if let Some(bytes) = self.store.get(Layout::STREAM)? {
            let millis = bytes.as_slice().try_into().map(i64::from_be_bytes);
            return millis
                .ok()
                .and_then(Timestamp::from_timestamp_millis)
                .ok_or(store::Error::Unreadable("the stream's name"));
        }
        let mut changes = Changes::default();
        changes.put(Layout::STREAM.to_vec(), created_at.timestamp_millis().to_be_bytes().to_vec());
        self.store.apply(&changes)?;
        Ok(created_at)
    }

    /// The store, for what is kept beside the totals.
    pub(crate) fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// Visits every entry under a prefix.
    pub(crate) fn each(
        &self,
        prefix: &[u8],
        each: impl FnMut(&[u8], &[u8]) -> Result<(), store::Error>,
    ) -> Result<(), store::Error> {
        self.read_all(prefix, each)
    }

    /// Returns once everything folded so far is on the disk.
    pub fn flush(&self) -> Result<(), store::Error> {
        self.store.flush()
    }

    fn read_all(
        &self,
        prefix: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), store::Error>,
    ) -> Result<(), store::Error> {
        let mut outcome = Ok(());
        self.store.scan(prefix, &after_prefix(prefix), &mut |key, value| {
            outcome = each(key, value);
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        outcome
    }
}

fn is_empty(store: &dyn Store) -> Result<bool, store::Error> {
    let mut empty = true;
    store.scan(b"", b"\xff", &mut |_, _| {
        empty = false;
        ControlFlow::Break(())
    })?;
    Ok(empty)
}
