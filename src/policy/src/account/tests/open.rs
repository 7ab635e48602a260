//! What is reserved and not over.

use super::*;

/// What the ledger asks before it charges a call: a reservation may be stored and not read yet.
#[test]
fn a_call_has_its_reservation_only_while_a_try_for_it_stands() {
    let mut account = Account::default();
    let of = |name: &str| Counter { budget: name.into(), window: "w".into() };
    let has = |account: &Account, event: &UsageEvent| account.is_reserved_for(event, &budgets());
    assert!(!has(&account, &paid(1, 120, true)), "nothing was read");
    assert!(has(&account, &UsageEvent { kind: Kind::Unpaid, ..paid(1, 0, true) }), "nothing is charged");
    account.note_entry(&of("other"), &entry_of(EntryKind::Reserve, 1, Some("o".into())), 500, 1, at(1));
    assert!(!has(&account, &paid(1, 120, true)), "another budget's");
    account.note_entry(&counter("w"), &entry_of(EntryKind::Reserve, 2, Some("a".into())), 500, 1, at(1));
    assert!(!has(&account, &paid(1, 120, true)) && has(&account, &paid(2, 120, true)));
    assert!(!has(&account, &paid(3, 120, true)), "the worker went on by itself, or an entry was not read");
    account.note_entry(&counter("w"), &entry_of(EntryKind::Undo, 2, Some("a".into())), -500, 2, at(2));
    assert!(!has(&account, &paid(2, 120, true)), "it was taken back");
    account.note_entry(&counter("w"), &entry_of(EntryKind::Reserve, 2, Some("b".into())), 500, 3, at(3));
    assert!(has(&account, &paid(2, 120, true)));
    account.note_entry(&counter("w"), &entry_of(EntryKind::Settle, 2, Some("b".into())), -380, 4, at(4));
    assert!(!has(&account, &paid(2, 120, true)), "it is over");
    account.note_usage(&paid(2, 120, true), 101, &budgets());
    assert!(has(&account, &paid(2, 120, true)), "it is charged already");
    assert!(!has(&account, &paid(0, 120, true)), "no attempt has this number");
}

/// A request that comes back to the routers with a call behind it holds what was reserved for that one until it tries anew.
#[test]
fn what_is_held_for_an_attempt_before_is_told_until_the_next_one_is_tried() {
    let mut account = Account::default();
    account.note_entry(&counter("w"), &entry_of(EntryKind::Reserve, 1, Some("a".into())), 500, 1, at(1));
    account.note_usage(&paid(1, 0, false), 101, &budgets());
    let held =
        |account: &Account, attempt| account.held_in(attempt, &budgets()).into_iter().collect::<Vec<_>>();
    assert_eq!((held(&account, 0), held(&account, 1)), (vec![], vec![counter("w")]));
    assert_eq!(held(&account, 2), [counter("w")]);
    assert_eq!(account.open(2, &budgets()), [], "it is not for that attempt");
    // No room for the next one, because its own is still there.
    account.note_entry(&counter("w"), &entry_of(EntryKind::Reserve, 2, Some("b".into())), 500, 2, at(2));
    account.note_entry(&counter("w"), &entry_of(EntryKind::Undo, 2, Some("b".into())), -500, 3, at(3));
    assert_eq!(held(&account, 2), []);
    assert_eq!(differences(&account), [("w".into(), 1, -500)]);
}
