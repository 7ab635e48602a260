//! The output and error file of a batch.
//!
//! Results are appended to `<file>.partial` as they come and the file gets its name at the end, so a file
//! under its own name is always complete. A run that was killed leaves its partial files; the next run keeps
//! what they hold. Two runs at once on the same files are refused by a lock, which the system drops with
//! the process.

use std::collections::HashSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::batch::{self, Answer, Place, Tally};
use crate::failure::Failure;

/// Both files.
#[derive(Debug)]
pub(crate) struct Files {
    out: Part,
    errors: Part,
    tally: Tally,
    /// Results of other batches that were in the partial files.
    dropped: u64,
}

/// What became of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finished {
    /// The output file.
    pub(crate) out: PathBuf,
    /// The error file, if anything failed.
    pub(crate) errors: Option<PathBuf>,
    /// An error file of an earlier run that was removed, because nothing failed this time.
    pub(crate) removed: Option<PathBuf>,
}

#[derive(Debug)]
struct Part {
    path: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
    lines: u64,
}

impl Files {
    /// Opens both files. `wanted` is the id of each request by its `custom_id`: results of these are kept
    /// from an earlier run's files and their `custom_id`s handed to `found`; of an earlier complete run only
    /// the successes, so that failures are looked up again.
    pub(crate) fn open(
        out: &Path,
        errors: &Path,
        wanted: impl Fn(&str) -> Option<String>,
        mut found: impl FnMut(&str),
    ) -> Result<Self, Failure> {
        let mut tally = Tally::default();
        let (mut seen, mut dropped) = (HashSet::new(), 0);
        let mut keeps = |place: Place, line: &[u8]| {
            let Some(kept) = batch::kept(line) else { return false };
            let ours = wanted(&kept.custom_id).is_some_and(|id| id == kept.id);
            if !ours {
                dropped += 1;
                return false;
            }
            let new = seen.insert(kept.id);
            if new {
                tally.add(place, kept.cost, kept.usage);
                found(&kept.custom_id);
            }
            new
        };
        let mut out = Part::open(out, |line| keeps(Place::Out, line))?;
        let errors = Part::open(errors, |line| keeps(Place::Errors, line))?;
        out.copy_finished(|line| keeps(Place::Out, line))?;
        Ok(Self { out, errors, tally, dropped })
    }

    /// Appends a result.
    pub(crate) fn add(&mut self, answer: &Answer) -> Result<(), Failure> {
        let part = match answer.place {
            Place::Out => &mut self.out,
            Place::Errors => &mut self.errors,
        };
        part.append(answer.line.as_bytes())?;
        self.tally.add(answer.place, answer.cost, answer.usage);
        Ok(())
    }

    /// Hands what was appended to the system.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush()?;
        self.errors.flush()
    }

    /// What the files hold.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// How many results of other batches were dropped from partial files.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Where the results are for now.
    pub(crate) fn partial(&self) -> &Path {
        &self.out.partial
    }

    /// Gives the files their names. Without failures there is no error file.
    pub(crate) fn finish(mut self) -> Result<Finished, Failure> {
        self.flush()?;
        let out = self.out.rename()?;
        if self.errors.lines > 0 {
            let errors = self.errors.rename()?;
            return Ok(Finished { out, errors: Some(errors), removed: None });
        }
        let removed = self.errors.path.exists().then(|| self.errors.path.clone());
        for path in [Some(&self.errors.partial), removed.as_ref()].into_iter().flatten() {
            std::fs::remove_file(path).map_err(|error| trouble("remove", path, &error))?;
        }
        Ok(Finished { out, errors: None, removed })
    }
}

impl Part {
    fn open(path: &Path, mut keeps: impl FnMut(&[u8]) -> bool) -> Result<Self, Failure> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&partial)
            .map_err(|error| trouble("write", &partial, &error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::usage(format!(
                    "{} is being written by another tollgate; wait for it, or name other files with --out and --errors",
                    partial.display()
                )));
            }
            // Some network file systems have no locks; that is no reason to refuse to work.
            Err(TryLockError::Error(error)) => {
                tracing::warn!(%error, "{} cannot be locked", partial.display())
            }
        }
        let lines = keep_lines(&mut file, &mut keeps).map_err(|error| trouble("read", &partial, &error))?;
        Ok(Self { path: path.to_owned(), partial, file: BufWriter::with_capacity(256 * 1024, file), lines })
    }

    /// Takes over the lines of the finished file of an earlier run.
    fn copy_finished(&mut self, mut keeps: impl FnMut(&[u8]) -> bool) -> Result<(), Failure> {
        let Ok(finished) = File::open(&self.path) else { return Ok(()) };
        if !finished.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Err(Failure::usage(format!("{} is not a file", self.path.display())));
        }
        for line in BufReader::new(finished).split(b'\n') {
            let line = line.map_err(|error| trouble("read", &self.path, &error))?;
            if keeps(&line) {
                self.append(&line)?;
            }
        }
        Ok(())
    }

    fn append(&mut self, line: &[u8]) -> Result<(), Failure> {
        self.file
            .write_all(line)
            .and_then(|()| self.file.write_all(b"\n"))
            .map_err(|error| trouble("write", &self.partial, &error))?;
        self.lines += 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.file.flush().map_err(|error| trouble("write", &self.partial, &error))
    }

    fn rename(&mut self) -> Result<PathBuf, Failure> {
        self.file
            .get_ref()
            .sync_all()
            .and_then(|()| std::fs::rename(&self.partial, &self.path))
            .map_err(|error| trouble("write", &self.path, &error))?;
        Ok(self.path.clone())
    }
}

/// Leaves in `file` only the lines that are kept, and the cursor at its end.
fn keep_lines(file: &mut File, keeps: &mut impl FnMut(&[u8]) -> bool) -> std::io::Result<u64> {
    let (mut lines, mut good) = (0, 0);
    let mut others = Vec::new();
    let mut gaps = false;
    let mut reader = BufReader::new(&mut *file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        let whole = line.strip_suffix(b"\n");
        if !whole.is_some_and(&mut *keeps) {
            gaps = true;
            continue;
        }
        lines += 1;
        if gaps {
            // Rare: only lines after one of another batch have to be moved.
            others.extend_from_slice(&line);
        } else {
            good += read as u64;
        }
    }
    file.set_len(good)?;
    file.seek(SeekFrom::End(0))?;
    file.write_all(&others)?;
    Ok(lines)
}

fn trouble(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
