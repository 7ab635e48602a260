use proptest::prelude::*;
use tollgate_protocol::budget::{Counter, Entry, EntryKind};
use tollgate_protocol::usage::{Kind, UsageEvent};
use tollgate_protocol::{NanoUsd, TokenUsage};

use super::*;
use crate::budget::tests::{at, budget, event};
use crate::budget::{Budget, Measure};

/// Something that an account hears of.
type Step = Box<dyn Fn(&mut Account, u64)>;

fn budgets() -> Budgets {
    Budgets([budget("b", "1.00")].into())
}

fn counter(window: &str) -> Counter {
    Counter { budget: "b".into(), window: window.into() }
}

fn entry(kind: EntryKind, attempt: u32) -> Entry {
    Entry {
        kind,
        unit: Unit::NanoUsd,
        account: "team._.r1".into(),
        attempt,
        tried: Some("try".into()),
        takes: None,
        usage_sequence: None,
        corrects: None,
        limit: None,
    }
}

fn entry_of(kind: EntryKind, attempt: u32, tried: Option<String>) -> Entry {
    Entry { tried, ..entry(kind, attempt) }
}

fn paid(attempt: u32, cost: i64, is_final: bool) -> UsageEvent {
    UsageEvent { attempt, cost_nano_usd: NanoUsd(cost), is_final, ..event() }
}

fn differences(account: &Account) -> Vec<(String, u32, i64)> {
    let lines = account.lines(&budgets(), |_| Some(100)).into_iter();
    lines
        .filter(|line| line.difference() != 0)
        .map(|line| (line.counter.window.clone(), line.attempt, line.difference()))
        .collect()
}

#[test]
fn a_reservation_is_settled_at_what_the_call_cost() {
    let mut account = Account::default();
    account.note_entry(&counter("w"), &entry(EntryKind::Reserve, 1), 500, 1, at(1));
    assert_eq!(differences(&account), [], "it is open");
    assert_eq!(account.open(1, &budgets()), [(counter("w"), "try".to_owned(), 500)]);
    account.note_usage(&paid(1, 120, true), 101, &budgets());
    assert_eq!(differences(&account), [("w".into(), 1, -380)]);
    assert_eq!(account.open(1, &budgets()), []);
    account.note_entry(&counter("w"), &entry(EntryKind::Settle, 1), -380, 2, at(2));
    assert_eq!(differences(&account), []);
}

#[test]
fn limits_are_settled_in_their_own_units() {
    let limit = |name: &str, measure| Budget { measure, ..budget(name, "1.00") };
    let budgets = Budgets([limit("t", Measure::Tokens), limit("f", Measure::InFlight)].into());
    let of = |name: &str| Counter { budget: name.into(), window: "w".into() };
    let mut account = Account::default();
    for (name, unit, amount) in [("t", Unit::Tokens, 500), ("f", Unit::InFlight, 1)] {
        account.note_entry(&of(name), &Entry { unit, ..entry(EntryKind::Reserve, 1) }, amount, 1, at(1));
    }
    let usage = TokenUsage { input_tokens: 30, output_tokens: 12, ..TokenUsage::default() };
    account.note_usage(&UsageEvent { usage, ..paid(1, 9_999, true) }, 101, &budgets);
    let lines = account.lines(&budgets, |_| Some(100));
    let differences: Vec<_> =
        lines.iter().map(|line| (line.counter.budget.as_str(), line.unit, line.difference())).collect();
    assert_eq!(differences, [("f", Unit::InFlight, -1), ("t", Unit::Tokens, -458)]);
    // What is not configured is not known, and so nothing is written to it.
    assert_eq!(account.lines(&Budgets::default(), |_| None), []);
}

