//! Making the ledger anew from the usage stream.
//!
//! The new ledger is built beside the old one and takes its place only when it has caught up; until then
//! nothing is changed. The old folder is kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tollgate_bus::{Bus, event};
use tollgate_protocol::Sequence;

use crate::fold::State;
use crate::run::follow::{Ended, Until, follow};
use crate::run::in_background;
use crate::store::sled::SledStore;
use crate::{Error, Home, Ledger, Settings};

/// What to do if the stream no longer has its first events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aged {
    /// Leave everything as it is.
    Refuse,
    /// Go on without them.
    Accept,
}

/// A rebuilt ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// The new ledger: how far it is and what it adds up to.
    pub state: State,
    /// The first sequence of the stream that it is built from.
    pub first_sequence: Sequence,
    /// The old ledger's state, if it could be read.
    pub before: Option<State>,
    /// Where the old folder is now, if there was one.
    pub kept: Option<PathBuf>,
}

/// Rebuilds the ledger of the data folder `data`, which no process may be running on.
pub async fn rebuild(
    bus: &Bus,
    settings: Settings,
    data: &Path,
    aged: Aged,
    stop: &CancellationToken,
) -> Result<Rebuilt, Error> {
    let first_sequence = first_sequence(bus).await?;
    if first_sequence > 1 && aged == Aged::Refuse {
        return Err(Error::AgedOut { first: first_sequence });
    }
    let (data, caps) = (data.to_owned(), settings.caps);
    let (home, before, ledger) = in_background(move || {
        let home = Home::claim(&data)?;
        let before = old_state(&home, caps);
        let workshop = home.workshop()?;
        let ledger = Ledger::open(Box::new(SledStore::open(&workshop)?), &workshop, caps)?;
        Ok((home, before, Arc::new(ledger)))
    })
    .await?;

    if follow(bus, &ledger, Until::CaughtUp, stop).await? != Ended::CaughtUp {
        return Err(Error::Interrupted);
    }
    in_background(move || {
        let state = ledger.verify()?;
        ledger.flush()?;
        // The store has to be closed before its folder is moved.
        drop(ledger);
        let kept = home.swap()?;
        Ok(Rebuilt { state, first_sequence, before, kept })
    })
    .await
}

/// The old ledger may be the reason for the rebuild, so whatever is wrong with it is no error here.
fn old_state(home: &Home, caps: crate::Caps) -> Option<State> {
    let folder = home.folder();
    if !folder.exists() {
        return None;
    }
    let ledger = Ledger::open(Box::new(SledStore::open(&folder).ok()?), &folder, caps).ok()?;
    ledger.state().ok()
}

async fn first_sequence(bus: &Bus) -> Result<Sequence, Error> {
    let name = bus.subjects().stream(event::USAGE);
    match bus.jetstream().get_stream(&name).await {
        Ok(stream) => Ok(stream.cached_info().state.first_sequence),
        Err(error) => Err(Error::OtherStream { stream: name, reason: error.to_string() }),
    }
}
