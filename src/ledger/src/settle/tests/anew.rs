use super::*;

/// What was called while a budget was not there counts when it is back, and nothing is told of it before that is charged.
#[test]
fn a_budget_that_comes_back_is_counted_anew() {
    let (ledger, mut entries) = (ledger(), Entries::default());
    let mut book = Book::open(Arc::clone(&ledger), budgets()).unwrap();
    let account = |id: &str| paid(id, 0).identity().to_string();
    let opened = entries.add(EntryKind::Open, "", 0, 50);
    let reserved = entries.add(EntryKind::Reserve, &account("r1"), 1, 400);
    let stream = [(101, paid("r1", 120)), (102, paid("r2", 30))];
    book.begin(100);
    book.read(&[opened.clone(), reserved.clone()], &[]).unwrap();
    // It is taken away while a call is under way, and another one is made without it.
    assert_eq!(book.configure(Budgets::default()).unwrap(), [counter()]);
    assert!(book.is_closed("research") && !book.is_counted_anew("research"));
    assert_eq!(book.read(&[], &stream).unwrap().due, []);
    assert_eq!(book.spent(&counter()).total_nano_usd, 450);

    let again = |book: &mut Book| {
        assert_eq!((book.cursors(), book.unopened()), (Cursors::default(), Vec::new()));
        assert!(book.is_counted_anew("research"));
        book.begin(100);
        let read = book.read(&[opened.clone(), reserved.clone()], &stream).unwrap();
        read.due.iter().for_each(|due| book.not_mine(due));
        book.all_due().unwrap()
    };
    assert_eq!(book.configure(budgets()).unwrap(), [counter()]);
    let due = again(&mut book);
    let amounts: Vec<_> = due.iter().map(|due| (due.account.clone(), due.amount)).collect();
    assert_eq!(amounts, [(account("r1"), -280), (account("r2"), 30)]);
    assert_eq!(book.spent(&counter()).spent_nano_usd, 200);
    let new_limit = Budget { limit: 7, ..budgets().0[0].clone() };
    book.configure(Budgets([new_limit].into())).unwrap();
    assert!(book.is_counted_anew("research"), "less stands in its counter");

    // Who dies before all is charged begins again.
    let mut book = Book::open(Arc::clone(&ledger), budgets()).unwrap();
    assert_eq!(again(&mut book), due);
    let settled = entries.add(EntryKind::Settle, &account("r1"), 1, -280);
    assert_eq!(book.read(&[settled], &[]).unwrap().due, []);
    assert!(book.is_counted_anew("research"), "what is too much keeps nobody, what is too little does");
    let charged = StoredEntry {
        entry: Entry { tried: None, ..entries.add(EntryKind::Settle, &account("r2"), 0, 30).entry },
        ..entries.add(EntryKind::Settle, &account("r2"), 0, 0)
    };
    let charged = StoredEntry { amount: 30, ..charged };
    let outcome = book.read(&[charged], &[]).unwrap();
    assert_eq!((outcome.due, book.is_counted_anew("research")), (Vec::new(), false));
    assert_eq!(outcome.changed, BTreeSet::from([counter()]));
    let spent = book.spent(&counter());
    assert_eq!((spent.spent_nano_usd, spent.total_nano_usd), (200, 200));
    // Once that is done, a start is none of it.
    let book = Book::open(ledger, budgets()).unwrap();
    assert_eq!(book.spent(&counter()), spent);
    assert!(!book.is_counted_anew("research"));
}

/// A budget's opening, and a call of `r1` that was reserved for and cost 120.
fn one_call(entries: &mut Entries) -> [StoredEntry; 3] {
    let account = paid("r1", 0).identity().to_string();
    [
        entries.add(EntryKind::Open, "", 0, 50),
        entries.add(EntryKind::Reserve, &account, 1, 400),
        entries.add(EntryKind::Settle, &account, 1, -280),
    ]
}

