use std::path::Path;

use tollgate_policy::budget::{Budget, Per, Reserve, Scope, WhenSpent};
use tollgate_protocol::NanoUsd;
use tollgate_protocol::budget::Entry;

use super::*;
use crate::Caps;
use crate::store::memory::MemoryStore;
use crate::testing::event;

mod anew;

fn budgets() -> Budgets {
    let budget = Budget {
        measure: tollgate_policy::budget::Measure::Money,
        name: "research".into(),
        scope: Scope { team: Some("research".into()), ..Scope::default() },
        limit: 1_000_000,
        per: Per::Total,
        timezone: tollgate_policy::budget::Tz::UTC,
        when_spent: WhenSpent::Hold,
        reserve: Reserve::Strict,
        alerts: vec![50, 80, 100],
    };
    Budgets([budget].into())
}

fn counter() -> Counter {
    Counter { budget: "research".into(), window: "total".into() }
}

/// A stream of entries whose total is kept, as the server does.
#[derive(Default)]
struct Entries {
    sequence: Sequence,
    total: i64,
}

impl Entries {
    fn tried(&self, kind: EntryKind) -> Option<String> {
        matches!(kind, EntryKind::Reserve | EntryKind::Settle).then(|| "t".into())
    }

    fn add(&mut self, kind: EntryKind, account: &str, attempt: u32, amount: i64) -> StoredEntry {
        self.sequence += 1;
        self.total += amount;
        let usage_sequence = (kind == EntryKind::Open).then_some(100);
        StoredEntry {
            counter: counter(),
            entry: Entry {
                kind,
                unit: tollgate_protocol::budget::Unit::NanoUsd,
                account: account.into(),
                attempt,
                tried: self.tried(kind),
                takes: None,
                usage_sequence,
                corrects: None,
                limit: None,
            },
            id: match kind {
                EntryKind::Settle => "end/t".into(),
                _ => self.sequence.to_string(),
            },
            amount,
            total: self.total,
            sequence: self.sequence,
            stored_at: event("r1", 1).time,
        }
    }
}

fn ledger() -> Arc<Ledger> {
    Arc::new(Ledger::open(Box::new(MemoryStore::default()), Path::new("ledger"), Caps::default()).unwrap())
}

fn paid(id: &str, cost: i64) -> UsageEvent {
    UsageEvent { cost_nano_usd: NanoUsd(cost), is_final: true, ..event(id, 1) }
}

#[test]
fn what_is_spent_is_told_apart_from_what_is_reserved() {
    let (ledger, mut entries) = (ledger(), Entries::default());
    let mut book = Book::open(Arc::clone(&ledger), budgets()).unwrap();
    book.begin(100);
    let account = paid("r1", 0).identity().to_string();
    assert_eq!(book.unopened(), ["research"]);
    book.read(&[entries.add(EntryKind::Open, "", 0, 50)], &[]).unwrap();
    assert_eq!(book.unopened(), Vec::<String>::new());
    let outcome = book.read(&[entries.add(EntryKind::Reserve, &account, 1, 400)], &[]).unwrap();
    assert_eq!((outcome.due.len(), outcome.changed.len()), (0, 1));
    assert_eq!((book.spent(&counter()).spent_nano_usd, book.spent(&counter()).total_nano_usd), (50, 450));
    let question = OpenQuestion {
        account: account.clone(),
        attempt: 1,
        others: vec![(account.clone(), 1), (account.clone(), 2), ("a.b.c".into(), 1)],
    };
    let answer = book.answer(&question).unwrap();
    assert_eq!(answer.open, [(counter(), "t".to_owned(), 400)]);
    assert_eq!(
        answer.others,
        [(account.clone(), counter()), (account.clone(), counter())],
        "for 2, that of 1"
    );

    let outcome = book.read(&[], &[(101, paid("r1", 120))]).unwrap();
    let [due] = outcome.due.as_slice() else { panic!("{outcome:?}") };
    assert_eq!((due.amount, due.account.as_str(), due.attempt), (-280, account.as_str(), 1));
    assert_eq!(book.spent(&counter()).spent_nano_usd, 170, "it is spent before it is settled");
    assert_eq!(book.all_due().unwrap(), [], "it is being written");
    let answer = book.answer(&question).unwrap();
    assert_eq!((answer.open, answer.others), (Vec::new(), Vec::new()));
    book.failed(due);
    assert_eq!(book.all_due().unwrap(), outcome.due);

    // Another process finds the same.
    let mut other = Book::open(ledger, budgets()).unwrap();
    assert_eq!(other.cursors(), Cursors { entries: 2, usage: Some(101) });
    assert_eq!(other.spent(&counter()), book.spent(&counter()));
    assert_eq!(other.all_due().unwrap(), outcome.due, "under the same id");
    let settled = entries.add(EntryKind::Settle, &account, 1, -280);
    let mut book = other;
    let outcome = book.read(&[settled], &[(101, paid("r1", 120))]).unwrap();
    assert_eq!(outcome.due, []);
    assert_eq!(book.all_due().unwrap(), []);
    let spent = book.spent(&counter());
    assert_eq!((spent.spent_nano_usd, spent.total_nano_usd, spent.sequence), (170, 170, 3));
    // Written twice: taken back.
    let outcome = book.read(&[entries.add(EntryKind::Settle, &account, 1, -280)], &[]).unwrap();
    assert_eq!(outcome.due.iter().map(|due| due.amount).collect::<Vec<_>>(), [280]);
    assert_eq!(book.spent(&counter()).spent_nano_usd, 170);
}

