use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tollgate_protocol::NanoUsd;
use tollgate_protocol::money::COST_MAX;
use tollgate_protocol::response::{Outcome, Status};
use tollgate_protocol::usage::UsageEvent;

use super::batch::SWEEP_PER_MESSAGE;
use super::*;
use crate::key::{Key, Label, Labels, Table};
use crate::row::Row;
use crate::store::after_prefix;
use crate::store::memory::MemoryStore;
use crate::testing::{at, correction, event, ledger, lost, message, messages, raw, total, unpaid};

/// Folds the events one after the other and gives (requests, attempts, lost, cost, estimated cost).
#[track_caller]
fn check(events: &[UsageEvent], expected: (i64, i64, i64, i128, i128)) {
    let ledger = ledger(MemoryStore::default(), Caps::default());
    ledger.fold(&messages(events)).unwrap();
    let row = total(&ledger);
    assert_eq!(
        (row.requests, row.attempts, row.lost, row.cost_nano_usd, row.estimated_cost_nano_usd),
        expected
    );
}

#[test]
fn each_id_counts_once() {
    check(&[], (0, 0, 0, 0, 0));
    check(&[event("a", 1)], (1, 1, 0, 1_000, 0));
    check(&[event("a", 1), event("a", 1), event("a", 1)], (1, 1, 0, 1_000, 0));
    check(&[event("a", 1), event("b", 1)], (2, 2, 0, 2_000, 0));
    check(&[unpaid("a", Status::Rejected), unpaid("a", Status::Rejected)], (1, 0, 0, 0, 0));
}

#[test]
fn an_identity_that_is_used_again_counts_again() {
    let again = UsageEvent { accepted_at: Some(at(3 * 86_400)), ..event("a", 1) };
    check(&[event("a", 1), again.clone(), again], (2, 2, 0, 2_000, 0));
}

#[test]
fn an_attempt_beats_a_lost() {
    check(&[lost("a", 1)], (0, 1, 1, 7_777, 7_777));
    check(&[lost("a", 1), event("a", 1)], (1, 1, 0, 1_000, 0));
    check(&[event("a", 1), lost("a", 1)], (1, 1, 0, 1_000, 0));
    check(&[lost("a", 1), event("a", 1), lost("a", 1), event("a", 1)], (1, 1, 0, 1_000, 0));
    check(&[lost("a", 1), event("a", 2)], (1, 2, 1, 8_777, 7_777));
}

