//! The ledger's place in the data folder: `ledger/`, its lock, and what a rebuild does there.
//!
//! The lock is a file beside the folder and not in it, so that it is held while one folder takes the place
//! of another, and also when the store in the folder cannot be opened at all.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use crate::Error;

/// Where a rebuild works.
const WORKSHOP: &str = "ledger.rebuilding";
/// What a rebuild has finished, until it is in the ledger's place.
const REBUILT: &str = "ledger.rebuilt";

/// The right to work on the ledger of a data folder; given up when dropped, also by a crash.
#[derive(Debug)]
pub struct Home {
    data: PathBuf,
    _lock: File,
}

impl Home {
    /// Takes the ledger of `data`, which is created if absent. Fails if another process has it.
    pub fn claim(data: &Path) -> Result<Self, Error> {
        let failed = |what| move |source| Error::Folder { what, path: data.to_owned(), source };
        std::fs::create_dir_all(data).map_err(failed("create the data folder"))?;
        let lock = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(data.join("ledger.lock"))
            .map_err(failed("write to the data folder"))?;
        match lock.try_lock() {
            Ok(()) => {
                let home = Self { data: data.to_owned(), _lock: lock };
                home.repair()?;
                Ok(home)
            }
            Err(TryLockError::WouldBlock) => Err(Error::InUse(data.join("ledger"))),
            Err(TryLockError::Error(source)) => Err(failed("lock the ledger in")(source)),
        }
    }

    /// The ledger's folder.
    pub fn folder(&self) -> PathBuf {
        self.data.join("ledger")
    }

    /// The folder in which a rebuild works. What an earlier one left unfinished is thrown away.
    pub fn workshop(&self) -> Result<PathBuf, Error> {
        for name in [WORKSHOP, REBUILT] {
            let path = self.data.join(name);
            match std::fs::remove_dir_all(&path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::Folder { what: "clear", path, source });
                }
                _ => {}
            }
        }
        Ok(self.data.join(WORKSHOP))
    }

    /// Puts what is in the workshop in the ledger's place. The old folder is kept under the returned name.
    ///
    /// A crash between the steps is repaired by the next [`Self::claim`]: a folder is called
    /// `ledger.rebuilt` only if it is complete.
    pub fn swap(&self) -> Result<Option<PathBuf>, Error> {
        let folder = self.folder();
        rename(&self.data.join(WORKSHOP), &self.data.join(REBUILT))?;
        let kept = if folder.exists() {
            let mut names = (1_u32..).map(|number| self.data.join(format!("ledger.old-{number}")));
            let kept = names.find(|path| !path.exists()).unwrap_or_else(|| self.data.join("ledger.old"));
            rename(&folder, &kept)?;
            Some(kept)
        } else {
            None
        };
        self.repair()?;
        Ok(kept)
    }

    /// The last step of a swap.
    fn repair(&self) -> Result<(), Error> {
        let rebuilt = self.data.join(REBUILT);
        if rebuilt.exists() && !self.folder().exists() {
            rename(&rebuilt, &self.folder())?;
        }
        Ok(())
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    std::fs::rename(from, to).map_err(|source| Error::Folder {
        what: "rename",
        path: from.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let data = tempfile::tempdir().unwrap();
        let home = Home::claim(data.path()).unwrap();
        let error = Home::claim(data.path()).unwrap_err();
        assert!(error.to_string().contains("in use by another process"), "{error}");
        drop(home);
        Home::claim(data.path()).unwrap();
    }

    #[test]
    fn a_swap_keeps_every_old_folder() {
        let data = tempfile::tempdir().unwrap();
        let home = Home::claim(data.path()).unwrap();
        let build = |content: &str| {
            let workshop = home.workshop().unwrap();
            std::fs::create_dir(&workshop).unwrap();
            std::fs::write(workshop.join("content"), content).unwrap();
        };
        let read = |folder: &Path| std::fs::read_to_string(folder.join("content")).unwrap();
        build("first");
        build("one");
        assert_eq!(home.swap().unwrap(), None);
        assert_eq!(read(&home.folder()), "one", "what an interrupted rebuild left is thrown away");
        for (content, old) in [("two", "ledger.old-1"), ("three", "ledger.old-2")] {
            build(content);
            assert_eq!(home.swap().unwrap(), Some(data.path().join(old)));
            assert_eq!(read(&home.folder()), content);
        }
        assert_eq!(read(&data.path().join("ledger.old-1")), "one");
    }

    #[test]
    fn a_swap_that_was_cut_short_is_finished_by_the_next_process() {
        let data = tempfile::tempdir().unwrap();
        let rebuilt = data.path().join(REBUILT);
        std::fs::create_dir(&rebuilt).unwrap();
        std::fs::write(rebuilt.join("content"), "new").unwrap();
        let home = Home::claim(data.path()).unwrap();
        assert!(home.folder().join("content").is_file() && !rebuilt.exists());
        // With the old ledger still in its place nothing is touched.
        drop(home);
        std::fs::create_dir(&rebuilt).unwrap();
        let home = Home::claim(data.path()).unwrap();
        assert!(home.folder().join("content").is_file() && rebuilt.exists());
    }
}
