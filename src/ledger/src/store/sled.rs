//! sled 0.34, pinned: beta by its own word, which is why it only ever holds what can be rebuilt.
//!
//! **Flush policy.** A batch is atomic at once and durable within [`FLUSH_EVERY_MS`]: sled's own thread
//! flushes, and [`Store::flush`] is called when the ledger stops and before a rebuilt ledger takes its
//! place. A crash therefore loses at most the last half second of totals *together with* the cursor that
//! says so, and those events are read from the stream again.
//!
//! All of the ledger is in one tree, because sled recovers one batch of one tree as a whole.

use std::panic::AssertUnwindSafe;
use std::path::Path;

use super::{Changes, Error, Store, Visit};
use crate::Error as Failure;

/// How often sled writes what is new to the disk, in milliseconds.
pub const FLUSH_EVERY_MS: u64 = 500;

/// How much of the store sled keeps in memory, in bytes; its own default is a gigabyte.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// A store in a folder.
#[derive(Debug)]
pub struct SledStore {
    database: ::sled::Db,
}

impl SledStore {
    /// Opens the store in `folder`, or makes one if the folder is absent or empty.
    pub fn open(folder: &Path) -> Result<Self, Failure> {
        refuse_foreign(folder)?;
        let config = ::sled::Config::new()
            .path(folder)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(FLUSH_EVERY_MS));
        // sled asserts while it reads a damaged log; a panic is no answer to a user with a bad disk.
        match std::panic::catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(database)) => Ok(Self { database }),
            Ok(Err(error)) => Err(open_failure(folder, &error)),
            Err(_) => Err(unusable(folder, "it is damaged so badly that sled gave up reading it".into())),
        }
    }
}

fn unusable(folder: &Path, reason: String) -> Failure {
    Failure::Unusable { folder: folder.to_owned(), reason }
}

/// sled would happily put its files beside somebody's photographs.
fn refuse_foreign(folder: &Path) -> Result<(), Failure> {
    let mut entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Failure::Folder { what: "read", path: folder.to_owned(), source }),
    };
    if entries.next().is_some() && !(folder.join("db").is_file() && folder.join("conf").is_file()) {
        return Err(unusable(folder, "it holds files that are not a ledger's".into()));
    }
    Ok(())
}

fn open_failure(folder: &Path, error: &::sled::Error) -> Failure {
    match error {
        ::sled::Error::Io(io) if io.to_string().contains("could not acquire lock") => {
            Failure::InUse(folder.to_owned())
        }
        ::sled::Error::Io(io) => Failure::Folder {
            what: "open the store in",
            path: folder.to_owned(),
            source: std::io::Error::new(io.kind(), io.to_string()),
        },
        other => unusable(folder, other.to_string()),
    }
}

impl Store for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.database.get(key).map_err(Error::engine)?.map(|value| value.to_vec()))
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        if start >= end {
            return Ok(());
        }
        for entry in self.database.range(start..end) {
            let (key, value) = entry.map_err(Error::engine)?;
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, changes: &Changes) -> Result<(), Error> {
        let mut batch = ::sled::Batch::default();
        for (key, value) in changes.iter() {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.database.apply_batch(batch).map_err(Error::engine)
    }

    fn flush(&self) -> Result<(), Error> {
        self.database.flush().map(drop).map_err(Error::engine)
    }

    fn clear(&self) -> Result<(), Error> {
        self.database.clear().map_err(Error::engine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::open_again;

    #[test]
    fn a_second_opening_of_the_same_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _first = SledStore::open(folder.path()).unwrap();
        let second = SledStore::open(folder.path()).unwrap_err();
        assert!(matches!(second, Failure::InUse(_)), "{second}");
    }

    #[test]
    fn a_folder_with_other_files_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("holiday.jpg"), b"not ours").unwrap();
        let error = SledStore::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains("tollgate ledger rebuild"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_folder_gives_an_error_that_says_what_to_do() {
        for damage in [
            |folder: &Path| std::fs::write(folder.join("conf"), [0; 64]).unwrap(),
            |folder: &Path| {
                std::fs::write(folder.join("conf"), b"version: 9.9\nsegment_size: x\n....").unwrap()
            },
        ] {
            let folder = tempfile::tempdir().unwrap();
            drop(SledStore::open(folder.path()).unwrap());
            damage(folder.path());
            let error = open_again(folder.path()).unwrap_err();
            assert!(error.to_string().contains("tollgate ledger rebuild"), "{error}");
        }
    }
}
