//! The scenarios: each a behaviour that Tollgate relies on.

use super::{ANY, MS, Scenario, Step, Then, Write};
use crate::{ConsumerConfig, Refused, StreamConfig};

const LONG_MS: u64 = 600_000;

fn stream() -> StreamConfig {
    StreamConfig {
        name: "S".into(),
        subjects: vec!["s.>".into()],
        duplicate_window: LONG_MS * MS,
        ..StreamConfig::default()
    }
}

fn queue() -> StreamConfig {
    StreamConfig { work_queue: true, ..stream() }
}

fn consumer(ack_wait_ms: u64, ack_pending_max: usize) -> ConsumerConfig {
    ConsumerConfig { name: "c".into(), filter: "s.>".into(), ack_wait: ack_wait_ms * MS, ack_pending_max }
}

fn write(subject: &'static str, payload: &'static str) -> Write {
    Write { subject, payload, ..Write::default() }
}

fn stored(subject: &'static str, payload: &'static str, sequence: u64) -> Step {
    Step::Publish(write(subject, payload), Then::Stored(sequence))
}

fn fetch(then: &[(&'static str, u64)], not_before_ms: u64) -> Step {
    Step::Fetch { consumer: "c", then: then.to_vec(), not_before_ms }
}

fn nothing(for_ms: u64) -> Step {
    Step::Nothing { consumer: "c", for_ms }
}

/// All of them.
pub fn scenarios() -> Vec<Scenario> {
    let mut all = writes();
    all.extend(records());
    all.extend(counters());
    all.extend(deliveries());
    all.extend(times());
    all
}

fn writes() -> Vec<Scenario> {
    let with_id =
        |subject, payload, id, then| Step::Publish(Write { id: Some(id), ..write(subject, payload) }, then);
    let full = |refused| Then::Refused(refused);
    vec![
        Scenario {
            name: "an id is stored once, whatever the subject",
            stream: stream(),
            consumers: vec![],
            steps: vec![
                with_id("s.a", "one", "x", Then::Stored(1)),
                with_id("s.a", "one", "x", Then::Duplicate(1)),
                with_id("s.b", "other", "x", Then::Duplicate(1)),
                with_id("s.a", "two", "y", Then::Stored(2)),
                Step::Holds(2),
            ],
        },
        Scenario {
            name: "a full subject refuses, others do not, and a refused write has not used up its id",
            stream: StreamConfig { discard_new: true, per_subject_max: 2, messages_max: 4, ..queue() },
            consumers: vec![consumer(LONG_MS, 10)],
            steps: vec![
                stored("s.a", "a1", 1),
                stored("s.a", "a2", 2),
                with_id("s.a", "a3", "x", full(Refused::SubjectFull)),
                stored("s.b", "b1", 3),
                stored("s.c", "c1", 4),
                Step::Publish(write("s.d", "d1"), full(Refused::StreamFull)),
                fetch(&[("a1", 1)], 0),
                Step::Publish(write("s.a", "a3"), full(Refused::SubjectFull)),
                Step::Ack("a1", 1),
                with_id("s.a", "a3", "x", Then::Stored(5)),
                Step::Holds(4),
            ],
        },
        Scenario {
            name: "ids of messages that are stored outlive the server, others do not",
            stream: queue(),
            consumers: vec![consumer(LONG_MS, 10)],
            steps: vec![
                with_id("s.a", "gone", "x", Then::Stored(1)),
                with_id("s.a", "kept", "y", Then::Stored(2)),
                fetch(&[("gone", 1)], 0),
                Step::Ack("gone", 1),
                with_id("s.a", "gone", "x", Then::Duplicate(1)),
                Step::Restart,
                with_id("s.a", "kept", "y", Then::Duplicate(2)),
                with_id("s.a", "again", "x", Then::Stored(3)),
            ],
        },
        Scenario {
            name: "a message is read by sequence and by filter, and removed",
            stream: queue(),
            consumers: vec![],
            steps: vec![
                stored("s.a", "one", 1),
                stored("s.b", "two", 2),
                Step::Last("s.*", Some((2, "two"))),
                Step::Last("s.a", Some((1, "one"))),
                Step::Last("s.c", None),
                Step::Get(1, Some("one")),
                Step::Delete(2),
                Step::Last("s.*", Some((1, "one"))),
                Step::Get(2, None),
                stored("s.b", "three", 3),
            ],
        },
    ]
}

fn records() -> Vec<Scenario> {
    let record =
        StreamConfig { subjects: vec!["run.*".into(), "res.*".into()], per_subject_max: 1, ..stream() };
    let fenced = |subject, payload, last, then| {
        Step::Publish(Write { expect: Some((last, "*.r")), ..write(subject, payload) }, then)
    };
    vec![Scenario {
        name: "the fence is over both subjects, and one of all writers wins",
        stream: record,
        consumers: vec![],
        steps: vec![
            fenced("run.r", "claim", 0, Then::Stored(1)),
            fenced("run.r", "another claim", 0, Then::Refused(Refused::WrongLast)),
            Step::Publish(write("run.q", "of another"), Then::Stored(2)),
            fenced("run.r", "hand-over", 1, Then::Stored(3)),
            fenced("res.r", "late", 1, Then::Refused(Refused::WrongLast)),
            fenced("res.r", "answer", 3, Then::Stored(4)),
            fenced("run.r", "too late", 3, Then::Refused(Refused::WrongLast)),
            fenced("res.r", "too late", 3, Then::Refused(Refused::WrongLast)),
            Step::Last("*.r", Some((4, "answer"))),
            Step::Last("run.r", Some((3, "hand-over"))),
            Step::Get(1, None),
            Step::Holds(3),
        ],
    }]
}

fn counters() -> Vec<Scenario> {
    let add = |subject, amount, id, then| {
        let write = Write { increment: Some(amount), id: Some(id), ..write(subject, "") };
        Step::Publish(write, then)
    };
    vec![Scenario {
        name: "a counter says its total, and of a repeat nothing",
        stream: StreamConfig { counter: true, ..stream() },
        consumers: vec![],
        steps: vec![
            add("s.a", 500, "1", Then::Total(500)),
            add("s.a", -200, "2", Then::Total(300)),
            add("s.b", 7, "3", Then::Total(7)),
            add("s.a", -200, "2", Then::NoTotal),
            Step::CounterIs("s.a", 300),
            add("s.a", 0, "4", Then::Total(300)),
            Step::Restart,
            add("s.a", -200, "2", Then::NoTotal),
            add("s.a", 1, "5", Then::Total(301)),
            Step::CounterIs("s.a", 301),
        ],
    }]
}

fn deliveries() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "what is not acknowledged comes again, and any delivery of it may be acknowledged",
            stream: queue(),
            consumers: vec![consumer(1_500, 10)],
            steps: vec![
                stored("s.a", "one", 1),
                fetch(&[("one", 1)], 0),
                fetch(&[("one", 2)], 1_500),
                Step::Ack("one", 1),
                Step::Holds(0),
                nothing(2_000),
            ],
        },
        Scenario {
            name: "no more than so many are delivered at a time",
            stream: queue(),
            consumers: vec![consumer(LONG_MS, 2)],
            steps: vec![
                stored("s.a", "one", 1),
                stored("s.b", "two", 2),
                stored("s.a", "three", 3),
                fetch(&[("one", 1), ("two", 1)], 0),
                nothing(500),
                Step::Ack("two", 1),
                fetch(&[("three", 1)], 0),
                Step::Holds(2),
            ],
        },
        Scenario {
            name: "what is handed back comes after its delay, and keeps its place",
            stream: queue(),
            consumers: vec![consumer(LONG_MS, 1)],
            steps: vec![
                stored("s.a", "one", 1),
                stored("s.a", "two", 2),
                fetch(&[("one", 1)], 0),
                Step::Nak("one", 1, 1_000),
                fetch(&[("one", 2)], 1_000),
                nothing(300),
                Step::Ack("one", 2),
                fetch(&[("two", 1)], 0),
            ],
        },
        Scenario {
            name: "a server that was killed delivers again what was in hand",
            stream: queue(),
            consumers: vec![consumer(2_000, 10)],
            steps: vec![
                stored("s.a", "one", 1),
                stored("s.a", "two", 2),
                fetch(&[("one", 1), ("two", 1)], 0),
                Step::Ack("one", 1),
                Step::Restart,
                // It does not always know any more that it delivered it before.
                fetch(&[("two", ANY)], 0),
                Step::Ack("two", ANY),
                Step::Holds(0),
            ],
        },
    ]
}

