//! Where the ledger stands in relation to the stream: may it go on, and from where? Pure.

use tollgate_protocol::{Sequence, Timestamp};

/// The usage stream, as the server describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// When it was created.
    pub created_at: Timestamp,
    /// The first sequence that is still there; one more than `last` if nothing is.
    pub first: Sequence,
    /// The last sequence that was given.
    pub last: Sequence,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Go on after the cursor.
    Continue,
    /// The next events are gone: go on after this sequence, and say so.
    SkipTo(Sequence),
    /// This is another stream, for this reason.
    Other(String),
}

/// Compares the cursor, and the creation time of the stream it is into, with the stream.
pub fn standing(cursor: Sequence, built_from: Timestamp, stream: &Stream) -> Standing {
    if stream.last < cursor {
        return Standing::Other(format!(
            "its last sequence is {}, and events up to {cursor} were folded",
            stream.last
        ));
    }
    // The server keeps microseconds or better, the ledger milliseconds.
    if stream.created_at.timestamp_millis() != built_from.timestamp_millis() {
        return Standing::Other(format!("it was created at {}, not at {built_from}", stream.created_at));
    }
    match stream.first.checked_sub(1) {
        Some(before) if before > cursor => Standing::SkipTo(before),
        _ => Standing::Continue,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    #[test]
    fn only_the_same_stream_is_followed() {
        let check = |cursor, created, first, last| {
            standing(cursor, at(0), &Stream { created_at: at(created), first, last })
        };
        assert_eq!(check(0, 0, 0, 0), Standing::Continue, "a new stream");
        assert_eq!(check(7, 0, 1, 7), Standing::Continue);
        assert_eq!(check(7, 0, 8, 7), Standing::Continue, "everything aged out, all of it folded");
        assert_eq!(check(7, 0, 9, 20), Standing::SkipTo(8), "8 is gone");
        assert_eq!(check(7, 0, 21, 20), Standing::SkipTo(20), "8 to 20 are gone");
        assert!(matches!(check(7, 0, 1, 6), Standing::Other(reason) if reason.contains('6')));
        assert!(matches!(check(7, 1, 1, 900), Standing::Other(reason) if reason.contains("created")));
    }
}
