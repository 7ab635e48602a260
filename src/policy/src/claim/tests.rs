use super::*;
use tollgate_protocol::Timestamp;
use tollgate_protocol::record::{Answered, Estimate};
use tollgate_protocol::response::Status;

const MINE: u64 = 5;
const OTHER: u64 = 6;

fn source(sequence: u64) -> Source {
    Source { stream: "LLM_DISPATCH_sim".into(), sequence }
}

fn hand() -> Hand {
    Hand { from: source(MINE), digest: Digest::of(b"mine") }
}

fn time() -> Timestamp {
    Timestamp::from_timestamp_millis(1_790_000_000_000).unwrap()
}

/// When the copy that the record knows was accepted.
fn accepted() -> Timestamp {
    time() - chrono::TimeDelta::hours(1)
}

fn started(from: u64, body: &[u8]) -> Last {
    Last::Started {
        sequence: 40,
        started: Started {
            attempt: 1,
            from: source(from),
            owner: "w1".into(),
            digest: Digest::of(body),
            accepted_at: accepted(),
            deadline: time(),
            provider: "sim".into(),
            model: "demo".into(),
            estimate: Estimate::default(),
            started_at: time(),
            history: vec![],
        },
    }
}

fn ended(from: u64, body: &[u8], next: Next) -> Last {
    Last::Ended {
        sequence: 41,
        ended: Ended {
            attempt: 1,
            from: source(from),
            digest: Digest::of(body),
            accepted_at: accepted(),
            deadline: time(),
            next,
            history: vec![],
        },
    }
}

fn answered(from: u64, body: &[u8]) -> Last {
    Last::Answered {
        sequence: 42,
        answered: Answered {
            digest: Digest::of(body),
            status: Status::Succeeded,
            attempt: 2,
            from: source(from),
            dead: None,
        },
    }
}

#[track_caller]
fn check(last: Last, expected: &str) {
    let verdict = match judge(&hand(), last) {
        Verdict::Claim { expected, history } => {
            format!("claim after {expected}, history {}", history.is_some())
        }
        Verdict::HandOver { run, .. } => format!("hand over after {run}"),
        Verdict::AskOwner { sequence, started } => format!("ask {} about {sequence}", started.owner),
        Verdict::Finish { mine, .. } => format!("finish {mine:?}"),
        Verdict::Copy => "copy".into(),
        Verdict::Conflict => "conflict".into(),
    };
    assert_eq!(verdict, expected);
}

#[test]
fn every_row_of_the_table() {
    check(Last::None, "claim after 0, history false");
    check(Last::Foreign { sequence: 39 }, "claim after 39, history false");
    check(answered(MINE, b"mine"), "finish Some(2)");
    check(answered(OTHER, b"mine"), "finish None");
    check(started(MINE, b"mine"), "ask w1 about 40");
    check(started(OTHER, b"mine"), "copy");
    check(ended(MINE, b"mine", Next::Retry { delay_ms: 9 }), "claim after 41, history true");
    check(ended(MINE, b"mine", Next::Fallback { target: 1 }), "hand over after 41");
    check(ended(MINE, b"mine", Next::Later { at: time() }), "hand over after 41");
    check(ended(MINE, b"mine", Next::Hold), "hand over after 41");
    check(ended(OTHER, b"mine", Next::Hold), "copy");
    check(ended(OTHER, b"mine", Next::Retry { delay_ms: 9 }), "copy");
    check(ended(OTHER, b"mine", Next::Fallback { target: 1 }), "copy");
}

#[test]
fn what_was_handed_on_goes_on_and_what_the_record_has_passed_does_not() {
    let check = |run, last: Last, expected: &str| {
        let verdict = match judge_unclaimed(&hand(), run, last) {
            Verdict::Claim { expected, history } => format!("from {expected}, history {}", history.is_some()),
            Verdict::Copy => "copy".into(),
            Verdict::HandOver { run, .. } => format!("hand over after {run}"),
            verdict => format!("{verdict:?}"),
        };
        assert_eq!(verdict, expected);
    };
    check(0, Last::None, "from 0, history false");
    check(41, ended(OTHER, b"mine", Next::Hold), "from 41, history false");
    check(12, ended(OTHER, b"mine", Next::Hold), "copy");
    // It was claimed and is to be tried again: what it knew itself is no longer right.
    check(0, ended(MINE, b"mine", Next::Retry { delay_ms: 9 }), "from 41, history true");
    check(0, ended(MINE, b"mine", Next::Hold), "hand over after 41");
    check(0, started(OTHER, b"mine"), "copy");
}

#[test]
fn another_body_under_the_same_identity_never_runs() {
    for from in [MINE, OTHER] {
        check(answered(from, b"theirs"), "conflict");
        check(started(from, b"theirs"), "conflict");
        check(ended(from, b"theirs", Next::Retry { delay_ms: 1 }), "conflict");
        check(ended(from, b"theirs", Next::Fallback { target: 1 }), "conflict");
    }
}

