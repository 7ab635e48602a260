//! When a request must be over.

use super::decode::{Delivered, Top};
use super::{TTL_MS_MAX, fields};
use crate::header::{self, Headers};
use crate::{ErrorCode, Problem, Timestamp};

/// The envelope's `deadline` or `ttl_ms`, else the header's, else the default of the priority.
pub(super) fn read<H: Headers + ?Sized>(
    message: &Delivered<'_, H>,
    top: &Top<'_>,
    bare: bool,
) -> Result<Timestamp, Problem> {
    let (mut deadline, mut ttl_ms) = if bare { (None, None) } else { in_envelope(top)? };
    if deadline.is_none() && ttl_ms.is_none() {
        (deadline, ttl_ms) = in_headers(message.headers)?;
    }
    let deadline = match (deadline, ttl_ms) {
        (Some(_), Some(_)) => {
            return Err(wrong("deadline", "deadline and ttl_ms are both given: send one of them"));
        }
        (Some(deadline), None) => deadline,
        (None, Some(ttl_ms)) if ttl_ms > TTL_MS_MAX => {
            return Err(wrong("ttl_ms", format!("ttl_ms: at most {TTL_MS_MAX} (7 days)")));
        }
        (None, Some(ttl_ms)) => after(message.accepted_at, ttl_ms),
        (None, None) => after(message.accepted_at, message.ttl_ms_default),
    };
    if deadline <= message.accepted_at {
        return Err(wrong("deadline", "deadline: already over when the request was accepted"));
    }
    if deadline > after(message.accepted_at, TTL_MS_MAX) {
        return Err(wrong("deadline", "deadline: more than 7 days ahead"));
    }
    Ok(deadline)
}

/// When a request may be called first. Later than its deadline is a mistake; earlier than now is now.
pub(super) fn not_before(top: &Top<'_>, deadline: Timestamp) -> Result<Option<Timestamp>, Problem> {
    let Some(text) = fields::text(top.not_before, "not_before")? else { return Ok(None) };
    let time = chrono::DateTime::parse_from_rfc3339(&text)
        .map_err(|_| fields::invalid("not_before", "an RFC 3339 time with a zone"))?
        .to_utc();
    if time >= deadline {
        return Err(fields::invalid("not_before", "a time before the deadline of the request"));
    }
    Ok(Some(time))
}

/// `start` and some milliseconds, 7 days of them at most.
pub(super) fn after(start: Timestamp, milliseconds: u64) -> Timestamp {
    let milliseconds = i64::try_from(milliseconds.min(TTL_MS_MAX)).unwrap_or_default();
    start.checked_add_signed(chrono::TimeDelta::milliseconds(milliseconds)).unwrap_or(Timestamp::MAX_UTC)
}

fn in_envelope(top: &Top<'_>) -> Result<(Option<Timestamp>, Option<u64>), Problem> {
    let as_deadline = |problem: Problem| problem.with_code(ErrorCode::InvalidDeadline);
    let deadline = fields::text(top.deadline, "deadline").map_err(as_deadline)?;
    let deadline = deadline.map(|text| instant(&text)).transpose()?;
    let ttl_ms = fields::positive(top.ttl_ms, "ttl_ms").map_err(as_deadline)?;
    Ok((deadline, ttl_ms))
}

fn in_headers<H: Headers + ?Sized>(headers: &H) -> Result<(Option<Timestamp>, Option<u64>), Problem> {
    let deadline = headers.get(header::DEADLINE).map(instant).transpose()?;
    let ttl_ms = match headers.get(header::TTL_MS).map(str::parse) {
        None => None,
        Some(Ok(ttl_ms @ 1..)) => Some(ttl_ms),
        Some(_) => return Err(wrong("ttl_ms", "ttl_ms: expected a whole number of at least 1")),
    };
    Ok((deadline, ttl_ms))
}

fn instant(text: &str) -> Result<Timestamp, Problem> {
    chrono::DateTime::parse_from_rfc3339(text)
        .map(|time| time.to_utc())
        .map_err(|_| wrong("deadline", "deadline: expected an RFC 3339 time with a zone"))
}

fn wrong(field: &str, text: impl Into<String>) -> Problem {
    Problem::at(ErrorCode::InvalidDeadline, field, text)
}
