//! A ledger's process is killed while it folds. Whatever is found afterwards, cursor and totals agree.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use super::sled::SledStore;
use crate::testing::open_again;
use crate::testing::{event, lost, message};
use crate::{Caps, Ledger};

const FOLDER: &str = "TOLLGATE_TEST_CRASH_FOLDER";

fn open(folder: &Path) -> Ledger {
    Ledger::open(Box::new(open_again(folder).unwrap()), folder, Caps::default()).unwrap()
}

/// Event `sequence`: every third is a lost call that the next one replaces.
fn fold_one_batch(ledger: &Ledger, batch: u64) {
    let cursor = ledger.cursor().unwrap();
    let messages: Vec<_> = (cursor + 1..=cursor + batch)
        .map(|sequence| {
            let id = format!("r{}", sequence / 3);
            message(sequence, &if sequence % 3 == 0 { lost(&id, 1) } else { event(&id, 1) })
        })
        .collect();
    ledger.fold(&messages).unwrap();
}

/// What the totals must be at a cursor.
fn expected(cursor: u64) -> (i64, i64) {
    let ids = if cursor == 0 { 0 } else { cursor / 3 + 1 };
    let lost = if cursor > 0 && cursor.is_multiple_of(3) { 1 } else { 0 };
    (i64::try_from(ids).unwrap(), lost)
}

#[track_caller]
fn agrees(ledger: &Ledger) -> u64 {
    let state = ledger.verify().unwrap();
    assert_eq!(
        (state.total.attempts, state.total.lost),
        expected(state.cursor),
        "at cursor {}",
        state.cursor
    );
    state.cursor
}

/// Not a test of its own: the process that is killed below.
#[test]
fn the_process_that_is_killed() {
    #[expect(clippy::disallowed_methods, reason = "how a test talks to the copy of itself that it starts")]
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let ledger = open(Path::new(&folder));
    loop {
        fold_one_batch(&ledger, 40);
        println!("folded {}", ledger.cursor().unwrap());
    }
}

#[test]
fn after_a_kill_cursor_and_totals_agree() {
    let folder = tempfile::tempdir().unwrap();
    let mut cursor = 0;
    for batches in [1, 3, 40, 7, 150] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::crash::the_process_that_is_killed", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said: Vec<_> =
            lines.map(Result::unwrap).filter(|line| line.contains("folded ")).take(batches).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(said.len(), batches, "the process died by itself");
        let ledger = open(folder.path());
        let now = agrees(&ledger);
        assert!(now >= cursor, "what was on the disk once is not lost: {now} after {cursor}");
        fold_one_batch(&ledger, 5);
        cursor = agrees(&ledger);
        ledger.flush().unwrap();
    }
    assert!(cursor > 25, "nothing survived any of the kills");
}

#[test]
fn without_a_flush_a_clean_end_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    fold_one_batch(&ledger, 100);
    drop(ledger);
    assert_eq!(agrees(&open(folder.path())), 100);
}

#[test]
fn a_torn_end_of_the_log_is_cut_off_whole() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    for _ in 0..20 {
        fold_one_batch(&ledger, 50);
        ledger.flush().unwrap();
    }
    drop(ledger);
    let log = folder.path().join("db");
    let whole = std::fs::read(&log).unwrap();
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap();
    for torn in [1, 10, 100, 1_000, 10_000] {
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(folder.path().join("conf"), copy.path().join("conf")).unwrap();
        let mut log = whole.clone();
        log[end.saturating_sub(torn)..].fill(0);
        std::fs::write(copy.path().join("db"), log).unwrap();
        match SledStore::open(copy.path())
            .and_then(|store| Ledger::open(Box::new(store), copy.path(), Caps::default()))
        {
            Ok(ledger) => drop(agrees(&ledger)),
            Err(error) => assert!(error.to_string().contains("tollgate ledger rebuild"), "{error}"),
        }
    }
}