#[test]
fn requests_that_no_budget_concerns_have_no_account() {
    let mut book = Book::open(ledger(), Budgets::default()).unwrap();
    let outcome = book.read(&[], &[(1, paid("r1", 120))]).unwrap();
    assert_eq!(outcome, Outcome::default());
    assert_eq!(book.names().unwrap(), Vec::<String>::new());
    assert_eq!(book.cursors().usage, Some(1));
}

#[test]
fn what_a_copy_of_an_ended_request_reserves_is_over_whichever_target_it_went_to() {
    let elsewhere = Scope { provider: Some("elsewhere".into()), ..Scope::default() };
    let budget = Budget { scope: elsewhere, ..budgets().0[0].clone() };
    let (mut book, mut entries) =
        (Book::open(ledger(), Budgets([budget].into())).unwrap(), Entries::default());
    let ended = UsageEvent { is_final: true, ..paid("r1", 120) };
    let account = ended.identity().to_string();
    book.read(&[], &[(1, ended)]).unwrap();
    let outcome = book.read(&[entries.add(EntryKind::Reserve, &account, 1, 500)], &[]).unwrap();
    let due: Vec<_> = outcome.due.iter().map(|due| due.amount).collect();
    assert_eq!(due, [-500]);
}

#[test]
fn what_was_called_before_the_opening_was_read_is_charged() {
    let (ledger, mut entries) = (ledger(), Entries::default());
    let mut book = Book::open(ledger, budgets()).unwrap();
    book.begin(99);
    let before = book.read(&[], &[(100, paid("r1", 70)), (101, paid("r2", 30))]).unwrap();
    assert_eq!(before.due, []);
    let called = book.called_since("research", 100).unwrap();
    assert_eq!(called, [paid("r2", 30).identity().to_string()], "nobody else is looked at");
    // The opening has all up to 100.
    let outcome = book.read(&[entries.add(EntryKind::Open, "", 0, 70)], &[]).unwrap();
    assert_eq!(outcome.due.iter().map(|due| (due.attempt, due.amount)).collect::<Vec<_>>(), [(0, 30)]);
    assert_eq!(book.spent(&counter()).spent_nano_usd, 100);
}

