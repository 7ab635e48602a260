//! Bad and borderline input, one row each: name, headers, payload → verdict.

use super::*;
use crate::{ErrorCode, header};

mod bare;
mod body;
mod deadline;
mod envelope;
mod hostile;
mod identity;
mod msgpack;
mod options;
mod properties;
mod unreadable;

/// When every message of these tests was stored.
pub(super) const NOW: &str = "2026-03-01T12:00:00Z";

pub(super) type HeaderList<'a> = &'a [(&'a str, &'a str)];

pub(super) enum Verdict {
    Accepted(fn(&Request)),
    /// Code and field, under the identity that the request names.
    Rejected(ErrorCode, &'static str),
    /// Code and field, under `_` and `seq-…`.
    Unaddressed(ErrorCode, &'static str),
    Drained,
}

pub(super) use Verdict::{Accepted, Drained, Rejected, Unaddressed};

/// A row of a table.
pub(super) struct Row<'a>(pub &'static str, pub HeaderList<'a>, pub Vec<u8>, pub Verdict);

pub(super) fn instant(text: &str) -> crate::Timestamp {
    text.parse().unwrap()
}

pub(super) fn decode_as(team: &str, headers: HeaderList<'_>, payload: &[u8]) -> Decoded {
    decode(&Delivered {
        team,
        priority: Priority::Normal,
        sequence: 7,
        accepted_at: instant(NOW),
        ttl_ms_default: 60_000,
        headers,
        payload,
    })
}

pub(super) fn decode_json(payload: impl AsRef<[u8]>) -> Decoded {
    decode_as("research", &[], payload.as_ref())
}

#[track_caller]
pub(super) fn request(decoded: Decoded) -> Request {
    match decoded {
        Decoded::Request(request) => *request,
        other => panic!("expected a request: {other:?}"),
    }
}

#[track_caller]
pub(super) fn problem(decoded: Decoded) -> Problem {
    match decoded {
        Decoded::Rejected(_, problem) => problem,
        other => panic!("expected a rejection: {other:?}"),
    }
}

/// Checks every row, so that one run shows all that is wrong.
#[track_caller]
pub(super) fn check(rows: Vec<Row<'_>>) {
    let mut wrong = Vec::new();
    for Row(name, headers, payload, verdict) in rows {
        let decoded = decode_as("research", headers, &payload);
        let named = |head: &Head| head.identity.to_string() != "research._.seq-7";
        match (&verdict, &decoded) {
            (Accepted(facts), Decoded::Request(request)) => facts(request),
            (Drained, Decoded::Acknowledgement) => {}
            (Rejected(code, field), Decoded::Rejected(head, problem))
                if problem.code == *code
                    && problem.field.as_deref().unwrap_or("") == *field
                    && named(head) => {}
            (Unaddressed(code, field), Decoded::Rejected(head, problem))
                if problem.code == *code
                    && problem.field.as_deref().unwrap_or("") == *field
                    && !named(head) => {}
            (_, Decoded::Rejected(head, problem)) => {
                wrong.push(format!("{name}: {problem} as {}", head.identity))
            }
            (_, Decoded::Acknowledgement) => wrong.push(format!("{name}: drained")),
            (_, Decoded::Request(_)) => wrong.push(format!("{name}: accepted")),
        }
    }
    assert!(wrong.is_empty(), "not as expected:\n{}", wrong.join("\n"));
}

pub(super) const BODY: &str = r#"{"model":"small","messages":[{"role":"user","content":"hi"}]}"#;

/// An envelope with a valid body and `more` fields after it: `,"ttl_ms":5`.
pub(super) fn envelope(more: &str) -> Vec<u8> {
    format!(r#"{{"id":"q1","group":"g1","body":{BODY}{more}}}"#).into()
}

/// An envelope around `body`.
pub(super) fn around(body: &str) -> Vec<u8> {
    format!(r#"{{"id":"q1","group":"g1","body":{body}}}"#).into()
}

/// An envelope whose valid body has `more` fields after it.
pub(super) fn body_with(more: &str) -> Vec<u8> {
    around(&format!(r#"{{"model":"small","messages":[{{"role":"user"}}]{more}}}"#))
}

/// `depth` arrays in each other.
pub(super) fn nested(depth: usize) -> String {
    "[".repeat(depth) + &"]".repeat(depth)
}

pub(super) fn msgpack(json: impl AsRef<[u8]>) -> Vec<u8> {
    let value: serde_json::Value = serde_json::from_slice(json.as_ref()).unwrap();
    rmp_serde::to_vec_named(&value).unwrap()
}

pub(super) const MSGPACK: HeaderList<'static> = &[(header::CONTENT_TYPE, "application/msgpack")];