#[test]
fn whatever_comes_late_or_twice_is_put_right() {
    let mut account = Account::default();
    account.note_entry(&counter("w"), &entry(EntryKind::Reserve, 1), 500, 1, at(1));
    let lost = UsageEvent { kind: Kind::Lost, ..paid(1, 400, false) };
    account.note_usage(&lost, 101, &budgets());
    account.note_usage(&paid(2, 70, true), 102, &budgets());
    assert_eq!(differences(&account), [("w".into(), 1, -30)], "the lost one stands in as estimated");
    account.note_entry(&counter("w"), &entry(EntryKind::Settle, 1), -30, 2, at(2));
    account.note_usage(&paid(1, 50, false), 103, &budgets());
    assert_eq!(differences(&account), [("w".into(), 1, -350)], "its result came late");
    account.note_usage(&lost, 104, &budgets());
    assert_eq!(differences(&account), [("w".into(), 1, -350)], "a repeat changes nothing");
    account.note_entry(&counter("w"), &entry(EntryKind::Settle, 1), -350, 3, at(3));
    account.note_entry(&counter("w"), &entry(EntryKind::Settle, 1), -350, 4, at(3));
    assert_eq!(differences(&account), [("w".into(), 1, 350)], "settled twice");
    account.note_entry(&counter("w"), &entry(EntryKind::Settle, 1), 350, 5, at(3));
    account.note_entry(&counter("w"), &entry(EntryKind::Reserve, 1), 500, 6, at(4));
    assert_eq!(
        differences(&account),
        [("w".into(), 1, -500)],
        "a copy of an answered request was reserved for"
    );
}

#[test]
fn what_is_undone_leaves_nothing() {
    let mut account = Account::default();
    account.note_entry(&counter("w"), &entry(EntryKind::Reserve, 1), 500, 1, at(1));
    account.note_entry(&counter("w"), &entry(EntryKind::Undo, 1), -500, 2, at(1));
    assert_eq!(account.open(1, &budgets()), []);
    account.note_usage(&UsageEvent { kind: Kind::Unpaid, ..paid(0, 0, true) }, 101, &budgets());
    assert_eq!(differences(&account), []);
}

#[test]
fn each_try_is_ended_under_its_own_id() {
    let mut account = Account::default();
    for (sequence, tried) in [(1, "orphan"), (2, "other"), (3, "last")] {
        account.note_entry(
            &counter("w"),
            &entry_of(EntryKind::Reserve, 1, Some(tried.into())),
            500,
            sequence,
            at(1),
        );
    }
    account.note_entry(&counter("w"), &entry_of(EntryKind::Undo, 1, Some("other".into())), -500, 4, at(1));
    let entries = |account: &Account| account.lines(&budgets(), |_| None)[0].entries();
    assert_eq!(entries(&account), [], "while it is open, nobody knows which of them holds");
    account.note_usage(&paid(1, 120, true), 101, &budgets());
    assert_eq!(entries(&account), [(Some("orphan".into()), -500), (Some("last".into()), -380)]);
    account.note_entry(&counter("w"), &entry_of(EntryKind::Settle, 1, Some("last".into())), -380, 5, at(2));
    assert_eq!(entries(&account), [(Some("orphan".into()), -500)]);
    // Its router was alive, and has taken it back itself.
    account.note_entry(&counter("w"), &entry_of(EntryKind::Undo, 1, Some("orphan".into())), -500, 6, at(2));
    assert_eq!(entries(&account), []);
    account.note_usage(
        &UsageEvent { corrects: Some("x".into()), kind: Kind::Correction, ..paid(1, 7, false) },
        102,
        &budgets(),
    );
    assert_eq!(entries(&account), [(None, 7)]);
}

/// Two routers have the same request in hand. One takes over what the other reserved; the other's undo comes too late, since
/// it has the same id as what took it over.
#[test]
fn a_try_that_is_taken_over_is_ended_under_its_new_id() {
    let mut account = Account::default();
    account.note_entry(&counter("w"), &entry_of(EntryKind::Reserve, 1, Some("theirs".into())), 500, 1, at(1));
    let take = Entry { takes: Some("theirs".into()), ..entry_of(EntryKind::Take, 1, Some("mine".into())) };
    account.note_entry(&counter("w"), &take, 0, 2, at(1));
    assert_eq!(account.open(1, &budgets()), [(counter("w"), "mine".to_owned(), 500)]);
    account.note_usage(&paid(1, 120, true), 101, &budgets());
    let entries = account.lines(&budgets(), |_| None)[0].entries();
    assert_eq!(entries, [(Some("mine".into()), -380)]);
}

