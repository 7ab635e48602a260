use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use tollgate_protocol::{Identity, Meta};

use super::*;
use crate::budget::tests::{at, budget, job};

fn guard(limit: i64) -> Budgets {
    Budgets([Budget { measure: Measure::Repeats, limit, ..budget("loop", "1") }].into())
}

fn asked(id: &str, key: &str, body: &str) -> Job {
    let mut job = job(Vec::new());
    job.identity = Identity::from_tokens(&format!("team._.{id}")).unwrap();
    job.meta = Meta { key: Some(key.to_owned()), ..Meta::default() };
    job.body = body.to_owned().into();
    job
}

/// A counter of the server's: what is added under an id again is not.
#[derive(Default)]
struct Server {
    totals: HashMap<String, i64>,
    ids: HashSet<String>,
}

impl Server {
    fn add(&mut self, count: &Count) -> Option<i64> {
        self.ids.insert(count.id.clone()).then(|| {
            let total = self.totals.entry(count.cell.clone()).or_default();
            *total += count.amount;
            *total
        })
    }
}

fn ask(
    repeats: &mut Repeats,
    server: &mut Server,
    budgets: &Budgets,
    job: &mut Job,
    now: Timestamp,
) -> Option<TooMany> {
    let counts = repeats.counts(budgets, job, now);
    counts.iter().find_map(|count| count.judge(&budgets.0[0], server.add(count)))
}

#[test]
fn the_first_of_a_body_costs_nothing_and_the_second_counts_for_both() {
    let (budgets, mut repeats) = (guard(3), Repeats::default());
    let mut counts = |id: &str, key: &str, body: &str, now| {
        let counts = repeats.counts(&budgets, &mut asked(id, key, body), now);
        counts.first().map(|count| count.amount)
    };
    assert_eq!(counts("r1", "k", "x", at(0)), None);
    // Delivered again, and published again under its id.
    assert_eq!(counts("r1", "k", "x", at(0)), None);
    assert_eq!(counts("r2", "k", "x", at(1)), Some(2));
    assert_eq!(counts("r3", "k", "x", at(2)), Some(1));
    assert_eq!(counts("r4", "k", "y", at(2)), None, "another body");
    assert_eq!(counts("r5", "l", "x", at(2)), None, "another caller");
    assert_eq!(counts("r6", "k", "x", at(60)), None, "another minute");
}

#[test]
fn what_was_called_already_is_not_counted_again() {
    let (budgets, mut repeats) = (guard(1), Repeats::default());
    repeats.counts(&budgets, &mut asked("r1", "k", "x"), at(0));
    let mut retried = asked("r2", "k", "x");
    retried.run = 7;
    assert_eq!(repeats.counts(&budgets, &mut retried, at(0)), []);
}

#[test]
fn a_body_that_was_put_aside_is_still_the_same() {
    let (budgets, mut repeats) = (guard(1), Repeats::default());
    let mut large = asked("r1", "k", "x");
    repeats.counts(&budgets, &mut large, at(0));
    large.body = Vec::new().into();
    let mut other = asked("r2", "k", "x");
    other.body_digest = large.body_digest;
    other.body = Vec::new().into();
    assert_eq!(repeats.counts(&budgets, &mut other, at(0)).len(), 1);
}

#[test]
fn those_beyond_the_limit_are_spread_over_the_minutes_to_come() {
    let (budgets, mut repeats, mut server) = (guard(2), Repeats::default(), Server::default());
    let mut minutes = |n: usize| {
        let mut job = asked(&format!("r{n}"), "k", "x");
        let too_many = ask(&mut repeats, &mut server, &budgets, &mut job, at(10))?;
        Some(((too_many.until - at(0)).num_minutes(), too_many.is_first))
    };
    assert_eq!((minutes(1), minutes(2)), (None, None));
    let further: Vec<_> = (3..=30).filter_map(&mut minutes).collect();
    assert_eq!(further[..5], [(1, true), (1, false), (2, false), (2, false), (3, false)]);
    assert_eq!(further.last(), Some(&(10, false)), "no further than ten minutes");
    assert_eq!(minutes(3), None, "somebody has decided about it");
    let again = Job { sequence: 7, ..asked("r3", "k", "x") };
    assert!(ask(&mut repeats, &mut server, &budgets, &mut { again }, at(10)).is_some(), "published again");
}

#[test]
fn only_so_many_are_held_and_no_fewer_than_the_minutes_to_come_have_room_for() {
    let count = |amount| Count { limit: 0, cell: "0-x".to_owned(), amount, id: String::new(), minute: 0 };
    // (limit, how many were asked for, whether the last of them is held, rejected or neither)
    let rows = [
        (1, 1, None),
        (1, 2, Some(false)),
        (1, 1_001, Some(false)),
        (1, 1_002, Some(true)),
        (300, 300, None),
        (300, 3_300, Some(false)),
        (300, 3_301, Some(true)),
        (i64::MAX, i64::MAX, None),
    ];
    for (limit, total, is_full) in rows {
        let budgets = guard(limit);
        let judged = count(1).judge(&budgets.0[0], Some(total)).map(|too_many| too_many.is_full);
        assert_eq!(judged, is_full, "{total} of {limit}");
    }
}

#[test]
fn only_so_many_bodies_are_remembered() {
    let (budgets, mut repeats) = (guard(1), Repeats::default());
    for n in 0..REMEMBERED_MAX + 10 {
        repeats.counts(&budgets, &mut asked("r1", "k", &n.to_string()), at(0));
    }
    assert_eq!(repeats.seen.len(), REMEMBERED_MAX);
    assert_eq!(
        repeats.counts(&budgets, &mut asked("r2", "k", "0"), at(0)).len(),
        1,
        "those are still counted"
    );
}

proptest! {
    /// Whichever of several routers gets which request, and however often one is delivered: in a minute no more begin than
    /// the limit and one for each further router, and nothing that is asked for once is held.
    #[test]
    fn no_minute_has_more_than_the_limit_and_one_for_each_further_router(
        limit in 1_i64..6,
        asks in proptest::collection::vec((0_usize..3, 0_u8..3, 0_usize..40, 0_i64..3), 1..120),
    ) {
        let budgets = guard(limit);
        let (mut routers, mut server) = ([(); 3].map(|()| Repeats::default()), Server::default());
        let mut begun = HashMap::<(i64, u8), HashSet<usize>>::new();
        let mut asked_for = HashMap::<u8, HashSet<usize>>::new();
        let mut held = HashSet::new();
        let mut second = 0;
        for (router, body, id, pause) in asks {
            second += pause;
            let mut job = asked(&format!("r{body}-{id}"), "k", &body.to_string());
            asked_for.entry(body).or_default().insert(id);
            let minute = at(second).timestamp().div_euclid(60);
            match ask(&mut routers[router], &mut server, &budgets, &mut job, at(second)) {
                // One that waits already and is delivered again: the record says which of the two goes on.
                None if held.contains(&(minute, body, id)) => {}
                None => { begun.entry((minute, body)).or_default().insert(id); }
                Some(too_many) => {
                    held.insert((minute, body, id));
                    prop_assert!(too_many.until > at(second));
                    prop_assert!(asked_for[&body].len() > 1, "it was asked for once");
                }
            }
        }
        for ids in begun.values() {
            prop_assert!(i64::try_from(ids.len()).unwrap() <= limit + 2, "{ids:?}");
        }
    }
}
