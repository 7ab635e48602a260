//! The bus as Tollgate relies on it, in memory: streams, consumers, deduplication, fences, counters and schedules of
//! JetStream, with time as an argument. It uses nothing of ours and nothing of the network, so that it can stand for the
//! nats-server in a simulation.
//!
//! That it does what the real one does is shown by [`conformance`]: one list of steps that both have to pass.

pub mod conformance;
mod consumer;
mod server;
mod stream;

pub use consumer::{ConsumerConfig, Delivered};
pub use server::Server;
pub use stream::{Ack, Expect, Publish, Refused, Schedule, Stored, StreamConfig};

/// Microseconds since the beginning.
pub type Micros = u64;

/// Whether a subject matches a filter with `*` and `>`.
pub fn matches(filter: &str, subject: &str) -> bool {
    let (mut filter, mut subject) = (filter.split('.'), subject.split('.'));
    loop {
        match (filter.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some(wanted), Some(found)) if wanted == "*" || wanted == found => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_by_token() {
        for (filter, subject, expected) in [
            ("a.b", "a.b", true),
            ("a.*", "a.b", true),
            ("a.*", "a.b.c", false),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            ("*.x.y", "run.x.y", true),
            ("a.b", "a", false),
        ] {
            assert_eq!(matches(filter, subject), expected, "{filter} {subject}");
        }
    }
}
