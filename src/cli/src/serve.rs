//! Running the broker: everything in one process (`up`), one part of it (`run`), the simulator alone, and
//! the upkeep of the ledger's folder.
//!
//! What is here starts parts, says when they are ready, and ends them in order. It knows nothing of requests.

mod banner;
mod data;
mod drain;
mod follow;
mod ledger;
mod nats;
mod process;
mod ready;
mod role_command;
mod role_failure;
mod roles;
mod settings;
mod signals;
mod simulators;
mod up;

pub(crate) use ledger::ledger;
pub(crate) use nats::STORE_MAX as NATS_STORE_MAX;
pub(crate) use role_command::run;
pub(crate) use simulators::simulator;
pub(crate) use up::up;
