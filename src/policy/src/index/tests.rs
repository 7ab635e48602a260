use super::*;
use proptest::prelude::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_timestamp(1_790_000_000 + seconds, 0).unwrap()
}

fn entry(sequence: u64, due: i64) -> Entry {
    Entry { sequence, due: at(due), request: sequence % 7 }
}

fn team(name: &str) -> Team {
    Team::parse(name).unwrap()
}

fn target(model: &str) -> Target {
    Target { provider: "p".into(), model: model.into() }
}

fn sequences(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.sequence).collect()
}

#[test]
fn what_is_due_comes_out_once_the_longest_due_first() {
    let mut shelf = Shelf::default();
    for (sequence, due) in [(1, 30), (2, 10), (3, 20), (4, 40)] {
        shelf.insert(entry(sequence, due));
    }
    assert!(shelf.take_due(at(9), 9).is_empty());
    assert_eq!(sequences(&shelf.take_due(at(30), 2)), [2, 3]);
    assert_eq!(sequences(&shelf.take_due(at(30), 2)), [1]);
    shelf.insert(entry(4, 90));
    assert!(shelf.take_due(at(50), 2).is_empty(), "its time was moved");
    assert_eq!(shelf.find(4), [4]);
    assert_eq!(shelf.len(), 1);
}

#[test]
fn teams_take_turns_whatever_was_there_first() {
    let mut waiting = Waiting::default();
    let (a, b, targets) = (team("a"), team("b"), [target("m")]);
    for sequence in 1..=4 {
        waiting.insert(entry(sequence, 50), &a, &targets);
    }
    waiting.insert(entry(9, 50), &b, &targets);
    waiting.remove(2);
    let (set, _) = waiting.sets()[0];
    let order: Vec<_> =
        std::iter::from_fn(|| waiting.release(set, |_| true)).map(|(entry, _)| entry.sequence).collect();
    assert_eq!(order, [1, 9, 3, 4]);
    assert!(waiting.sets().is_empty() && waiting.shelf().is_empty());
}

#[test]
fn who_is_put_back_is_next_and_sets_are_apart() {
    let mut waiting = Waiting::default();
    let a = team("a");
    waiting.insert(entry(1, 50), &a, &[target("m")]);
    waiting.insert(entry(2, 50), &a, &[target("m")]);
    waiting.insert(entry(3, 50), &a, &[target("m"), target("n")]);
    waiting.insert(entry(1, 50), &a, &[target("m")]);
    assert_eq!(waiting.sets().len(), 2);
    let (first, owner) = waiting.release(0, |_| true).unwrap();
    assert_eq!(first.sequence, 1);
    waiting.put_back(first, &owner, &[target("m")]);
    assert_eq!(waiting.release(0, |_| true).unwrap().0.sequence, 1);
    assert_eq!(waiting.release(0, |_| true).unwrap().0.sequence, 2);
    assert!(waiting.release(0, |_| true).is_none(), "the same message twice is one message");
    let (set, targets) = waiting.sets()[0];
    assert_eq!(targets, [target("m"), target("n")]);
    assert_eq!(waiting.release(set, |_| true).unwrap().0.sequence, 3);
    assert!(waiting.release(set, |_| true).is_none());
    assert!(waiting.sets.is_empty() && waiting.numbers.is_empty(), "what nobody waits for is not kept");
}

#[test]
fn who_is_not_there_any_more_waits_for_nothing() {
    let mut waiting = Waiting::default();
    let (gone, stays) = (team("gone"), team("stays"));
    for (sequence, of) in [(1, &stays), (2, &gone), (3, &gone), (4, &stays), (5, &gone)] {
        waiting.insert(entry(sequence, 50), of, &[target("m")]);
    }
    waiting.remove(3);
    let is_known = |team: &Team| *team == stays;
    let strangers: Vec<_> = std::iter::from_fn(|| waiting.release_stranger(0, is_known))
        .map(|(entry, of)| (entry.sequence, of))
        .collect();
    assert_eq!(strangers, [(2, gone.clone()), (5, gone)]);
    assert_eq!(waiting.release(0, |_| true).unwrap().0.sequence, 1);
    assert_eq!(waiting.release(0, |_| true).unwrap().0.sequence, 4);
    assert!(waiting.release_stranger(7, is_known).is_none());
}

