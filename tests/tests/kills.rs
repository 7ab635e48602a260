//! Accepted means answered, once, and paid for once: while processes are killed with -9 in the middle of it.
//!
//! Every kill waits for its condition: so much work in the hands of whoever is about to die. The provider holds its
//! answers until then, so that no machine is too fast or too slow for it.

#![expect(clippy::print_stderr, reason = "what was in hand at each kill belongs to the result")]

mod ask;
mod cluster;
mod ledger;
mod nats;
mod pairs;
mod paused;
mod router;
mod run;
mod stopped;
mod worker;
