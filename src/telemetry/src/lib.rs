//! What an operator sees: logs, metrics, health.
//!
//! Other crates say *that* something happened, with the functions of [`emit`]; this one alone knows what a
//! metric is called. A label is a text of a closed enum (`&'static str`) or a name out of the configuration,
//! never anything that a client sent: a client could otherwise make as many time series as it likes.
//!
//! Knows nothing of requests, NATS or the configuration, and decides nothing.

pub mod emit;
pub mod health;
pub mod http;
pub mod log;
pub mod names;
pub mod recorder;

pub use emit::*;
pub use health::{Health, Nats, Role, RoleState};
pub use http::serve_http;
pub use log::{Format, init_logging};