/// A budget is counted anew, and some usage events are gone: what was settled for them stays spent.
#[test]
fn what_was_settled_is_spent_though_its_usage_is_gone() {
    let mut entries = Entries::default();
    let mut book = Book::open(ledger(), budgets()).unwrap();
    book.begin(500);
    let [opened, reserved, settled] = one_call(&mut entries);
    assert_eq!(book.read(&[opened, reserved], &[]).unwrap().due, []);
    assert_eq!(book.spent(&counter()).spent_nano_usd, 50);
    assert_eq!(book.read(&[settled], &[]).unwrap().due, []);
    assert_eq!(book.spent(&counter()).spent_nano_usd, 170);
}

/// Calls without a limit of tokens a minute, for longer than its windows are kept: they are not charged when it is back, and
/// leave nothing behind.
#[test]
fn windows_that_are_long_over_do_not_come_back_with_a_limit() {
    let measure = tollgate_policy::budget::Measure::Tokens;
    let limit = Budget { measure, per: Per::Minute, ..budgets().0[0].clone() };
    let mut book = Book::open(ledger(), Budgets([limit.clone()].into())).unwrap();
    let heard = event("r1", 1).time;
    let at = |minutes: i64| heard + chrono::TimeDelta::minutes(minutes);
    let now = limit.counter(at(120));
    let opened = Entries::default().add(EntryKind::Open, "", 0, 0);
    let opened = StoredEntry { counter: now.clone(), stored_at: at(120), ..opened };
    book.begin(100);
    let usage = tollgate_protocol::TokenUsage { input_tokens: 7, ..Default::default() };
    let called = |id: &str, minutes| UsageEvent { usage, time: at(minutes), ..paid(id, 9) };
    let outcome = book.read(&[opened], &[(101, called("old", 1)), (102, called("new", 119))]).unwrap();
    let due: Vec<_> = outcome.due.iter().map(|due| (due.counter.clone(), due.amount)).collect();
    assert_eq!(due, [(limit.counter(at(119)), 7)]);
    assert!(!book.counters().any(|counter| *counter == limit.counter(at(1))));
    book.note_all_read();
    assert!(book.forget_accounts(heard + chrono::TimeDelta::days(10)).unwrap());
    assert_eq!(
        book.names().unwrap(),
        [paid("new", 0).identity().to_string()],
        "what is not charged yet stays"
    );
}

/// Both definitions of one budget, the other is for more.
fn others() -> Budgets {
    Budgets([Budget { scope: Scope::default(), ..budgets().0[0].clone() }].into())
}

/// The next change comes before all is read: what was read by another definition is not enough, though this is the one by
/// which all was counted before.
#[test]
fn a_budget_that_becomes_what_it_was_is_counted_anew_as_well() {
    let (ledger, mut entries) = (ledger(), Entries::default());
    let mut book = Book::open(Arc::clone(&ledger), budgets()).unwrap();
    let opened = entries.add(EntryKind::Open, "", 0, 50);
    book.begin(100);
    book.read(&[opened], &[]).unwrap();
    book.configure(others()).unwrap();
    assert_eq!(book.cursors(), Cursors::default());
    book.begin(100);
    book.read(&[], &[(101, paid("r1", 120))]).unwrap();
    // It may be that of a process which has died meanwhile.
    let restarted = Book::open(Arc::clone(&ledger), budgets()).unwrap();
    assert_eq!((restarted.cursors(), restarted.is_counted_anew("research")), (Cursors::default(), true));
    drop(restarted);
    let mut book = Book::open(Arc::clone(&ledger), others()).unwrap();
    book.begin(100);
    book.read(&[], &[(101, paid("r1", 120))]).unwrap();
    book.configure(budgets()).unwrap();
    assert_eq!((book.cursors(), book.is_counted_anew("research")), (Cursors::default(), true));
    // One that changes while another is counted anew is, too.
    let second = Budget { name: "second".into(), ..budgets().0[0].clone() };
    let both = Budgets([budgets().0[0].clone(), second].into());
    book.adopt_opening("second", 100);
    book.configure(both.clone()).unwrap();
    assert!(book.is_counted_anew("second"));
    book.configure(others()).unwrap();
    book.configure(both).unwrap();
    assert!(book.is_counted_anew("second") && book.is_counted_anew("research"));
}

