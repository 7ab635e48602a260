//! The folder of everything that a broker keeps on this machine, and the lock that says whose it is.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// A data folder that this process has for itself. The lock goes with the process, however that ends.
#[derive(Debug)]
pub(super) struct Data {
    folder: PathBuf,
    _lock: File,
}

impl Data {
    /// Makes the folder if it is not there, and takes it.
    pub(super) fn open(folder: &Path) -> Result<Self, Failure> {
        let cannot = |what: &str, error: std::io::Error| {
            Failure::usage(format!(
                "cannot {what} the data folder {}: {error}. Name another with --data",
                folder.display()
            ))
        };
        make(folder).map_err(|error| cannot("make", error))?;
        // Absolute, because the nats-server is told it, and is recognised by it after a crash of ours.
        let folder = folder.canonicalize().map_err(|error| cannot("open", error))?;
        let mut lock = open_lock(&folder.join("lock")).map_err(|error| cannot("lock", error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(&folder, &mut lock)),
            Err(TryLockError::Error(error)) => return Err(cannot("lock", error)),
        }
        note_owner(&mut lock).map_err(|error| cannot("write to", error))?;
        Ok(Self { folder, _lock: lock })
    }

    /// The folder itself, absolute. The ledger makes a place of its own in it.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the own nats-server keeps its streams.
    pub(super) fn nats(&self) -> PathBuf {
        self.folder.join("nats")
    }

    /// What the own nats-server has to say.
    pub(super) fn nats_log(&self) -> PathBuf {
        self.folder.join("nats-server.log")
    }

    /// Which nats-server was started last.
    pub(super) fn nats_record(&self) -> PathBuf {
        self.folder.join("nats.json")
    }
}

/// Makes a folder for this user only: prompts and answers are in it.
pub(super) fn make(folder: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Opens a lock file without emptying it: its owner's process id may be in it.
pub(super) fn open_lock(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

fn note_owner(lock: &mut File) -> std::io::Result<()> {
    lock.set_len(0)?;
    lock.seek(SeekFrom::Start(0))?;
    writeln!(lock, "{}", std::process::id())
}

fn in_use(folder: &Path, lock: &mut File) -> Failure {
    let mut owner = String::new();
    // Only for the message: an owner that cannot be read is an unknown one.
    let _ = lock.read_to_string(&mut owner);
    let owner = match owner.trim() {
        "" => "another tollgate".to_owned(),
        pid => format!("another tollgate (process {pid})"),
    };
    Failure::usage(format!(
        "{owner} uses the data folder {}. End it, or name another folder with --data",
        folder.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_folder_has_one_owner_at_a_time() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = parent.path().join("a b").join("data");
        let first = Data::open(&folder).expect("the first one gets it");
        let mode = std::fs::metadata(&folder).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let failure = Data::open(&folder).expect_err("the second one does not");
        assert!(failure.message.contains(&format!("process {}", std::process::id())), "{failure}");
        drop(first);
        Data::open(&folder).expect("now it is free");
    }
}
