use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

fn time(ms: i64) -> Timestamp {
    DateTime::from_timestamp_millis(1_790_000_040_000 + ms).unwrap()
}

fn rate(per_minute: u32) -> NonZeroU32 {
    NonZeroU32::new(per_minute).unwrap()
}

#[test]
fn cells_have_whole_numbers_of_slots_and_follow_each_other() {
    for (per_minute, slots, ms) in [
        (1, 1, 60_000),
        (7, 7, 60_000),
        (60, 10, 10_000),
        (90, 10, 6_666),
        (600, 40, 4_000),
        (601, 41, 4_093),
        (60_000, 4_000, 4_000),
        (10_000_000, 666_667, 4_000),
    ] {
        let cell = Cell::at(rate(per_minute), time(61_001));
        assert_eq!(cell.slots, slots, "{per_minute} a minute");
        assert_eq!((cell.end() - cell.slot(0)).num_milliseconds(), ms, "{per_minute} a minute");
        assert!(cell.slot(0) <= time(61_001) && time(61_001) < cell.end());
        let next = Cell::at(rate(per_minute), cell.end());
        assert_eq!((next.first, next.slot(0)), (cell.first + i64::from(slots), cell.end()));
    }
}

#[test]
fn numbers_are_slots() {
    let cell = Cell::at(rate(600), time(0));
    let turn = |number, ms| cell.turn(number, 1, time(ms), TimeDelta::zero());
    assert_eq!(turn(1, 0), Turn::At(time(0)));
    assert_eq!(turn(2, 0), Turn::At(time(100)));
    assert_eq!(turn(40, 0), Turn::At(time(3_900)));
    assert_eq!(turn(41, 0), Turn::Next(time(4_000)));
    // The slot that is now is still to be had for half of it; those before it are not.
    assert_eq!(turn(4, 350), Turn::At(time(300)));
    assert_eq!(turn(4, 351), Turn::Skip(1));
    assert_eq!(turn(1, 950), Turn::Skip(9));
    // Who skipped nine when three others had asked meanwhile has slots 4 to 12; the first that is not over is his.
    let skipped = |number, ms| cell.turn(number, 9, time(ms), TimeDelta::zero());
    assert_eq!(skipped(13, 950), Turn::At(time(900)));
    assert_eq!((skipped(13, 320), skipped(13, 1_260)), (Turn::At(time(400)), Turn::Skip(1)));
    assert_eq!((skipped(44, 3_600), skipped(50, 3_600)), (Turn::At(time(3_600)), Turn::Next(time(4_000))));
    // Nothing is left of this cell.
    assert_eq!(turn(40, 3_951), Turn::Next(time(4_000)));
    assert_eq!(turn(41, 3_999), Turn::Next(time(4_000)));
    // What is skipped to is still good when the next answer is here.
    assert_eq!(cell.turn(1, 1, time(950), TimeDelta::milliseconds(200)), Turn::Skip(13));
    assert_eq!(cell.turn(1, 1, time(3_900), TimeDelta::milliseconds(200)), Turn::Skip(40));
}

/// However slow the server is, in proportion: one alone under an idle limit begins soon.
#[test]
fn one_alone_begins_soon() {
    for per_minute in [1, 7, 60, 600, 601, 6_000, 60_001, 10_000_000] {
        for travel_ms in [0, 3, 30, 150, 400] {
            for start_ms in (0..60_000).step_by(1_234) {
                let mut counters = HashMap::<String, i64>::new();
                let (mut asking, mut now) = (Asking::new("limit", rate(per_minute)), time(start_ms));
                let begins = loop {
                    let Add { cell, amount, .. } = asking.next(now);
                    let total = counters.entry(cell).or_default();
                    *total += amount;
                    now += TimeDelta::milliseconds(travel_ms);
                    match asking.heard(Some(*total), now) {
                        Some(Numbered::At(at)) => break at.max(now),
                        Some(Numbered::Later(at)) => {
                            (asking, now) = (Asking::new("limit", rate(per_minute)), at.max(now))
                        }
                        None => {}
                    }
                };
                let soon = 60_000 / i64::from(per_minute) + 8 * travel_ms + 60;
                let took = (begins - time(start_ms)).num_milliseconds();
                assert!(took <= soon, "{per_minute} a minute, {travel_ms} ms, from {start_ms}: {took} ms");
            }
        }
    }
}