#[test]
fn what_the_counter_said_goes_with_a_try_until_it_is_over() {
    let mut account = Account::default();
    let known = |account: &Account| {
        account.tries().into_iter().map(|(tried, of)| (tried, of.total, of.is_taken)).collect::<Vec<_>>()
    };
    for (tried, total) in [("held", 3), ("refused", 4)] {
        let reserve = Entry { limit: Some(3), ..entry_of(EntryKind::Reserve, 1, Some(tried.into())) };
        account.note_entry(&counter("w"), &reserve, 1, 1, at(1));
        account.note_total(&counter("w"), &reserve, total, at(1));
    }
    assert_eq!(known(&account), [("held".into(), 3, false), ("refused".into(), 4, false)]);
    let take = Entry { takes: Some("held".into()), ..entry_of(EntryKind::Take, 1, Some("mine".into())) };
    account.note_entry(&counter("w"), &take, 0, 2, at(1));
    account.note_total(&counter("w"), &take, 9, at(2));
    let undo = entry_of(EntryKind::Undo, 1, Some("refused".into()));
    account.note_entry(&counter("w"), &undo, -1, 3, at(1));
    assert_eq!(known(&account), [("mine".into(), 3, true)]);
}

/// The last of two tries is to carry the cost, and its router takes it back at the same time: the counter is never lower than
/// what the request cost.
#[test]
fn what_carries_the_cost_is_written_before_the_other_tries_are_ended() {
    for is_taken_back in [false, true] {
        let mut account = Account::default();
        for (sequence, tried) in [(1, "dispatched"), (2, "refused")] {
            let reserve = entry_of(EntryKind::Reserve, 1, Some(tried.into()));
            account.note_entry(&counter("w"), &reserve, 500, sequence, at(1));
        }
        account.note_usage(&paid(1, 120, true), 101, &budgets());
        let (mut total, mut ended) = (1_000, Vec::new());
        for sequence in 3.. {
            let next = account.lines(&budgets(), |_| None)[0].next_entry();
            let Some((tried, mut amount)) = next else { break };
            let mut kind = EntryKind::Settle;
            if is_taken_back && ended.is_empty() {
                // Both write under the same id, and the router was first.
                (kind, amount) = (EntryKind::Undo, -500);
            }
            total += amount;
            assert!(total >= 120, "{total} after {tried:?}");
            account.note_entry(&counter("w"), &entry_of(kind, 1, tried.clone()), amount, sequence, at(2));
            ended.push(tried.unwrap());
        }
        assert_eq!((total, ended), (120, vec!["refused".to_owned(), "dispatched".to_owned()]));
    }
}

#[test]
fn the_window_of_the_reservation_is_charged() {
    let mut account = Account::default();
    // An orphan of a router that died, then the one that holds.
    account.note_entry(&counter("w1"), &entry(EntryKind::Reserve, 1), 500, 1, at(1));
    account.note_entry(&counter("w2"), &entry(EntryKind::Reserve, 1), 500, 2, at(2));
    account.note_usage(&UsageEvent { requeued: true, ..paid(1, 100, false) }, 101, &budgets());
    assert_eq!(differences(&account), [("w1".into(), 1, -500), ("w2".into(), 1, -400)], "it went back");
    account.note_entry(&counter("w3"), &entry(EntryKind::Reserve, 2), 500, 3, at(3));
    account.note_usage(&paid(2, 60, true), 102, &budgets());
    assert_eq!(
        differences(&account),
        [("w1".into(), 1, -500), ("w2".into(), 1, -400), ("w3".into(), 2, -440)]
    );
}

#[test]
fn a_later_reservation_ends_the_one_before() {
    let mut account = Account::default();
    account.note_entry(&counter("w"), &entry(EntryKind::Reserve, 1), 500, 1, at(1));
    account.note_usage(&paid(1, 100, false), 101, &budgets());
    assert_eq!(differences(&account), []);
    account.note_entry(&counter("w"), &entry(EntryKind::Reserve, 2), 500, 2, at(2));
    assert_eq!(differences(&account), [("w".into(), 1, -400)]);
}