#[test]
fn other_budgets_count_from_now_on() {
    let (ledger, mut entries) = (ledger(), Entries::default());
    let mut book = Book::open(ledger, budgets()).unwrap();
    book.begin(99);
    let account = paid("r1", 0).identity().to_string();
    book.read(&[entries.add(EntryKind::Open, "", 0, 50)], &[]).unwrap();
    book.read(&[entries.add(EntryKind::Reserve, &account, 1, 400)], &[(101, paid("r2", 30))]).unwrap();
    assert_eq!(book.spent(&counter()).spent_nano_usd, 80);
    // Another limit changes nothing but the limit.
    let budget = budgets().0[0].clone();
    let raised = Budget { limit: 2_000_000, ..budget.clone() };
    assert_eq!(book.configure(Budgets([raised].into())).unwrap(), []);
    assert_eq!(book.list(event("r1", 1).time).budgets[0].limit_nano_usd, 2_000_000);
    // A new one has to be opened; what is told of the others is told anew.
    let new = Budget { name: "new".into(), ..budget.clone() };
    assert_eq!(book.configure(Budgets([budget.clone(), new].into())).unwrap(), [counter()]);
    assert_eq!(book.unopened(), ["new"]);
    assert_eq!(book.spent(&counter()).spent_nano_usd, 80);
    assert_eq!(book.budget("new").unwrap().limit, budget.limit);
    // Of one that is gone nothing is written: what it was for is not known any more.
    book.configure(Budgets::default()).unwrap();
    assert_eq!((book.list(event("r1", 1).time).budgets.len(), book.budget("research")), (0, None));
    let outcome = book.read(&[], &[(102, paid("r1", 120))]).unwrap();
    assert_eq!((outcome.due, book.all_due().unwrap()), (Vec::new(), Vec::new()));
}

#[test]
fn windows_that_are_over_are_forgotten_and_do_not_come_back() {
    let (ledger, mut entries) = (ledger(), Entries::default());
    let budget = Budget { per: Per::Minute, ..budgets().0[0].clone() };
    let mut book = Book::open(ledger, Budgets([budget.clone()].into())).unwrap();
    let (heard, account) = (event("r1", 1).time, paid("r1", 0).identity().to_string());
    let minute = budget.counter(heard);
    let in_minute = |stored: StoredEntry| StoredEntry { counter: minute.clone(), ..stored };
    let reserved = in_minute(entries.add(EntryKind::Reserve, &account, 1, 400));
    let settled = in_minute(entries.add(EntryKind::Settle, &account, 1, -280));
    book.read(&[reserved, settled], &[(1, paid("r1", 120))]).unwrap();
    let next = budget.counter(heard + chrono::TimeDelta::minutes(1));
    let in_next = StoredEntry { counter: next, ..entries.add(EntryKind::Open, "", 0, 0) };
    book.read(&[in_next], &[]).unwrap();
    assert_eq!(book.long_over(heard + chrono::TimeDelta::days(8)), []);
    let gone = book.long_over(heard + chrono::TimeDelta::days(10));
    assert_eq!(gone, [minute]);
    book.drop_counters(&gone).unwrap();
    // Its account is still there when the budgets are others.
    let other = Budget { name: "other".into(), ..budget.clone() };
    assert_eq!(book.configure(Budgets([budget, other].into())).unwrap().len(), 1, "the next minute");
    assert_eq!(book.names().unwrap(), [account]);
}

#[test]
fn what_nobody_will_hear_of_any_more_is_forgotten() {
    let (ledger, mut entries) = (ledger(), Entries::default());
    let mut book = Book::open(ledger, budgets()).unwrap();
    let account = paid("r1", 0).identity().to_string();
    book.read(&[entries.add(EntryKind::Reserve, &account, 1, 400)], &[]).unwrap();
    let heard = event("r1", 1).time;
    book.note_all_read();
    book.forget_accounts(heard + chrono::TimeDelta::days(10)).unwrap();
    assert_eq!(book.names().unwrap(), std::slice::from_ref(&account), "it is open");
    let settled = entries.add(EntryKind::Settle, &account, 1, -280);
    book.read(&[settled], &[(1, paid("r1", 120))]).unwrap();
    book.forget_accounts(heard + chrono::TimeDelta::days(8)).unwrap();
    assert_eq!(book.names().unwrap(), [account]);
    let later = heard + chrono::TimeDelta::days(10);
    book.forget_accounts(later).unwrap();
    assert_eq!(book.long_over(later), [], "a budget without end has no old window");
    assert_eq!(book.names().unwrap(), Vec::<String>::new());
}