/// A limit that is used in part, however fast it is: whoever comes, one after the other, waits for one slot at most.
#[test]
fn nobody_waits_under_a_limit_that_is_used_in_part() {
    for per_minute in [60, 600, 667, 2_000, 2_400, 6_000, 60_001, 10_000_000] {
        for (percent, travel_ms) in [(5, 1), (10, 3), (33, 1), (50, 3), (75, 1), (90, 2)] {
            let mut counters = HashMap::<String, i64>::new();
            let mut ids = HashSet::new();
            let every = 60_000_000 * 100 / (i64::from(per_minute) * percent);
            let mut now = time(1_234);
            for number in 1..400 {
                // Irregular, and now and then nobody comes for a while.
                let pause = if number % 50 == 0 { 700_000 } else { every * (number % 5) / 4 };
                now += TimeDelta::microseconds(every / 2 + pause);
                let (mut asking, mut at) = (Asking::new("limit", rate(per_minute)), now);
                let begins = loop {
                    let Add { cell, amount, id } = asking.next(at);
                    let is_first = id.is_none_or(|id| ids.insert(id));
                    let total = counters.entry(cell).or_default();
                    *total += if is_first { amount } else { 0 };
                    at += TimeDelta::milliseconds(travel_ms);
                    match asking.heard(is_first.then_some(*total), at) {
                        Some(Numbered::At(slot)) => break slot.max(at),
                        Some(Numbered::Later(later)) => {
                            (asking, at) = (Asking::new("limit", rate(per_minute)), later.max(at));
                        }
                        None => {}
                    }
                };
                let took = (begins - now).num_milliseconds();
                let soon = 60_000 / i64::from(per_minute) * 3 / 2 + 4 * travel_ms + 2;
                assert!(took <= soon, "{percent} % of {per_minute} a minute: {took} ms of {soon}");
                now = begins.max(now);
            }
        }
    }
}

#[test]
fn a_number_is_good_until_the_next_slot_is_near() {
    for (per_minute, good_ms) in [(1, 59_900), (60, 900), (600, 50), (1_200, 25), (6_000, 20), (60_000, 20)] {
        let is_void = |ms| is_void(rate(per_minute), time(0), time(ms));
        assert_eq!(
            (is_void(-5), is_void(good_ms), is_void(good_ms + 1)),
            (false, false, true),
            "{per_minute}"
        );
    }
}

#[test]
fn who_skips_under_one_limit_does_not_skip_under_another_of_the_same_pace() {
    let skip = |limit: &str| {
        let mut asking = Asking::new(limit, rate(600));
        asking.next(time(950));
        assert_eq!(asking.heard(Some(1), time(950)), None);
        asking.next(time(950))
    };
    let (one, other) = (skip("one"), skip("other"));
    assert_eq!((one.cell, one.amount), (other.cell, other.amount));
    assert!(one.id.is_some() && one.id == skip("one").id && one.id != other.id);
}

/// Four that come at once after a pause: one of them begins now, not when what all of them asked for is over.
#[test]
fn of_several_that_come_after_a_pause_one_begins_at_once() {
    let (per_minute, now) = (rate(600), time(1_310));
    let mut four = [(); 4].map(|()| Asking::new("limit", per_minute));
    let (mut total, mut ids) = (0, HashSet::new());
    let mut add = |add: Add| {
        (add.id.is_none_or(|id| ids.insert(id))).then(|| {
            total += add.amount;
            total
        })
    };
    let mut begin = Vec::new();
    // Whoever has a number goes on and asks for the next.
    for _ in 0..10 {
        let numbers: Vec<_> = four.iter_mut().map(|asking| add(asking.next(now))).collect();
        for (asking, number) in four.iter_mut().zip(numbers) {
            match asking.heard(number, now) {
                None => {}
                Some(numbered) => {
                    if let Numbered::At(at) = numbered {
                        begin.push(at);
                    }
                    *asking = Asking::new("limit", per_minute);
                }
            }
        }
    }
    begin.sort_unstable();
    assert!(begin[0] <= now, "{begin:?}");
    begin.dedup();
    assert!(begin.len() >= 4, "no two have the same slot: {begin:?}");
}

