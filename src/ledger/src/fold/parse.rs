//! Bytes of a message → usage event, or why not.

use tollgate_protocol::usage::{Kind, UsageEvent};

use crate::key::cut;

/// Longest reason, in bytes: it may quote what was sent.
const REASON_LENGTH_MAX: usize = 200;

/// Reads a usage event. What would make the sums depend on the order of events is refused as unreadable.
pub fn parse(payload: &[u8]) -> Result<UsageEvent, String> {
    let event: UsageEvent = serde_json::from_slice(payload)
        .map_err(|error| cut(&error.to_string(), REASON_LENGTH_MAX).to_owned())?;
    match (event.kind, &event.corrects) {
        (Kind::Correction, None) => Err("a correction does not name what it corrects".into()),
        (Kind::Attempt | Kind::Lost | Kind::Unpaid, Some(_)) => {
            Err("an event that is no correction names one that it corrects".into())
        }
        _ => Ok(event),
    }
}