/// What was charged for calls that nobody had reserved for stays spent as well.
#[test]
fn what_was_charged_is_spent_though_its_usage_is_gone() {
    let mut entries = Entries::default();
    let mut book = Book::open(ledger(), budgets()).unwrap();
    book.begin(500);
    let opened = entries.add(EntryKind::Open, "", 0, 50);
    let charged = entries.add(EntryKind::Settle, &paid("r1", 0).identity().to_string(), 0, 30);
    assert_eq!(book.read(&[opened, charged], &[]).unwrap().due, []);
    assert_eq!(book.all_due().unwrap(), []);
    assert_eq!(book.spent(&counter()).spent_nano_usd, 80);
}

/// A difference that could not be written may be none any more when it is looked at again: nobody waits for it.
#[test]
fn what_is_due_no_more_keeps_no_budget_closed() {
    for begins in [false, true] {
        one_that_is_due_no_more(begins);
    }
}

/// Looked at again by who goes on writing, or by who begins to.
fn one_that_is_due_no_more(begins: bool) {
    let measure = tollgate_policy::budget::Measure::Tokens;
    let limit = Budget { measure, per: Per::Minute, ..budgets().0[0].clone() };
    let limits = || Budgets([limit.clone()].into());
    let mut book = Book::open(ledger(), limits()).unwrap();
    let mut entries = Entries::default();
    let heard = event("r1", 1).time;
    let opened = |entries: &mut Entries, minutes: i64| {
        let stored_at = heard + chrono::TimeDelta::minutes(minutes);
        StoredEntry { counter: limit.counter(stored_at), stored_at, ..entries.add(EntryKind::Open, "", 0, 0) }
    };
    let usage = tollgate_protocol::TokenUsage { input_tokens: 7, ..Default::default() };
    let called = UsageEvent { usage, time: heard, ..paid("r1", 9) };
    book.begin(100);
    book.read(&[opened(&mut entries, 1)], &[]).unwrap();
    book.configure(Budgets::default()).unwrap();
    let back = |book: &mut Book, opened: StoredEntry| {
        book.configure(limits()).unwrap();
        book.begin(100);
        let due = book.read(&[opened], &[(101, called.clone())]).unwrap().due;
        due.iter().for_each(|due| book.not_mine(due));
        let due = book.all_due().unwrap();
        assert_eq!((due.len(), book.is_counted_anew("research")), (1, true));
        due
    };
    let due = back(&mut book, opened(&mut entries, 2));
    book.failed(&due[0]);
    let other = paid("other", 0).identity().to_string();
    let reserved = entries.add(EntryKind::Reserve, &other, 1, 0);
    let later = StoredEntry { entry: reserved.entry, ..opened(&mut entries, 90) };
    book.read(&[later], &[]).unwrap();
    assert!(book.is_counted_anew("research"));
    if begins {
        assert_eq!(book.all_due().unwrap(), []);
    } else {
        let outcome = book.due_again().unwrap();
        assert_eq!(outcome.due, []);
        assert!(outcome.changed.iter().any(|counter| counter.budget == limit.name));
    }
    assert!(!book.is_counted_anew("research"));
}

/// A call that was settled long ago is read again, its usage event last: until then it looks as if it were over.
#[test]
fn nothing_is_forgotten_that_is_known_by_half() {
    let mut entries = Entries::default();
    let mut book = Book::open(ledger(), budgets()).unwrap();
    book.begin(100);
    let [opened, reserved, settled] = one_call(&mut entries);
    let later = settled.stored_at + chrono::TimeDelta::days(10);
    book.read(&[opened, reserved, settled], &[]).unwrap();
    assert!(!book.forget_accounts(later).unwrap());
    assert_eq!(book.read(&[], &[(101, paid("r1", 120))]).unwrap().due, [], "it is charged already");
    book.note_all_read();
    assert!(book.forget_accounts(later).unwrap());
    assert_eq!(book.names().unwrap(), Vec::<String>::new());
    book.configure(others()).unwrap();
    assert!(!book.forget_accounts(later).unwrap(), "all is read again");
}