#[test]
fn a_team_that_waits_on_holds_up_no_other() {
    let mut waiting = Waiting::default();
    let (a, b, targets) = (team("a"), team("b"), vec![target("m")]);
    (1..=5_000).for_each(|sequence| waiting.insert(entry(sequence, 50), &a, &targets));
    (5_001..=6_000).for_each(|sequence| waiting.insert(entry(sequence, 50), &b, &targets));
    let mut released = Released::default();
    let mut served = 0;
    // What is released of a never comes back, what is of b goes at once.
    loop {
        let may = |of: &Team| released.may(&targets, of);
        if !waiting.has(0, may) {
            break;
        }
        let (_, of) = waiting.release(0, may).unwrap();
        if of == b {
            served += 1;
        } else {
            released.add(&(of, targets.clone()));
        }
    }
    assert_eq!((served, released.0[&targets].teams[&a]), (1_000, RELEASED_MAX.0));
    assert_eq!(waiting.sets().len(), 1, "those of a wait on");
    released.remove(&(a.clone(), targets.clone()));
    assert!(waiting.has(0, |of| released.may(&targets, of)));
    assert_eq!(waiting.release(0, |of| released.may(&targets, of)).unwrap().1, a);
}

#[test]
fn all_that_is_released_is_bounded_and_every_team_may_have_some() {
    let (mut released, targets) = (Released::default(), vec![target("m")]);
    let teams: Vec<_> = (0..100).map(|n| team(&format!("t{n}"))).collect();
    for of in teams.iter().cycle().take(100 * 100) {
        if released.may(&targets, of) {
            released.add(&(of.clone(), targets.clone()));
        }
    }
    let all = |released: &Released| released.0[&targets].all;
    assert_eq!(all(&released), RELEASED_MAX.1);
    let mut of_new = 0;
    while released.may(&targets, &team("new")) {
        released.add(&(team("new"), targets.clone()));
        of_new += 1;
    }
    assert_eq!(of_new, RELEASED_ALWAYS, "whatever the others have");
    (0..of_new).for_each(|_| released.remove(&(team("new"), targets.clone())));
    assert!(!released.may(&targets, &teams[0]));
    assert!(released.may(&[target("n")], &teams[0]), "another set");
    for _ in 0..100 {
        teams.iter().for_each(|of| released.remove(&(of.clone(), targets.clone())));
    }
    assert!(released.0.is_empty(), "nothing is kept of what is over");
}

#[test]
fn one_process_looks_after_a_thing_and_little_moves_when_another_goes() {
    let live = ["r1", "r2", "r3", "r4"];
    let things: Vec<_> = (0..400).map(|n| format!("LLM_DISPATCH_{n}")).collect();
    let of = |thing: &str, live: &[&'static str]| caretaker(thing, live.iter().copied()).unwrap().to_owned();
    for name in live {
        let count = things.iter().filter(|thing| of(thing, &live) == name).count();
        assert!((50..150).contains(&count), "{name} has {count} of 400");
    }
    for thing in &things {
        let before = of(thing, &live);
        assert_eq!(of(thing, &live[..3]), if before == "r4" { of(thing, &live[..3]) } else { before });
    }
    assert_eq!(caretaker("x", std::iter::empty()), None);
}

proptest! {
    #[test]
    fn a_shelf_forgets_nothing_and_invents_nothing(
        steps in proptest::collection::vec((0_u64..20, 0_i64..50, any::<bool>()), 0..80), until in 0_i64..60,
    ) {
        let (mut shelf, mut model) = (Shelf::default(), BTreeMap::new());
        for (sequence, due, remove) in steps {
            if remove {
                prop_assert_eq!(shelf.remove(sequence).is_some(), model.remove(&sequence).is_some());
            } else {
                shelf.insert(entry(sequence, due));
                model.insert(sequence, due);
            }
        }
        prop_assert_eq!(shelf.len(), model.len());
        let mut due = sequences(&shelf.take_due(at(until), usize::MAX));
        due.sort_unstable();
        let expected: Vec<_> = model.iter().filter(|(_, due)| **due <= until).map(|(sequence, _)| *sequence).collect();
        prop_assert_eq!(due, expected);
    }
}
