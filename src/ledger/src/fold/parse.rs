//! Bytes of a message → usage event, or why not.

use tollgate_protocol::money::COST_MAX;
use tollgate_protocol::usage::{Kind, UsageEvent};

use crate::key::cut;

/// Longest reason, in bytes: it may quote what was sent.
const REASON_LENGTH_MAX: usize = 200;

/// Reads a usage event. What would make the sums depend on the order of events is refused as unreadable.
pub fn parse(payload: &[u8]) -> Result<UsageEvent, String> {
    let event: UsageEvent = serde_json::from_slice(payload)
        .map_err(|error| cut(&error.to_string(), REASON_LENGTH_MAX).to_owned())?;
    let cost = event.cost_nano_usd;
    if cost.0.unsigned_abs() > COST_MAX.0.unsigned_abs() || (cost.0 < 0 && event.kind != Kind::Correction) {
        // Sums of what nobody pays would leave no room for what is paid.
        return Err(format!("a call does not cost {cost}"));
    }
    match (event.kind, &event.corrects) {
        (Kind::Correction, None) => Err("a correction does not name what it corrects".into()),
        (Kind::Attempt | Kind::Lost | Kind::Unpaid, Some(_)) => {
            Err("an event that is no correction names one that it corrects".into())
        }
        _ => Ok(event),
    }
}
