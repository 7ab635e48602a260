//! Deadlines and times to live. Every message of these tests was stored at noon on 1 March 2026.

use super::*;
use crate::ErrorCode::*;

#[test]
fn deadlines() {
    let at = |time: &str| envelope(&format!(r#","deadline":"{time}""#));
    let bad = || Rejected(InvalidDeadline, "deadline");
    check(vec![
        Row("past", &[], at("2026-03-01T11:59:59Z"), bad()),
        Row("now", &[], at("2026-03-01T12:00:00Z"), bad()),
        Row("a nanosecond ahead", &[], at("2026-03-01T12:00:00.000000001Z"), Accepted(|_| {})),
        Row("7 days ahead", &[], at("2026-03-08T12:00:00Z"), Accepted(|_| {})),
        Row("7 days and a nanosecond", &[], at("2026-03-08T12:00:00.000000001Z"), bad()),
        Row("no zone", &[], at("2026-03-01T13:00:00"), bad()),
        Row("a date", &[], at("2026-03-02"), bad()),
        Row("words", &[], at("tomorrow"), bad()),
        Row("empty", &[], at(""), bad()),
        Row("30 February", &[], at("2026-02-30T12:00:00Z"), bad()),
        Row("year 0", &[], at("0000-01-01T00:00:00Z"), bad()),
        Row("year 9999", &[], at("9999-12-31T23:59:59Z"), bad()),
        Row("year 262143", &[], at("+262143-12-31T23:59:59Z"), bad()),
        Row("a negative year", &[], at("-0001-01-01T00:00:00Z"), bad()),
        Row("a zone beyond a day", &[], at("2026-03-01T13:00:00+99:00"), bad()),
        Row(
            "a zone",
            &[],
            at("2026-03-01T18:30:00+05:30"),
            Accepted(|request| {
                assert_eq!(request.head.deadline, instant("2026-03-01T13:00:00Z"));
            }),
        ),
        Row("a leap second", &[], at("2026-03-01T23:59:60Z"), Accepted(|_| {})),
    ]);
}

#[test]
fn times_to_live() {
    let ttl = |ttl: &str| envelope(&format!(r#","ttl_ms":{ttl}"#));
    let bad = || Rejected(InvalidDeadline, "ttl_ms");
    check(vec![
        Row("zero", &[], ttl("0"), bad()),
        Row("negative", &[], ttl("-1"), bad()),
        Row("a fraction", &[], ttl("1.5"), bad()),
        Row("an exponent", &[], ttl("1e3"), bad()),
        Row("beyond 64 bits", &[], ttl("18446744073709551616"), bad()),
        Row("all of 64 bits", &[], ttl("18446744073709551615"), bad()),
        Row(
            "one",
            &[],
            ttl("1"),
            Accepted(|request| {
                assert_eq!(request.head.deadline, instant("2026-03-01T12:00:00.001Z"));
            }),
        ),
        Row("7 days", &[], ttl("604800000"), Accepted(|_| {})),
        Row("7 days and 1 ms", &[], ttl("604800001"), bad()),
        Row(
            "both",
            &[],
            envelope(r#","ttl_ms":5,"deadline":"2026-03-01T13:00:00Z""#),
            Rejected(InvalidDeadline, "deadline"),
        ),
        Row(
            "neither",
            &[],
            envelope(""),
            Accepted(|request| {
                assert_eq!(request.head.deadline, instant("2026-03-01T12:01:00Z"));
            }),
        ),
    ]);
}

#[test]
fn headers_count_where_the_envelope_is_silent() {
    let noon = instant("2026-03-02T12:00:00Z");
    for (headers, more, expected) in [
        (&[(header::TTL_MS, "86400000")][..], "", Ok(noon)),
        (&[(header::DEADLINE, "2026-03-02T12:00:00Z")][..], "", Ok(noon)),
        (&[(header::DEADLINE, "rubbish")][..], r#","ttl_ms":86400000"#, Ok(noon)),
        (&[(header::TTL_MS, "1")][..], r#","deadline":"2026-03-02T12:00:00Z""#, Ok(noon)),
        (&[(header::TTL_MS, "1"), (header::DEADLINE, "2026-03-02T12:00:00Z")][..], "", Err("deadline")),
        (&[(header::TTL_MS, "0")][..], "", Err("ttl_ms")),
        (&[(header::TTL_MS, "")][..], "", Err("ttl_ms")),
        (&[(header::TTL_MS, "-1")][..], "", Err("ttl_ms")),
        (&[(header::DEADLINE, "2026-03-02T12:00:00")][..], "", Err("deadline")),
    ] {
        match (decode_as("research", headers, &envelope(more)), expected) {
            (Decoded::Request(request), Ok(deadline)) => assert_eq!(request.head.deadline, deadline),
            (Decoded::Rejected(_, problem), Err(field)) => {
                assert_eq!((problem.code, problem.field.as_deref()), (InvalidDeadline, Some(field)));
            }
            (other, _) => panic!("{headers:?} {more}: {other:?}"),
        }
    }
}

#[test]
fn no_clock_is_too_far_away() {
    for accepted_at in [crate::Timestamp::MIN_UTC, crate::Timestamp::MAX_UTC] {
        for ttl_ms_default in [0, 1, u64::MAX] {
            for more in ["", r#","ttl_ms":604800000"#, r#","deadline":"2026-03-02T12:00:00Z""#] {
                let _ = decode(&Delivered {
                    team: "research",
                    priority: Priority::Low,
                    sequence: u64::MAX,
                    accepted_at,
                    ttl_ms_default,
                    headers: &(),
                    payload: &envelope(more),
                });
            }
        }
    }
}
