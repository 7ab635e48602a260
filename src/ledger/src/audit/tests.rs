use std::path::Path;

use tollgate_policy::budget::{Budget, Measure, Per, Reserve, Scope, WhenSpent};
use tollgate_protocol::NanoUsd;
use tollgate_protocol::usage::UsageEvent;

use super::*;
use crate::Caps;
use crate::store::memory::MemoryStore;
use crate::testing::{at, event};

fn counter() -> Counter {
    Counter { budget: "research".into(), window: "total".into() }
}

fn audit() -> Audit {
    audit_of(Per::Total)
}

fn audit_of(per: Per) -> Audit {
    let budget = Budget {
        name: "research".into(),
        scope: Scope { team: Some("research".into()), ..Scope::default() },
        measure: Measure::Money,
        limit: 1_000_000,
        per,
        timezone: tollgate_policy::budget::Tz::UTC,
        when_spent: WhenSpent::Hold,
        reserve: Reserve::Strict,
        alerts: Vec::new(),
    };
    let ledger = Ledger::open(Box::new(MemoryStore::default()), Path::new("x"), Caps::default()).unwrap();
    Audit::new(Arc::new(ledger), Budgets([budget].into()), None).unwrap()
}

/// A counter's entries as a server keeps them.
#[derive(Default)]
struct Stream {
    sequence: Sequence,
    total: i64,
}

impl Stream {
    fn entry(&mut self, kind: EntryKind, account: &str, amount: i64) -> StoredEntry {
        self.sequence += 1;
        self.total += amount;
        let is_try = matches!(kind, EntryKind::Reserve | EntryKind::Settle);
        StoredEntry {
            counter: counter(),
            entry: Entry {
                kind,
                unit: Unit::NanoUsd,
                account: account.into(),
                attempt: u32::from(!account.is_empty()),
                tried: is_try.then(|| format!("try of {account}")),
                takes: None,
                usage_sequence: (kind == EntryKind::Open).then_some(0),
                corrects: None,
                limit: None,
            },
            id: String::new(),
            amount,
            total: self.total,
            sequence: self.sequence,
            stored_at: at(0),
        }
    }

    fn unreadable(&mut self, amount: i64) -> UnreadableEntry {
        let StoredEntry { counter, total, sequence, .. } = self.entry(EntryKind::Open, "", amount);
        UnreadableEntry { counter, amount, total, sequence, reason: "no header".into() }
    }
}

fn paid(id: &str, cost: i64) -> UsageEvent {
    UsageEvent { cost_nano_usd: NanoUsd(cost), ..event(id, 1) }
}

const R1: &str = "research._.r1";

/// An opening, and a request that was reserved for and cost less.
fn begun(stream: &mut Stream) -> Audit {
    let mut audit = audit();
    let entries =
        vec![Ok(stream.entry(EntryKind::Open, "", 0)), Ok(stream.entry(EntryKind::Reserve, R1, 400))];
    audit.read(entries, &[(1, paid("r1", 120))]).unwrap();
    audit
}

fn openings(audit: &Audit) -> HashMap<Sequence, Option<i64>> {
    audit.openings().into_iter().map(|(sequence, ..)| (sequence, Some(0))).collect()
}

/// Writes corrections, and reads them back.
fn correct(audit: &mut Audit, stream: &mut Stream, difference: &Difference) -> Vec<String> {
    let corrections = audit.corrections(difference).unwrap();
    let ids = corrections.iter().map(|correction| correction.id.clone()).collect();
    for Correction { entry, amount, .. } in corrections {
        let stored = StoredEntry { entry, ..stream.entry(EntryKind::Correct, "", amount) };
        audit.read(vec![Ok(stored)], &[]).unwrap();
    }
    ids
}

#[test]
fn what_is_settled_is_no_difference() {
    let mut stream = Stream::default();
    let mut audit = begun(&mut stream);
    let found = audit.accounts(None, at(0)).unwrap();
    assert_eq!(found.differences.iter().map(Difference::amount).collect::<Vec<_>>(), [280], "to be settled");
    audit.read(vec![Ok(stream.entry(EntryKind::Settle, R1, -280))], &[]).unwrap();
    let found = audit.accounts(None, at(0)).unwrap();
    assert_eq!((found.differences.len(), found.open.len(), found.accounts), (0, 0, 1));
    assert_eq!(audit.beside(&openings(&audit)), BTreeSet::new());
    assert_eq!((audit.cursors(), audit.readable()), ((3, 1), (3, 1)));
}