fn times() -> Vec<Scenario> {
    let later = |payload, in_ms| {
        let write = Write { schedule: Some((in_ms, "s.due")), ..write("s.at.r", payload) };
        Step::Publish(write, Then::Stored(1))
    };
    let again = Write { schedule: Some((1_000, "s.due")), ..write("s.at.r", "new") };
    let only_due = ConsumerConfig { filter: "s.due".into(), ..consumer(LONG_MS, 10) };
    vec![
        Scenario {
            name: "a schedule delivers once, at its time",
            stream: StreamConfig { schedules: true, ..queue() },
            consumers: vec![only_due.clone()],
            steps: vec![
                later("one", 1_500),
                Step::Get(1, Some("one")),
                // The step before is short: it is the write that counts.
                Step::Fetch { consumer: "c", then: vec![("one", 1)], not_before_ms: 500 },
                Step::Ack("one", 1),
                nothing(1_500),
                Step::Holds(0),
            ],
        },
        Scenario {
            name: "a schedule of the same subject replaces the one before",
            stream: StreamConfig { schedules: true, ..queue() },
            consumers: vec![only_due],
            steps: vec![
                later("old", 4_000),
                Step::Publish(again, Then::Stored(2)),
                Step::Holds(1),
                fetch(&[("new", 1)], 0),
                Step::Ack("new", 1),
                nothing(4_500),
                Step::Holds(0),
            ],
        },
        Scenario {
            name: "who says that it is still worked on keeps it",
            stream: queue(),
            // Long enough that a busy machine is not taken for a silent worker.
            consumers: vec![consumer(6_000, 10)],
            steps: vec![
                stored("s.a", "one", 1),
                fetch(&[("one", 1)], 0),
                nothing(1_500),
                Step::Progress("one", 1),
                // Six seconds from here, not from the delivery.
                fetch(&[("one", 2)], 6_000),
            ],
        },
    ]
}
