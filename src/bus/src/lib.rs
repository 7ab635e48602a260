//! NATS, as Tollgate uses it: connect, topology, publish, fenced record writes, pulls, replies.
//!
//! The only crate that knows JetStream's headers and error numbers. It makes no decision about a request:
//! it says what happened, in types that the callers' decisions are made on.

pub mod answer;
pub mod blob;
pub mod bucket;
pub mod connect;
pub mod counter;
pub mod dead;
pub mod event;
pub mod headers;
pub mod heartbeat;
pub mod lane;
pub mod owner;
pub mod pace;
mod point;
pub mod presence;
pub mod publish;
pub mod pull;
pub mod record;
pub mod reply;
pub mod retry;
pub mod scan;
pub mod schedule;
pub mod topology;
pub mod versions;

use std::sync::Arc;

use tollgate_protocol::Timestamp;
use tollgate_protocol::subject::Subjects;

pub use connect::{ConnectError, ConnectSettings, Connection};
pub use headers::HeaderView;
pub use point::point;
pub use publish::{PublishError, Published};

/// A connection together with the names it works under. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bus {
    connection: Connection,
    subjects: Arc<Subjects>,
}

impl Bus {
    /// Works on `connection` under the names of `subjects`.
    pub fn new(connection: Connection, subjects: Subjects) -> Self {
        Self { connection, subjects: Arc::new(subjects) }
    }

    /// The names.
    pub fn subjects(&self) -> &Subjects {
        &self.subjects
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The client itself, for what has no method here.
    pub fn client(&self) -> &async_nats::Client {
        self.connection.client()
    }

    /// JetStream on this connection.
    pub fn jetstream(&self) -> &async_nats::jetstream::Context {
        self.connection.jetstream()
    }
}

/// The one clock of the shells. Decisions get its value as an argument.
#[expect(clippy::disallowed_methods, reason = "the one place where the wall clock is read")]
pub fn now() -> Timestamp {
    chrono::Utc::now()
}
