//! What the ledger needs of a storage engine, and no more: so that sled can be exchanged.
//!
//! Keys and values are bytes; meaning is given to them elsewhere. There is one writer (the fold), so reads
//! before a write need no transaction of their own: only the write has to be all or nothing.

use std::ops::ControlFlow;

pub mod memory;
pub mod sled;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod crash;

/// The store failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine reports a failure.
    #[error("the ledger's store failed")]
    Engine(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What was read cannot be what was written.
    #[error("the ledger's store holds {0} that cannot be read; `tollgate ledger rebuild` makes it anew")]
    Unreadable(&'static str),
}

impl Error {
    /// A failure of the engine.
    pub fn engine(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Engine(source.into())
    }
}

/// Writes that happen together or not at all. A later write to the same key wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes(Vec<(Vec<u8>, Option<Vec<u8>>)>);

impl Changes {
    /// Writes `value` to `key`.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.0.push((key, Some(value)));
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.0.push((key, None));
    }

    /// The writes in order; `None` removes.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.0.iter().map(|(key, value)| (key.as_slice(), value.as_deref()))
    }

    /// How many writes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What [`Store::scan`] calls for each entry.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// An ordered map of bytes with atomic batches.
pub trait Store: Send + Sync {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;

    /// Visits the entries from `start` (included) to `end` (excluded) in the order of their keys, until
    /// `visit` breaks. Not a snapshot: the caller keeps writers away if it needs one.
    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) -> Result<(), Error>;

    /// Writes all of `changes`, or nothing: also after a crash, and seen from other threads.
    fn apply(&self, changes: &Changes) -> Result<(), Error>;

    /// Returns once everything applied so far survives the death of this process and of the machine.
    fn flush(&self) -> Result<(), Error>;

    /// Removes everything.
    fn clear(&self) -> Result<(), Error>;
}

/// The first key after all keys that begin with `prefix`, which must not be all `0xff`.
pub fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}