#[test]
fn a_difference_of_an_account_is_put_right_under_the_ledgers_own_id() {
    let mut stream = Stream::default();
    let mut audit = begun(&mut stream);
    let found = audit.accounts(None, at(0)).unwrap();
    let difference = found.differences.first().unwrap();
    assert_eq!((difference.what, difference.account.as_str()), (What::Account, R1));
    assert_eq!(correct(&mut audit, &mut stream, difference), [format!("end/try of {R1}")]);
    assert_eq!(audit.accounts(None, at(0)).unwrap().differences, BTreeSet::new());
    assert_eq!(stream.total, 120);
}

#[test]
fn a_reservation_is_open_and_can_be_given_up() {
    let mut stream = Stream::default();
    let mut audit = begun(&mut stream);
    audit.read(vec![Ok(stream.entry(EntryKind::Reserve, "nobody", 70))], &[]).unwrap();
    let found = audit.accounts(Some(&["nobody".to_owned()].into()), at(0)).unwrap();
    assert_eq!((found.differences.len(), found.open.len()), (0, 1));
    let open = found.open.first().unwrap();
    assert_eq!((open.what, open.amount()), (What::Reservation, 70));
    assert_eq!(correct(&mut audit, &mut stream, open), ["end/try of nobody"]);
    assert_eq!(audit.accounts(Some(&["nobody".to_owned()].into()), at(0)).unwrap().open, BTreeSet::new());
}

#[test]
fn entries_of_no_account_are_corrected_by_their_sequence() {
    let mut stream = Stream::default();
    let mut audit = begun(&mut stream);
    let strange = vec![Err(stream.unreadable(33)), Ok(stream.entry(EntryKind::Open, "", 5))];
    audit.read(strange, &[]).unwrap();
    let found: Vec<_> = audit.beside(&openings(&audit)).into_iter().collect();
    let amounts: Vec<_> = found.iter().map(|difference| (difference.sequence, difference.amount())).collect();
    assert_eq!(amounts, [(3, 33), (4, 5)]);
    assert_eq!(audit.cursors().0, 4);
    for difference in &found {
        correct(&mut audit, &mut stream, difference);
    }
    assert_eq!(audit.beside(&openings(&audit)), BTreeSet::new());
    // A correction that was written twice is a difference again.
    let twice = audit.corrections(&found[0]).unwrap().remove(0);
    let stored = StoredEntry { entry: twice.entry, ..stream.entry(EntryKind::Correct, "", twice.amount) };
    audit.read(vec![Ok(stored)], &[]).unwrap();
    let found: Vec<_> = audit.beside(&openings(&audit)).iter().map(Difference::amount).collect();
    assert_eq!(found, [-33]);
}

#[test]
fn an_opening_has_to_say_what_was_spent_before() {
    let mut stream = Stream::default();
    let audit = begun(&mut stream);
    let (sequence, ..) = audit.openings()[0].clone();
    let found = |should| {
        audit.beside(&[(sequence, should)].into()).iter().map(Difference::amount).collect::<Vec<_>>()
    };
    assert_eq!(found(Some(50)), [-50]);
    assert_eq!(found(Some(0)), [] as [i64; 0]);
    assert_eq!(found(None), [] as [i64; 0], "its events are gone");
}

#[test]
fn a_log_without_its_beginning_is_compared_as_far_as_it_goes() {
    let mut stream = Stream { sequence: 0, total: 1_000 };
    let mut audit = audit();
    let later = UsageEvent { accepted_at: Some(at(1)), ..paid("r2", 10) };
    audit
        .read(vec![Ok(stream.entry(EntryKind::Settle, R1, -280))], &[(1, paid("r1", 120)), (2, later)])
        .unwrap();
    audit.read(vec![Ok(stream.entry(EntryKind::Reserve, "research._.r2", 30))], &[]).unwrap();
    let found = audit.accounts(None, at(0)).unwrap();
    let names: Vec<_> = found.differences.iter().map(|found| found.account.clone()).collect();
    assert_eq!((names, found.not_compared), (vec!["research._.r2".to_owned()], 1));
    assert_eq!(audit.beside(&HashMap::new()), BTreeSet::new());
}