#[test]
fn what_nobody_reserved_for_is_charged_once_the_budget_is_open() {
    let mut account = Account::default();
    account.note_usage(&paid(1, 100, false), 100, &budgets());
    assert_eq!(differences(&account), [], "the opening has it");
    account.note_usage(&paid(2, 70, true), 101, &budgets());
    let window = budgets().0[0].window(event().time).name;
    assert_eq!(differences(&account), [(window.clone(), 0, 70)]);
    assert_eq!(account.lines(&budgets(), |_| None).iter().map(Line::difference).sum::<i64>(), 0);
    account.note_entry(&counter(&window), &entry(EntryKind::Settle, 0), 70, 9, at(9));
    assert_eq!(differences(&account), []);
}

/// A router reserves in one window, hands the request on and dies before it says so. Another one has it when the window has
/// turned: its try is taken back, and the window in which nothing is reserved is charged nothing.
#[test]
fn a_window_is_not_charged_for_a_try_that_was_taken_back() {
    let mut account = Account::default();
    let reserve = |tried: &str| entry_of(EntryKind::Reserve, 1, Some(tried.into()));
    account.note_entry(&counter("w1"), &reserve("first"), 500, 1, at(-60));
    account.note_entry(&counter("w2"), &reserve("second"), 500, 2, at(-2));
    account.note_entry(&counter("w2"), &entry_of(EntryKind::Undo, 1, Some("second".into())), -500, 3, at(-2));
    account.note_usage(&paid(1, 120, true), 101, &budgets());
    assert_eq!(differences(&account), [("w1".into(), 1, -380)]);
    // What the ledger ends was not taken back.
    account.note_entry(&counter("w1"), &entry_of(EntryKind::Settle, 1, Some("first".into())), -380, 4, at(9));
    assert_eq!(differences(&account), []);
}

#[test]
fn a_window_is_not_charged_for_a_try_that_came_after_the_call() {
    let mut account = Account::default();
    account.note_entry(&counter("monday"), &entry(EntryKind::Reserve, 1), 500, 1, at(-60));
    account.note_usage(&paid(1, 120, true), 101, &budgets());
    account.note_entry(&counter("monday"), &entry(EntryKind::Settle, 1), -380, 2, at(9));
    // The answered request is published again.
    let again = |kind| entry_of(kind, 1, Some("again".into()));
    account.note_entry(&counter("tuesday"), &again(EntryKind::Reserve), 500, 3, at(86_400));
    assert_eq!(differences(&account), [("tuesday".into(), 1, -500)]);
    account.note_entry(&counter("tuesday"), &again(EntryKind::Settle), -500, 4, at(86_401));
    assert_eq!(differences(&account), []);
    // The identity is used again when the answer is gone: each use is charged where it was reserved for.
    account.note_entry(
        &counter("wednesday"),
        &entry_of(EntryKind::Reserve, 1, Some("used".into())),
        500,
        5,
        at(172_800),
    );
    let accepted_at = Some(at(172_700));
    let used = UsageEvent { accepted_at, time: at(172_810), ..paid(1, 70, true) };
    account.note_usage(&used, 102, &budgets());
    assert_eq!(differences(&account), [("wednesday".into(), 1, -430)]);
}

#[test]
fn the_clocks_of_server_and_worker_may_be_apart() {
    for (stored_after, window) in [(-9, "w2"), (4, "w2"), (6, "w1")] {
        let mut account = Account::default();
        let stored_at = event().time + chrono::TimeDelta::seconds(stored_after);
        let reserve = |tried: &str| entry_of(EntryKind::Reserve, 1, Some(tried.into()));
        account.note_entry(
            &counter("w1"),
            &reserve("first"),
            0,
            1,
            stored_at - chrono::TimeDelta::seconds(60),
        );
        account.note_entry(&counter("w2"), &reserve("second"), 0, 2, stored_at);
        account.note_usage(&paid(1, 120, true), 101, &budgets());
        assert_eq!(differences(&account), [(window.into(), 1, 120)], "{stored_after} s");
    }
}