/// Routers that start hear of a budget by what is told of its windows.
#[test]
fn the_newest_window_of_a_budget_stays() {
    let (ledger, mut entries) = (ledger(), Entries::default());
    let budget = Budget { per: Per::Minute, ..budgets().0[0].clone() };
    let mut book = Book::open(Arc::clone(&ledger), Budgets([budget.clone()].into())).unwrap();
    let heard = event("r1", 1).time;
    let minutes: Vec<_> =
        (0..3).map(|minute| budget.counter(heard + chrono::TimeDelta::minutes(minute))).collect();
    for counter in &minutes {
        let entry = StoredEntry { counter: counter.clone(), ..entries.add(EntryKind::Open, "", 0, 0) };
        book.read(&[entry], &[]).unwrap();
    }
    let later = heard + chrono::TimeDelta::days(365);
    let mut gone = book.long_over(later);
    gone.sort();
    assert_eq!(gone, minutes[..2]);
    book.drop_counters(&gone).unwrap();
    assert_eq!((book.long_over(later), book.unopened()), (Vec::new(), Vec::new()));
}

#[test]
fn a_budget_that_is_configured_no_more_is_forgotten_with_its_last_window() {
    let (ledger, mut entries) = (ledger(), Entries::default());
    let budget = Budget { per: Per::Day, ..budgets().0[0].clone() };
    let mut book = Book::open(Arc::clone(&ledger), Budgets([budget.clone()].into())).unwrap();
    let heard = event("r1", 1).time;
    let day = budget.counter(heard);
    let open = StoredEntry { counter: day.clone(), ..entries.add(EntryKind::Open, "", 0, 0) };
    let total = entries.add(EntryKind::Open, "", 0, 0);
    book.read(&[open, total], &[]).unwrap();
    book.configure(Budgets::default()).unwrap();
    // It may have been a month.
    assert_eq!(book.long_over(heard + chrono::TimeDelta::days(40)), []);
    assert_eq!(book.long_over(heard + chrono::TimeDelta::days(43)), std::slice::from_ref(&day));
    let opened = |book: &mut Book| {
        book.configure(Budgets([budget.clone()].into())).unwrap();
        let unopened = book.unopened();
        book.configure(Budgets::default()).unwrap();
        unopened.is_empty()
    };
    book.drop_counters(&[day]).unwrap();
    assert!(opened(&mut book), "a window without end is there");
    book.drop_counters(&[counter()]).unwrap();
    assert!(!opened(&mut book));
    assert!(!opened(&mut Book::open(ledger, Budgets::default()).unwrap()), "in its store, too");
}

/// A new book that reads a log which has lost its beginning: it writes nothing for what it does not know.
#[test]
fn a_log_without_its_beginning_is_not_settled_by_what_is_left() {
    let mut entries = Entries { sequence: 1_000, total: 5_000 };
    let mut book = Book::open(ledger(), budgets()).unwrap();
    book.begin(0);
    book.adopt_opening("research", 0);
    let account = |id: &str| paid(id, 0).identity().to_string();
    let later =
        UsageEvent { accepted_at: Some(event("r3", 1).time + chrono::TimeDelta::hours(1)), ..paid("r3", 40) };
    // Read before the log is known to be short: the entries of this one are not in it.
    let before = book.read(&[], &[(1, paid("r2", 70))]).unwrap();
    assert_eq!(before.due.iter().map(|due| due.amount).collect::<Vec<_>>(), [70]);
    book.not_mine(&before.due[0]);
    // The first that is left ends a reservation that is not; of a later request everything is there.
    let left = [
        entries.add(EntryKind::Settle, &account("r1"), 1, -280),
        entries.add(EntryKind::Reserve, &account("r3"), 1, 100),
    ];
    let outcome = book.read(&left, &[(2, paid("r1", 120)), (3, later)]).unwrap();
    assert_eq!(
        outcome.due.iter().map(|due| (due.account.as_str(), due.amount)).collect::<Vec<_>>(),
        [(account("r3").as_str(), -60)]
    );
    assert_eq!(book.due_again().unwrap().due, []);
    outcome.due.iter().for_each(|due| book.not_mine(due));
    assert_eq!(book.all_due().unwrap(), outcome.due);
    let spent = book.spent(&counter());
    assert_eq!((spent.total_nano_usd, spent.spent_nano_usd), (4_820, 4_760));
    // What the audit looks at is not smoothed.
    let (_, lines) = book.looked_at(&account("r1")).unwrap().unwrap();
    assert_eq!(lines.iter().map(Line::difference).collect::<Vec<_>>(), [400]);
}