#[test]
fn the_same_sequence_in_another_stream_is_another_message() {
    let Last::Started { sequence, mut started } = started(MINE, b"mine") else { unreachable!() };
    started.from.stream = "LLM_DISPATCH_other".into();
    check(Last::Started { sequence, started }, "copy");
}

#[test]
fn an_owner_is_believed_and_silence_has_a_limit() {
    for (said, expected) in [
        (Said::Holding, OwnerVerdict::Wait),
        (Said::NotMine, OwnerVerdict::Lost),
        (Said::Silent { for_ms: 0 }, OwnerVerdict::Wait),
        (Said::Silent { for_ms: 29_999 }, OwnerVerdict::Wait),
        (Said::Silent { for_ms: 30_000 }, OwnerVerdict::Lost),
    ] {
        assert_eq!(owner_rule(said, 30_000), expected, "{said:?}");
    }
}

#[test]
fn a_superseded_worker_never_takes_the_message_from_its_successor() {
    assert_eq!(superseded(&Last::None), Superseded::WriteAgain(0));
    assert_eq!(superseded(&Last::Foreign { sequence: 39 }), Superseded::WriteAgain(39));
    assert_eq!(superseded(&answered(OTHER, b"mine")), Superseded::Over);
    assert_eq!(superseded(&answered(MINE, b"mine")), Superseded::Over);
    assert_eq!(superseded(&started(MINE, b"mine")), Superseded::TakenOver);
    assert_eq!(superseded(&ended(MINE, b"mine", Next::Retry { delay_ms: 1 })), Superseded::TakenOver);
}

#[test]
fn a_due_message_goes_on_only_if_the_record_waits_for_it() {
    let digest = Digest::of(b"mine");
    for (last, run, expected) in [
        (Last::None, 0, Due::Dispatch),
        (Last::Foreign { sequence: 39 }, 0, Due::Dispatch),
        (answered(OTHER, b"mine"), 0, Due::Reply),
        (answered(OTHER, b"theirs"), 0, Due::Conflict),
        (started(OTHER, b"mine"), 0, Due::Copy),
        (started(OTHER, b"mine"), 40, Due::Dispatch),
        (started(OTHER, b"theirs"), 40, Due::Conflict),
        (ended(OTHER, b"mine", Next::Fallback { target: 1 }), 41, Due::Dispatch),
        (ended(OTHER, b"mine", Next::Fallback { target: 1 }), 12, Due::Copy),
    ] {
        assert_eq!(due(&digest, run, &last), expected, "{last:?} {run}");
    }
}

/// What stopping comes to `late_ms` after the deadline, which is the same everywhere here.
#[track_caller]
fn check_stop(why: Stop, last: Last, late_ms: i64, expected: &str) {
    let now = time() + chrono::TimeDelta::milliseconds(late_ms);
    let stopping = match stop(&Digest::of(b"mine"), why, last, now) {
        Stopping::Write { expected, known } => {
            assert!(known.as_ref().is_none_or(|known| known.accepted_at == accepted()));
            format!("write after {expected}, calls {:?}", known.map(|known| known.history.len()))
        }
        Stopping::Running { sequence, started } => format!("{} runs it since {sequence}", started.owner),
        Stopping::NotYet => "not yet".into(),
        Stopping::Answered { .. } => "answered".into(),
        Stopping::Conflict => "conflict".into(),
    };
    assert_eq!(stopping, expected);
}

#[test]
fn a_request_is_stopped_by_time_whoever_has_it() {
    let why = Stop::Expired { deadline: time(), grace_ms: 1_000 };
    for from in [MINE, OTHER] {
        check_stop(why, started(from, b"mine"), 999, "not yet");
        check_stop(why, started(from, b"mine"), 1_000, "write after 40, calls Some(1)");
        check_stop(why, ended(from, b"mine", Next::Hold), -1, "not yet");
        check_stop(why, ended(from, b"mine", Next::Hold), 0, "write after 41, calls Some(0)");
        check_stop(why, answered(from, b"mine"), 5, "answered");
        check_stop(why, answered(from, b"theirs"), 5, "conflict");
        check_stop(why, started(from, b"theirs"), 5_000, "conflict");
        check_stop(why, ended(from, b"theirs", Next::Hold), 5, "conflict");
    }
    check_stop(why, Last::None, -1, "not yet");
    check_stop(why, Last::None, 0, "write after 0, calls None");
    check_stop(why, Last::Foreign { sequence: 39 }, 0, "write after 39, calls None");
}

#[test]
fn a_client_may_stop_it_at_any_time_and_a_running_call_is_its_owners_to_end() {
    for from in [MINE, OTHER] {
        check_stop(Stop::Cancelled, started(from, b"mine"), -500, "w1 runs it since 40");
        check_stop(Stop::Cancelled, ended(from, b"mine", Next::Hold), -500, "write after 41, calls Some(0)");
        check_stop(Stop::Cancelled, answered(from, b"mine"), -500, "answered");
        check_stop(Stop::Cancelled, started(from, b"theirs"), -500, "conflict");
    }
    check_stop(Stop::Cancelled, Last::None, -500, "write after 0, calls None");
}
