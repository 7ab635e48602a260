//! The roles, and how each starts again.

use std::rc::Rc;

use crate::ledger::Ledger;
use crate::router::Router;
use crate::worker::Worker;
use crate::world::World;

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A router.
    Router(usize),
    /// A worker.
    Worker(usize),
    /// The ledger.
    Ledger,
    /// A client: nothing happens to it.
    Client,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Router(_) => "router",
            Self::Worker(_) => "worker",
            Self::Ledger => "ledger",
            Self::Client => "client",
        })
    }
}

/// Starts a process.
pub fn boot(world: &Rc<World>, kind: Kind) {
    match kind {
        Kind::Router(slot) => Router::boot(world, slot),
        Kind::Worker(slot) => Worker::boot(world, slot),
        Kind::Ledger => Ledger::boot(world),
        Kind::Client => {}
    }
}