#[test]
fn entries_that_are_gone_and_what_is_told_wrongly_are_named() {
    let mut stream = Stream::default();
    let mut audit = begun(&mut stream);
    stream.entry(EntryKind::Reserve, "gone", 9);
    audit.read(vec![Ok(stream.entry(EntryKind::Settle, R1, -280))], &[]).unwrap();
    let found: Vec<_> = audit.beside(&openings(&audit)).into_iter().collect();
    assert_eq!((found[0].what, found[0].amount(), found[0].sequence), (What::Counter, 9, 4));
    let told = |spent| HashMap::from([(counter(), Spent { spent_nano_usd: spent, ..Spent::default() })]);
    assert_eq!(audit.told(&told(129), at(0)), BTreeSet::new());
    assert_eq!(audit.told(&told(130), at(0)).iter().map(Difference::amount).collect::<Vec<_>>(), [1]);
}

/// A ledger that was made anew from a log without the opening opens the budget again, in a later window and with nothing.
#[test]
fn an_opening_after_other_entries_has_nothing_to_say() {
    let mut audit = audit_of(Per::Day);
    let mut stream = Stream::default();
    let mut of = |window: &str, kind, account: &str, amount| {
        let stored = stream.entry(kind, account, amount);
        Ok(StoredEntry { counter: Counter { window: window.into(), ..counter() }, ..stored })
    };
    let entries = vec![
        of("20260101T000000Z", EntryKind::Reserve, R1, 400),
        of("20260102T000000Z", EntryKind::Open, "", 0),
    ];
    audit.read(entries, &[(1, paid("r1", 120))]).unwrap();
    assert_eq!(audit.openings(), []);
    assert_eq!(audit.beside(&HashMap::new()), BTreeSet::new());
    // Of another amount it is wrong.
    audit.read(vec![of("20260103T000000Z", EntryKind::Open, "", 7)], &[]).unwrap();
    assert_eq!(audit.beside(&HashMap::new()).iter().map(Difference::amount).collect::<Vec<_>>(), [7]);
    // What nobody can read is nothing that a ledger knows the budget by.
    let mut stream = Stream::default();
    let mut audit = self::audit();
    let entries = vec![Err(stream.unreadable(33)), Ok(stream.entry(EntryKind::Open, "", 5))];
    audit.read(entries, &[]).unwrap();
    assert_eq!(audit.openings().iter().map(|(sequence, ..)| *sequence).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_log_without_its_beginning_does_not_say_what_is_spent() {
    let mut stream = Stream { sequence: 0, total: 1_000 };
    let mut audit = audit();
    audit.read(vec![Ok(stream.entry(EntryKind::Settle, R1, -280))], &[(1, paid("r1", 120))]).unwrap();
    assert_eq!(audit.told(&HashMap::new(), at(0)), BTreeSet::new());
}

/// Something is written into a window that was forgotten: it is a log of its own, and whole.
#[test]
fn what_is_long_over_is_not_compared() {
    let (mut stream, mut audit) = (Stream::default(), audit_of(Per::Day));
    let day = Counter { window: "20260101T000000Z".into(), ..counter() };
    let stored = StoredEntry { counter: day, ..stream.entry(EntryKind::Settle, R1, -280) };
    audit.read(vec![Ok(stored)], &[(1, paid("r1", 120))]).unwrap();
    let days = |days: i64| at(days * 86_400);
    let found = |days_later| {
        let found = audit.accounts(None, days(days_later)).unwrap();
        let told = audit.told(&HashMap::new(), days(days_later));
        (found.differences.len(), found.not_compared, told.len())
    };
    assert_eq!(found(9), (1, 0, 1));
    assert_eq!(found(11), (0, 1, 0));
}

/// The ledger takes as right what it was charged with for calls that may have been told before the events that are left; so
/// nobody repairs it.
#[test]
fn what_was_charged_for_events_that_are_gone_is_not_compared() {
    let found = |first: Sequence| {
        let (mut audit, mut stream) = (audit(), Stream::default());
        let opening = stream.entry(EntryKind::Open, "", 0);
        let charged = stream.entry(EntryKind::Settle, R1, 30);
        let charged = StoredEntry { entry: Entry { attempt: 0, tried: None, ..charged.entry }, ..charged };
        let settled = [
            stream.entry(EntryKind::Reserve, "research._.r2", 400),
            stream.entry(EntryKind::Settle, "research._.r2", -280),
        ];
        let entries = [opening, charged].into_iter().chain(settled).map(Ok).collect();
        audit.read(entries, &[(first, paid("other", 0))]).unwrap();
        let found = audit.accounts(None, at(0)).unwrap();
        (found.differences.len(), found.open.len(), found.not_compared)
    };
    assert_eq!(found(1), (1, 1, 0), "nothing is gone: somebody else wrote it");
    assert_eq!(found(2), (0, 0, 2));
}
