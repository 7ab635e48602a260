//! What travels: envelopes, events, subjects, identities, money and codecs.
//!
//! Everything that enters or leaves a Tollgate process as bytes has its type here and is parsed once,
//! here. This crate knows nothing of NATS connections, HTTP, clocks or configuration files; it cannot
//! fail for any reason but its input.

pub mod applied;
pub mod budget;
pub mod code;
pub mod digest;
pub mod encoding;
pub mod event;
pub mod header;
pub mod identity;
pub mod job;
pub mod json;
pub mod meta;
pub mod money;
pub mod priority;
pub mod problem;
pub mod record;
pub mod reply;
pub mod request;
pub mod response;
pub mod schema;
pub mod subject;
pub mod tokens;
pub mod usage;

/// The instant type of every message: UTC, written as RFC 3339.
pub type Timestamp = chrono::DateTime<chrono::Utc>;

/// The answer to "the stream sequence", used where no message exists yet.
pub type Sequence = u64;

pub use code::ErrorCode;
pub use digest::Digest;
pub use encoding::Encoding;
pub use identity::{Group, Identity, RequestId, Team};
pub use json::JsonText;
pub use meta::Meta;
pub use money::{NanoUsd, Price};
pub use priority::Priority;
pub use problem::Problem;
pub use tokens::TokenUsage;

#[cfg(test)]
mod tests;