#[test]
fn a_log_that_is_whole_is_settled_by_what_is_there() {
    let mut entries = Entries::default();
    let mut book = Book::open(ledger(), budgets()).unwrap();
    book.begin(0);
    book.adopt_opening("research", 0);
    // The counter is known by what is to be written before it is read.
    let due = book.read(&[], &[(1, paid("r2", 70))]).unwrap().due;
    assert_eq!(due.iter().map(|due| due.amount).collect::<Vec<_>>(), [70]);
    let other = Budget { name: "other".into(), ..budgets().0[0].clone() };
    book.configure(Budgets([budgets().0[0].clone(), other].into())).unwrap();
    book.configure(budgets()).unwrap();
    let account = paid("r1", 0).identity().to_string();
    // Somebody took back what was not reserved.
    let due =
        book.read(&[entries.add(EntryKind::Settle, &account, 1, -280)], &[(2, paid("r1", 0))]).unwrap().due;
    assert_eq!(due.iter().map(|due| due.amount).collect::<Vec<_>>(), [280]);
    assert_eq!(book.spent(&counter()).spent_nano_usd, 70);
}

/// What is stored grows at the ends of its parts only.
#[test]
fn what_an_older_version_stored_is_read() {
    let (ledger, mut entries) = (ledger(), Entries { sequence: 2, total: 450 });
    let name = paid("r1", 0).identity().to_string();
    let held = (400_i64, 2_u64, vec![("t".to_owned(), 400_i64)], tollgate_protocol::budget::Unit::NanoUsd);
    let reserved = BTreeMap::from([(
        "research".to_owned(),
        BTreeMap::from([(1_u32, BTreeMap::from([("total".to_owned(), held)]))]),
    )]);
    let accepted = event("r1", 1).accepted_at.unwrap().timestamp_micros();
    let charges = vec![counter()];
    let paid_before = (70_i64, false, "openai", "gpt-4o-mini", 100_u64, charges, 13_i64);
    let attempts = BTreeMap::from([((accepted, 1_u32), paid_before)]);
    let corrections: BTreeMap<String, (u32, i64)> = BTreeMap::new();
    let account = (&name, 2_u64, false, 0_u32, attempts, corrections, reserved, 0_i64);
    let mut changes = Changes::default();
    changes.put(account_key(&name), encode(&account).unwrap());
    let sums = (450_i64, 400_i64, 2_u64);
    let counter_key = [COUNTER, counter().to_string().as_bytes()].concat();
    changes.put(counter_key, encode(&(counter(), sums)).unwrap());
    changes.put([OPENED, b"research"].concat(), encode(&("research", 99_u64)).unwrap());
    changes.put(STATE.to_vec(), encode(&Cursors { entries: 2, usage: Some(100) }).unwrap());
    ledger.store().apply(&changes).unwrap();
    let mut book = Book::open(ledger, budgets()).unwrap();
    assert_eq!(book.spent(&counter()).spent_nano_usd, 50);
    // Its log is known from its first entry on, whatever its total is.
    let outcome = book.read(
        &[entries.add(EntryKind::Undo, "other", 1, -1)],
        &[(101, UsageEvent { kind: tollgate_protocol::usage::Kind::Unpaid, attempt: 0, ..paid("r1", 0) })],
    );
    let due = outcome.unwrap().due;
    assert_eq!(
        due.iter().map(|due| (due.account.as_str(), due.amount)).collect::<Vec<_>>(),
        [(name.as_str(), -330)]
    );
    assert_eq!(book.spent(&counter()).spent_nano_usd, 120);
}
