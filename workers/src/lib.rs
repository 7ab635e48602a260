//! The provider side: one pure codec per provider, one runner that does the IO for all of them, and the
//! simulator.
//!
//! A worker claims a request in its run record before every call, so that of all copies of a message one
//! is paid for; writes the answer behind the same fence; and acknowledges last.

pub mod codec;
mod http;
pub mod openai;
mod quota;
mod runner;
pub mod simulator;

pub use runner::{Error, Provider, Settings, Timeouts, run};
