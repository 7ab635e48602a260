//! What every store must do, run against each. A difference is a bug in the store.

use std::ops::ControlFlow;

use super::memory::MemoryStore;
use super::sled::SledStore;
use super::{Changes, Store, after_prefix};
use crate::testing::open_again;

fn changes(writes: &[(&str, Option<&str>)]) -> Changes {
    let mut changes = Changes::default();
    for (key, value) in writes {
        match value {
            Some(value) => changes.put(key.as_bytes().to_vec(), value.as_bytes().to_vec()),
            None => changes.delete(key.as_bytes().to_vec()),
        }
    }
    changes
}

fn scan(store: &dyn Store, start: &[u8], end: &[u8], at_most: usize) -> Vec<String> {
    let mut found = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        if found.len() == at_most {
            return ControlFlow::Break(());
        }
        found.push(format!("{}={}", String::from_utf8_lossy(key), String::from_utf8_lossy(value)));
        ControlFlow::Continue(())
    };
    store.scan(start, end, &mut visit).unwrap();
    found
}

fn conforms(store: &dyn Store) {
    assert_eq!(store.get(b"a").unwrap(), None);
    assert_eq!(scan(store, b"", b"\xff", 9), [""; 0]);

    store.apply(&changes(&[("b", Some("2")), ("a", Some("1")), ("ba", Some("3")), ("c", Some(""))])).unwrap();
    assert_eq!(store.get(b"a").unwrap().as_deref(), Some(b"1".as_slice()));
    assert_eq!(store.get(b"c").unwrap().as_deref(), Some(b"".as_slice()), "an empty value is a value");
    assert_eq!(scan(store, b"a", b"c", 9), ["a=1", "b=2", "ba=3"], "the start is included, the end is not");
    assert_eq!(scan(store, b"b", &after_prefix(b"b"), 9), ["b=2", "ba=3"]);
    assert_eq!(scan(store, b"a", b"\xff", 2), ["a=1", "b=2"], "a break ends the scan");
    assert_eq!(scan(store, b"c", b"a", 9), [""; 0], "an empty range is not an error");

    store
        .apply(&changes(&[("a", Some("x")), ("a", None), ("b", None), ("b", Some("y")), ("zz", None)]))
        .unwrap();
    assert_eq!(scan(store, b"", b"\xff", 9), ["b=y", "ba=3", "c="], "the last write of a batch wins");

    let many = (0..5_000).map(|i| (format!("k{i:05}"), "v".repeat(100))).collect::<Vec<_>>();
    let mut batch = Changes::default();
    many.iter().for_each(|(key, value)| batch.put(key.clone().into(), value.clone().into()));
    store.apply(&batch).unwrap();
    assert_eq!(scan(store, b"k", b"l", usize::MAX).len(), many.len());

    store.flush().unwrap();
    store.apply(&Changes::default()).unwrap();
    store.clear().unwrap();
    assert_eq!(scan(store, b"", b"\xff", 9), [""; 0]);
}

#[test]
fn memory_conforms() {
    conforms(&MemoryStore::default());
}

#[test]
fn sled_conforms() {
    let folder = tempfile::tempdir().unwrap();
    conforms(&SledStore::open(folder.path()).unwrap());
}

#[test]
fn sled_keeps_what_was_flushed() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    store.apply(&changes(&[("a", Some("1"))])).unwrap();
    store.flush().unwrap();
    drop(store);
    assert_eq!(scan(&open_again(folder.path()).unwrap(), b"", b"\xff", 9), ["a=1"]);
}

#[test]
fn the_end_of_a_prefix_is_after_all_that_begin_with_it() {
    assert_eq!(after_prefix(b"ab"), b"ac");
    assert_eq!(after_prefix(b"a\xff"), b"b");
}