/// The take is later than the try, which stands since it was made.
#[test]
fn a_try_that_is_taken_over_stands_since_it_was_made() {
    let mut account = Account::default();
    let reserve = |tried: &str| entry_of(EntryKind::Reserve, 1, Some(tried.into()));
    account.note_entry(&counter("w1"), &reserve("theirs"), 500, 1, at(-60));
    account.note_entry(&counter("w2"), &reserve("other"), 500, 2, at(-50));
    let take = Entry { takes: Some("theirs".into()), ..entry_of(EntryKind::Take, 1, Some("mine".into())) };
    account.note_entry(&counter("w1"), &take, 0, 3, at(60));
    account.note_usage(&paid(1, 120, true), 101, &budgets());
    assert_eq!(differences(&account), [("w1".into(), 1, -380), ("w2".into(), 1, -500)]);
    // Its first id means nothing any more.
    account.note_entry(&counter("w1"), &entry_of(EntryKind::Undo, 1, Some("theirs".into())), 0, 4, at(61));
    assert_eq!(differences(&account), [("w1".into(), 1, -380), ("w2".into(), 1, -500)]);
}

/// Accounts that an older version stored have neither which tries stand nor when calls began.
#[test]
fn what_an_older_version_stored_is_charged_as_it_did() {
    let mut account = Account::default();
    account.note_entry(&counter("w1"), &entry(EntryKind::Reserve, 1), 500, 1, at(-60));
    account.note_entry(&counter("w2"), &entry(EntryKind::Reserve, 1), 500, 2, at(86_400));
    account.note_usage(&paid(1, 120, true), 101, &budgets());
    assert_eq!(differences(&account), [("w1".into(), 1, -380), ("w2".into(), 1, -500)]);
    for of in account.reserved.values_mut().flat_map(BTreeMap::values_mut).flat_map(BTreeMap::values_mut) {
        of.stands.clear();
    }
    assert_eq!(differences(&account), [("w1".into(), 1, -500), ("w2".into(), 1, -380)]);
    account.attempts.values_mut().for_each(|paid| paid.time_ms = 0);
    account.note_entry(&counter("w3"), &entry(EntryKind::Reserve, 1), 500, 3, at(86_500));
    assert_eq!(
        differences(&account),
        [("w1".into(), 1, -500), ("w2".into(), 1, -500), ("w3".into(), 1, -380)]
    );
}

#[test]
fn an_entry_of_a_try_that_is_not_there_is_noticed() {
    let is_cut = |entries: &[(EntryKind, Option<&str>)]| {
        let mut account = Account::default();
        for (sequence, (kind, tried)) in (1..).zip(entries) {
            let takes = (*kind == EntryKind::Take).then(|| "a".to_owned());
            let entry = Entry { takes, ..entry_of(*kind, 1, tried.map(str::to_owned)) };
            account.note_entry(&counter("w"), &entry, 1, sequence, at(1));
        }
        account.lines(&budgets(), |_| None)[0].is_cut
    };
    use EntryKind::{Reserve, Settle, Take, Undo};
    assert!(!is_cut(&[(Reserve, Some("a")), (Settle, Some("a")), (Settle, Some("a")), (Settle, None)]));
    assert!(!is_cut(&[(Reserve, Some("a")), (Take, Some("b")), (Undo, Some("b"))]));
    for cut in [(Settle, Some("b")), (Undo, Some("b"))] {
        assert!(is_cut(&[cut]));
        assert!(is_cut(&[(Reserve, Some("a")), cut]));
    }
    assert!(is_cut(&[(Take, Some("b"))]));
    assert!(is_cut(&[(Settle, None)]), "the rest of what was settled before");
}