/// Several processes that ask as fast as they may, their steps in turn; some die with a number in hand, and some are slow:
/// by so many milliseconds, each time. An answer takes some time, too.
fn admitted(per_minute: u32, start_ms: i64, asks: &[(u64, bool, i64)]) -> Vec<Timestamp> {
    let mut counters = HashMap::<String, i64>::new();
    let mut ids = HashSet::new();
    let mut add = |add: Add| {
        if add.id.is_some_and(|id| !ids.insert(id)) {
            return None;
        }
        let total = counters.entry(add.cell).or_default();
        *total += add.amount;
        Some(*total)
    };
    let (mut now, mut begun) = (time(start_ms), Vec::new());
    for pair in asks.chunks(2) {
        now += TimeDelta::milliseconds(i64::try_from(pair[0].0).unwrap());
        // Two at a time, one step each.
        let mut both: Vec<_> = pair
            .iter()
            .map(|(_, dies, slow)| (Asking::new("limit", rate(per_minute)), now, *dies, *slow))
            .collect();
        while !both.is_empty() {
            both.retain_mut(|(asking, at, dies, slow)| {
                let number = add(asking.next(*at));
                *at += TimeDelta::milliseconds(*slow % 40);
                match asking.heard(number, *at) {
                    None => true,
                    Some(Numbered::Later(later)) => {
                        assert!(later > *at, "waiting for a time that is past never ends");
                        (*asking, *at) = (Asking::new("limit", rate(per_minute)), later);
                        now = now.max(later);
                        true
                    }
                    Some(Numbered::At(slot)) => {
                        let begins = slot.max(*at) + TimeDelta::milliseconds(*slow);
                        if is_void(rate(per_minute), slot, begins) {
                            (*asking, *at, *slow) =
                                (Asking::new("limit", rate(per_minute)), begins, *slow / 2);
                            return true;
                        }
                        if !*dies {
                            begun.push(begins);
                        }
                        false
                    }
                }
            });
        }
    }
    begun.sort_unstable();
    begun
}

proptest! {
    /// Whoever asks when, in any window of a minute (and of any other length) no more begin than the limit allows, and one.
    #[test]
    fn no_window_has_more_than_the_limit_and_one(
        per_minute in prop_oneof![1_u32..20, 20_u32..700, Just(6_000)],
        start in 0_i64..60_000,
        asks in proptest::collection::vec(
            (0_u64..400, proptest::bool::weighted(0.1), prop_oneof![Just(0_i64), 0_i64..30, 0_i64..2_000]),
            1..400,
        ),
    ) {
        let late_ms = Cell::at(rate(per_minute), time(start)).late().num_milliseconds();
        let begun = admitted(per_minute, start, &asks);
        for window_ms in [1_000, 6_000, 60_000] {
            let slots_in = |ms: i64| i64::from(per_minute) * ms / 60_000;
            let is_whole = i64::from(per_minute) * window_ms % 60_000 == 0;
            // A part of a slot counts as one; of those shorter than what a number is good for, so many are late at once.
            let most = slots_in(window_ms) + i64::from(!is_whole) + 1 + slots_in(late_ms);
            for (first, from) in begun.iter().enumerate() {
                let until = *from + TimeDelta::milliseconds(window_ms);
                let count = begun[first..].iter().take_while(|at| **at < until).count();
                prop_assert!(i64::try_from(count).unwrap() <= most, "{count} in {window_ms} ms, {most} allowed");
            }
        }
    }
}

#[test]
fn whoever_asks_all_the_time_uses_all_of_it() {
    for per_minute in [7, 60, 600, 6_000] {
        let asks = vec![(0, false, 0); usize::try_from(per_minute * 3).unwrap()];
        let begun = admitted(per_minute, 0, &asks);
        let in_two_minutes = begun.iter().filter(|at| **at < time(120_000)).count();
        assert_eq!(in_two_minutes, usize::try_from(per_minute * 2).unwrap(), "{per_minute} a minute");
    }
}
