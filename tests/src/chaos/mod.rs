//! Chaos: roles as processes of their own under load, faults drawn from a seed, and what must hold at the end.
//!
//! The same seed gives the same requests and the same faults at the same times. What happens between processes is not
//! repeated to the microsecond, but a fault that broke a promise does so again within a few tries.
//!
//! Nothing here shares code with the broker: what is checked is read from the streams and from the provider's own log.

mod counted;
mod faults;
mod load;
mod rng;
mod run;
mod stage;
mod verdict;

pub use faults::{Fault, POINTS, Table};
pub use run::run;
pub use verdict::Outcome;

/// One run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything is drawn from it.
    pub seed: u64,
    /// How many requests are published.
    pub requests: usize,
    /// How many of them each second.
    pub per_second: u32,
    /// How many faults are fired while they are published.
    pub faults: usize,
    /// Whether answers must come in time. On a machine that is busy with other things only what is answered counts.
    pub timely: bool,
    /// Whether to say what happens.
    pub loud: bool,
}