#[test]
fn a_budget_that_is_taken_out_for_a_while_keeps_what_it_was_charged() {
    let mut account = Account::default();
    account.note_usage(&paid(1, 100, true), 101, &budgets());
    let window = budgets().0[0].window(event().time).name;
    account.note_entry(&counter(&window), &entry_of(EntryKind::Settle, 0, None), 100, 1, at(9));
    assert_eq!(differences(&account), []);
    assert_eq!(account.lines(&Budgets::default(), |_| Some(100)), []);
    // It is the same when it is back.
    assert_eq!(differences(&account), []);
}

proptest! {
    /// In whatever order events and entries come, and however often, what is written by the rule makes the counter equal
    /// to the cost.
    #[test]
    fn the_counter_ends_at_the_cost(
        costs in proptest::collection::vec((0_i64..1_000, any::<bool>()), 1..4),
        reserved in proptest::collection::vec((1_u32..4, 0_i64..2_000, 0_usize..3), 0..6),
        order in proptest::collection::vec(any::<proptest::sample::Index>(), 0..40),
    ) {
        let last = costs.len() as u32;
        let mut steps: Vec<Step> = Vec::new();
        for (index, (cost, was_lost)) in costs.iter().copied().enumerate() {
            let number = index as u32 + 1;
            steps.push(Box::new(move |account, at| account.note_usage(&paid(number, cost, number == last), 101 + at, &budgets())));
            if was_lost {
                steps.push(Box::new(move |account, at| {
                    let lost = UsageEvent { kind: Kind::Lost, ..paid(number, 999, false) };
                    account.note_usage(&lost, 101 + at, &budgets());
                }));
            }
        }
        let mut account = Account::default();
        let mut sequence = 1;
        let mut total = 0_i64;
        let apply = |account: &mut Account, reserved: &(u32, i64, usize), sequence: u64| {
            let window = ["w1", "w2", "w3"][reserved.2];
            let tried = entry_of(EntryKind::Reserve, reserved.0, Some(sequence.to_string()));
            account.note_entry(&counter(window), &tried, reserved.1, sequence, at(1));
        };
        let settle = |account: &mut Account, sequence: &mut u64, total: &mut i64| {
            loop {
                let mut is_even = true;
                for line in account.lines(&budgets(), |_| Some(100)) {
                    let Some((tried, amount)) = line.next_entry() else { continue };
                    is_even = false;
                    *sequence += 1;
                    *total += amount;
                    let entry = entry_of(EntryKind::Settle, line.attempt, tried);
                    account.note_entry(&line.counter, &entry, amount, *sequence, at(1));
                }
                if is_even {
                    break;
                }
            }
        };
        for pick in &order {
            let all = steps.len() + reserved.len();
            let at = pick.index(all);
            if let Some(step) = steps.get(at) {
                step(&mut account, 0);
            } else {
                sequence += 1;
                total += reserved[at - steps.len()].1;
                apply(&mut account, &reserved[at - steps.len()], sequence);
            }
            settle(&mut account, &mut sequence, &mut total);
        }
        for step in &steps {
            step(&mut account, 0);
        }
        settle(&mut account, &mut sequence, &mut total);
        prop_assert_eq!(total, costs.iter().map(|(cost, _)| *cost).sum::<i64>());
        prop_assert!(account.lines(&budgets(), |_| Some(100)).iter().all(|line| line.difference() == 0));
    }
}

/// Entries and usage events are read by themselves: that the next attempt is reserved for can be known first.
#[test]
fn what_was_reserved_for_a_call_stays_until_it_is_known_what_it_cost() {
    let mut account = Account::default();
    account.note_entry(&counter("w"), &entry_of(EntryKind::Reserve, 1, Some("a".into())), 500, 1, at(1));
    account.note_entry(&counter("w"), &entry_of(EntryKind::Reserve, 3, Some("b".into())), 500, 2, at(2));
    assert_eq!(differences(&account), []);
    account.note_usage(&paid(1, 50, false), 101, &budgets());
    assert_eq!(differences(&account), [], "the worker went on by itself");
    account.note_usage(&paid(2, 120, false), 102, &budgets());
    assert_eq!(differences(&account), [("w".into(), 1, -330)]);
    assert_eq!(account.open(3, &budgets()).len(), 1);
}

mod open;