#[test]
fn what_a_lost_added_is_taken_from_where_it_was() {
    let ledger = ledger(MemoryStore::default(), Caps::default());
    let mut found = event("a", 1);
    found.time = at(7_200);
    found.meta.user = Some("alice".into());
    found.model = Some("gpt-4o".into());
    ledger.fold(&messages(&[lost("a", 1)])).unwrap();
    ledger.fold(&[message(2, &found)]).unwrap();
    let answer = |query: &str| {
        let (_, query) = crate::query::parse(query.as_bytes()).unwrap();
        ledger.query(&query).unwrap().0
    };
    let hours = answer(r#"{"by":["model"],"bucket":"hour"}"#);
    assert_eq!(hours.groups.len(), 1, "the lost event's hour and model are gone: {hours:?}");
    assert_eq!(answer(r#"{"where":{"user":null}}"#).total, Row::default());
    total(&ledger);
}

#[test]
fn corrections_are_signed_and_add() {
    let original = event("a", 1);
    let up = correction(&original, 500);
    let mut down = correction(&original, -1_200);
    down.time = at(1);
    check(&[original.clone(), up.clone(), down.clone()], (1, 1, 0, 300, 0));
    check(&[down.clone(), up.clone(), original, up, down], (1, 1, 0, 300, 0));
}

#[test]
fn statuses_and_failures_are_counted() {
    let ledger = ledger(MemoryStore::default(), Caps::default());
    let failed =
        UsageEvent { outcome: Some(Outcome::Failed), is_final: false, status: None, ..event("a", 1) };
    let events = [
        failed,
        event("a", 2),
        unpaid("b", Status::Rejected),
        unpaid("c", Status::Expired),
        unpaid("d", Status::Cancelled),
        unpaid("e", Status::Failed),
    ];
    ledger.fold(&messages(&events)).unwrap();
    let row = total(&ledger);
    let by_status = [row.succeeded, row.failed, row.rejected, row.expired, row.cancelled];
    assert_eq!((row.requests, by_status, row.attempts, row.errors), (5, [1; 5], 2, 1));
    assert_eq!(
        (row.input_tokens, row.cached_input_tokens, row.output_tokens, row.reasoning_tokens),
        (20, 8, 6, 2)
    );
    assert_eq!((row.latency_ms_sum, row.latency_count, row.queued_ms_sum), (400, 2, 25));
}

#[test]
fn what_is_no_event_is_counted_and_passed() {
    let ledger = ledger(MemoryStore::default(), Caps::default());
    let nameless = UsageEvent { kind: Kind::Correction, ..event("x", 1) };
    let odd = UsageEvent { corrects: Some("y".into()), ..event("x", 1) };
    let report = ledger
        .fold(&[
            raw(1, "{}"),
            raw(2, ""),
            message(3, &event("a", 1)),
            raw(4, [0xff; 3]),
            message(5, &nameless),
            message(6, &odd),
        ])
        .unwrap();
    assert_eq!((report.added(), report.skipped), (1, 5));
    let state = ledger.state().unwrap();
    assert_eq!((state.cursor, state.skipped), (6, 5));
    let sequences: Vec<_> = ledger.skipped().unwrap().iter().map(|skipped| skipped.sequence).collect();
    assert_eq!(sequences, [1, 2, 4, 5, 6]);
}

/// Sums of what no call costs would leave no room for what calls cost.
#[test]
fn what_no_call_costs_is_unreadable() {
    let costs = |event: UsageEvent, cost| {
        let event = UsageEvent { cost_nano_usd: NanoUsd(cost), ..event };
        parse(&serde_json::to_vec(&event).unwrap())
    };
    let call = event("r1", 1);
    for right in [0, COST_MAX.0] {
        costs(call.clone(), right).unwrap();
    }
    for wrong in [-1, COST_MAX.0 + 1, i64::MAX, i64::MIN] {
        assert!(costs(call.clone(), wrong).unwrap_err().contains("cost"), "{wrong}");
    }
    for right in [-COST_MAX.0, COST_MAX.0] {
        costs(correction(&call, 0), right).unwrap();
    }
    for wrong in [-COST_MAX.0 - 1, COST_MAX.0 + 1, i64::MIN] {
        costs(correction(&call, 0), wrong).unwrap_err();
    }
}

#[test]
fn the_newest_unreadable_messages_are_remembered() {
    let ledger = ledger(MemoryStore::default(), Caps::default());
    let garbage: Vec<_> = (1..=SKIPPED_KEPT + 3).map(|sequence| raw(sequence, "x")).collect();
    ledger.fold(&garbage).unwrap();
    let remembered = ledger.skipped().unwrap();
    assert_eq!(remembered.len() as u64, SKIPPED_KEPT);
    assert_eq!(remembered.first().map(|skipped| skipped.sequence), Some(4));
    assert_eq!(ledger.state().unwrap().skipped, SKIPPED_KEPT + 3);
}

#[test]
fn the_cursor_never_goes_back_and_gaps_are_counted() {
    let ledger = ledger(MemoryStore::default(), Caps::default());
    ledger.fold(&[message(5, &event("a", 1))]).unwrap();
    let report = ledger.fold(&[message(4, &event("b", 1)), message(5, &event("a", 1))]).unwrap();
    assert_eq!((report.added(), report.repeated), (0, 2));
    ledger.fold(&[message(9, &event("c", 1))]).unwrap();
    let state = ledger.state().unwrap();
    assert_eq!((state.cursor, state.missing, state.total.requests), (9, 7, 2));
    assert_eq!(ledger.skip_to(7).unwrap(), 0);
    assert_eq!(ledger.skip_to(20).unwrap(), 11);
    assert_eq!(ledger.state().unwrap().cursor, 20);
}

#[test]
fn old_ids_are_forgotten_in_small_steps() {
    let ledger = ledger(MemoryStore::default(), Caps::default());
    let ids: Vec<_> = (0..1_000).map(|i| event(&format!("r{i:04}"), 1)).collect();
    ledger.fold(&messages(&ids)).unwrap();
    let later = |sequence: u64, days: i64, id: &str| Message {
        stored_at: at(days * 86_400),
        ..message(sequence, &event(id, 1))
    };
    let report = ledger.fold(&[later(1_001, 8, "young")]).unwrap();
    assert_eq!(report.forgotten, 0, "nine days are not over");
    // An id counts again once it is old, whether or not the sweep has reached it.
    let report = ledger.fold(&[later(1_002, 10, "r0999")]).unwrap();
    assert_eq!(report.added(), 1);
    assert!(report.forgotten <= SWEEP_PER_MESSAGE as u64, "{report:?}");
    let mut forgotten = report.forgotten;
    for sequence in 1_003..1_600 {
        let report = ledger.fold(&[later(sequence, 10, &format!("n{sequence}"))]).unwrap();
        assert!(report.forgotten <= SWEEP_PER_MESSAGE as u64);
        forgotten += report.forgotten;
    }
    assert_eq!(forgotten, 999, "all but the one that was counted anew");
    let repeated = ledger.fold(&[later(1_600, 10, "r0999")]).unwrap();
    assert_eq!(repeated.added(), 0, "it was remembered anew");
    total(&ledger);
}

#[test]
fn beyond_a_cap_the_sums_stay_exact() {
    let caps = Caps { main: 3, users: 2, tags: 2, tag_names: 1 };
    let ledger = ledger(MemoryStore::default(), caps);
    let events: Vec<_> = (0..10)
        .map(|i| {
            let mut event = event(&format!("r{i}"), 1);
            event.meta.user = Some(format!("user-{i}"));
            event.meta.project = Some(format!("project-{i}"));
            event.meta.tags = BTreeMap::from([(format!("tag-{}", i % 3), format!("value-{i}"))]);
            event
        })
        .collect();
    ledger.fold(&messages(&events)).unwrap();
    let groups = |by: &str| {
        let (_, query) = crate::query::parse(format!(r#"{{"by":["{by}"]}}"#).as_bytes()).unwrap();
        let sums = ledger.query(&query).unwrap().0;
        assert_eq!(sums.total, total(&ledger), "{by}");
        sums.groups
            .into_iter()
            .map(|(group, row)| (group.labels[0].clone(), row.requests))
            .collect::<Vec<_>>()
    };
    let text = |text: &str| Label::Text(text.into());
    assert_eq!(groups("user"), [(Label::Other, 8), (text("user-0"), 1), (text("user-1"), 1)]);
    assert_eq!(
        groups("project"),
        [(Label::Other, 7), (text("project-0"), 1), (text("project-1"), 1), (text("project-2"), 1)]
    );
    assert_eq!(groups("tag:tag-0"), [(Label::Absent, 9), (text("value-0"), 1)]);
    assert_eq!(groups("tag:tag-2"), [(Label::Absent, 7), (Label::Other, 3)]);
}

/// A set of events as the broker makes them: for each attempt an `attempt`, a `lost` or both, in different
/// hours and with different labels; requests without one; corrections. The same message id is the same
/// event.
fn events() -> impl Strategy<Value = Vec<UsageEvent>> {
    let one = (0..12_u32, 0..4_u32, 0..4_u8, any::<i64>(), any::<u64>(), 0..5_i64, 0..4_u8);
    proptest::collection::vec(one, 0..24).prop_map(|choices| {
        let mut by_id = BTreeMap::new();
        for (id, attempt, kind, cost, tokens, hour, label) in choices {
            let id = format!("r{id}");
            let mut event = match kind {
                0 => unpaid(&id, Status::Expired),
                1 => lost(&id, attempt + 1),
                2 => event(&id, attempt + 1),
                _ => correction(&event(&id, attempt + 1), 0),
            };
            event.time = at(hour * 1_800);
            if event.kind != Kind::Unpaid {
                let cost = cost % (COST_MAX.0 + 1);
                event.cost_nano_usd = NanoUsd(if kind == 3 { cost } else { cost.abs() });
                event.usage.input_tokens = tokens;
            }
            event.meta.user = (label > 0).then(|| format!("user-{label}"));
            event.meta.project = (label > 1).then(|| format!("project-{label}"));
            if label > 2 {
                event.meta.tags = BTreeMap::from([("app".into(), format!("app-{hour}"))]);
            }
            by_id.insert(event.message_id(), event);
        }
        by_id.into_values().collect()
    })
}

/// The same events in another order, some of them more than once, cut into batches.
fn arrivals() -> impl Strategy<Value = (Vec<UsageEvent>, Vec<UsageEvent>, usize)> {
    (events(), any::<u64>(), 1..9_usize).prop_flat_map(|(events, _, batch)| {
        let doubled: Vec<_> = events.iter().chain(&events).cloned().collect();
        let kept = proptest::collection::vec(any::<bool>(), events.len());
        (Just(events.clone()), Just(doubled).prop_shuffle(), kept, Just(batch)).prop_map(
            |(events, shuffled, kept, batch)| {
                // Drop the second copy of some.
                let mut seen = BTreeSet::new();
                let keep: BTreeMap<_, _> = events.iter().map(UsageEvent::message_id).zip(kept).collect();
                let shuffled = shuffled
                    .into_iter()
                    .filter(|event| seen.insert(event.message_id()) || keep[&event.message_id()])
                    .collect();
                (events, shuffled, batch)
            },
        )
    })
}

/// The rule for sums, said again as simply as possible: which of the events count.
fn counted(events: &[UsageEvent]) -> Vec<&UsageEvent> {
    let attempts: BTreeSet<_> =
        events.iter().filter(|event| event.kind == Kind::Attempt).map(UsageEvent::ce_id).collect();
    events.iter().filter(|event| event.kind != Kind::Lost || !attempts.contains(&event.ce_id())).collect()
}

fn recount(events: &[UsageEvent]) -> BTreeMap<Key, Row> {
    let mut rows = BTreeMap::<Key, Row>::new();
    for event in counted(events) {
        for key in Key::of(event) {
            rows.entry(key).or_default().add(&Row::of(event));
        }
    }
    rows.retain(|_, row| !row.is_zero());
    rows
}

fn stored(store: &dyn Store) -> BTreeMap<Key, Row> {
    let mut rows = BTreeMap::new();
    for table in [Table::Main, Table::User, Table::Tag] {
        let prefix = [table as u8];
        store
            .scan(&prefix, &after_prefix(&prefix), &mut |key, value| {
                rows.insert(Key::decode(key).unwrap(), Row::decode(value).unwrap());
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
    }
    rows
}

fn fold_all(arrivals: &[UsageEvent], batch: usize, caps: Caps) -> (MemoryStore, State) {
    let (store, mut state) = (MemoryStore::default(), State::default());
    for messages in messages(arrivals).chunks(batch) {
        let (next, changes, _) = fold(&store, caps, state, messages).unwrap();
        store.apply(&changes).unwrap();
        state = next;
    }
    (store, state)
}

proptest! {
    #[test]
    fn any_order_and_any_repetition_give_the_naive_recount((events, arrivals, batch) in arrivals()) {
        let (store, state) = fold_all(&arrivals, batch, Caps::default());
        let expected = recount(&events);
        prop_assert_eq!(stored(&store), expected);
        let cost: i128 = counted(&events).iter().map(|event| i128::from(event.cost_nano_usd.0)).sum();
        prop_assert_eq!(state.total.cost_nano_usd, cost);
        prop_assert_eq!(state.cursor, arrivals.len() as u64);
    }

    #[test]
    fn caps_change_where_but_never_how_much((events, arrivals, batch) in arrivals(), main in 0..3_u32, rest in 0..3_u32) {
        let caps = Caps { main, users: rest, tags: rest, tag_names: rest };
        let (store, state) = fold_all(&arrivals, batch, caps);
        let mut expected = Row::default();
        counted(&events).iter().for_each(|event| expected.add(&Row::of(event)));
        prop_assert_eq!(&state.total, &expected);
        let rows = stored(&store);
        for table in [Table::Main, Table::User] {
            let mut sum = Row::default();
            rows.iter().filter(|(key, _)| key.table() == table).for_each(|(_, row)| sum.add(row));
            prop_assert_eq!(&sum, &expected);
        }
        let (_, query) = crate::query::parse(br#"{"by":["tag:app"]}"#).unwrap();
        let sums = crate::query::answer(&store, &query).unwrap();
        let mut sum = Row::default();
        sums.groups.values().for_each(|row| sum.add(row));
        prop_assert_eq!(&sum, &expected);
        let named = rows.keys().filter(|key| matches!(&key.labels, Labels::User(Label::Text(_) | Label::Absent)));
        let mut per_hour = BTreeMap::<u32, u32>::new();
        named.for_each(|key| *per_hour.entry(key.hour).or_default() += 1);
        prop_assert!(per_hour.values().all(|users| *users <= rest));
    }

    #[test]
    fn any_bytes_are_passed(payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..5)) {
        let ledger = ledger(MemoryStore::default(), Caps::default());
        let messages: Vec<_> = (1..).zip(payloads).map(|(sequence, payload)| raw(sequence, payload)).collect();
        ledger.fold(&messages).unwrap();
        prop_assert_eq!(ledger.cursor().unwrap(), messages.len() as u64);
    }
}
