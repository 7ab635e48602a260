//! The ledger: usage events in, money out, each event once.
//!
//! It is derived. Everything in its folder follows from the stream of usage events, so the folder can be
//! deleted and rebuilt, and the store engine can be exchanged. What it must never do is forget or double:
//! totals, the cursor into the stream and the ids already counted therefore change in one transaction, and
//! no acknowledgement is part of its memory.
//!
//! | module | what it is |
//! |---|---|
//! | [`store`] | a small ordered map with atomic batches; sled on disk, a `BTreeMap` in tests |
//! | [`key`], [`row`] | what is stored: sums by hour and labels |
//! | [`fold`] | the rule for sums, pure: messages and what is stored → changes |
//! | [`ledger`] | fold, query and check over one store |
//! | [`query`] | the question and the answer of `usage.query`, pure |
//! | [`home`] | the folder, its lock, and the swap after a rebuild |
//! | [`audit`] | what stands in the counters, held against what should |
//! | [`run()`], [`rebuild()`], [`reconcile`] | the shells: NATS in, NATS out |

pub mod audit;
pub mod fold;
pub mod home;
pub mod key;
pub mod ledger;
pub mod query;
pub mod rebuild;
pub mod reconcile;
pub mod row;
pub mod run;
pub mod settle;
pub mod store;

mod metrics;
mod reading;
#[cfg(test)]
mod testing;

pub use fold::{Caps, Message, Report};
pub use home::Home;
pub use ledger::Ledger;
pub use rebuild::{Aged, Rebuilt, rebuild};
pub use row::Row;
pub use run::{Settings, run};

use std::path::PathBuf;

use tollgate_protocol::Sequence;

/// Why the ledger cannot go on. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has the folder.
    #[error("the ledger in {} is in use by another process: stop that one first, or give this one another data folder", .0.display())]
    InUse(PathBuf),
    /// The folder is damaged, of another version, or not a ledger at all.
    #[error("the ledger in {} cannot be used: {reason}. It is derived from the usage stream: `tollgate ledger rebuild` makes it anew and keeps the old folder beside it", folder.display())]
    Unusable {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file operation on the data folder failed.
    #[error("cannot {what} {}", path.display())]
    Folder {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The store failed while in use.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The usage stream is not the one that was folded so far.
    #[error(
        "the usage stream {stream} is not the one this ledger was built from: {reason}. Nothing was changed. If the stream was recreated on purpose, `tollgate ledger rebuild` starts from what it holds now and keeps the old folder beside it; if not, check which server and subject_prefix this is"
    )]
    OtherStream {
        /// The stream.
        stream: String,
        /// How that shows.
        reason: String,
    },
    /// A rebuild would lose what the stream no longer holds.
    #[error(
        "the usage stream begins at sequence {first}: events before it are gone, and a rebuilt ledger would not have them. Nothing was changed; say so explicitly if that is what you want"
    )]
    AgedOut {
        /// The first sequence that is still there.
        first: Sequence,
    },
    /// It was told to stop before it had caught up.
    #[error("stopped before the rebuilt ledger had caught up; nothing was changed")]
    Interrupted,
    /// The control endpoint cannot be set up.
    #[error("cannot serve {subject}: {reason}")]
    Service {
        /// Its subject.
        subject: String,
        /// The client's reason.
        reason: String,
    },
}
