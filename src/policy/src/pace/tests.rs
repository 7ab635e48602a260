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
fn cells_are_short_and_have_whole_numbers_of_slots() {
    for (per_minute, seconds, slots) in [
        (1, 60, 1),
        (7, 60, 7),
        (10, 60, 10),
        (60, 10, 10),
        (90, 10, 15),
        (600, 1, 10),
        (601, 60, 601),
        (60_000, 1, 1_000),
    ] {
        let cell = Cell::at(rate(per_minute), time(61_001));
        assert_eq!((cell.seconds, cell.slots), (seconds, slots), "{per_minute} a minute");
        assert!(cell.start <= time(61_001) && time(61_001) < cell.end());
    }
}

#[test]
fn numbers_are_slots() {
    let cell = Cell::at(rate(600), time(0));
    assert_eq!(cell.turn(1, time(0)), Turn::At(time(0)));
    assert_eq!(cell.turn(2, time(0)), Turn::At(time(100)));
    assert_eq!(cell.turn(10, time(0)), Turn::At(time(900)));
    assert_eq!(cell.turn(11, time(0)), Turn::Next(time(1_000)));
    // The slot that is now is still to be had for half of it; those before it are not.
    assert_eq!(cell.turn(4, time(350)), Turn::At(time(300)));
    assert_eq!(cell.turn(4, time(351)), Turn::Skip(1));
    assert_eq!(cell.turn(1, time(950)), Turn::Skip(9));
    // Nothing is left of this cell.
    assert_eq!(cell.turn(10, time(951)), Turn::Next(time(1_000)));
    assert_eq!(cell.turn(11, time(999)), Turn::Next(time(1_000)));
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

/// Several processes that ask as fast as they may, their steps in turn; some die with a number in hand, and some are slow:
/// by so many milliseconds, each time.
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
        let mut both: Vec<_> =
            pair.iter().map(|(_, dies, slow)| (Asking::new(rate(per_minute)), now, *dies, *slow)).collect();
        while !both.is_empty() {
            both.retain_mut(|(asking, at, dies, slow)| {
                let number = add(asking.next(*at));
                match asking.heard(number, *at) {
                    None => true,
                    Some(Numbered::Later(later)) => {
                        assert!(later > *at, "waiting for a time that is past never ends");
                        (*asking, *at) = (Asking::new(rate(per_minute)), later);
                        now = now.max(later);
                        true
                    }
                    Some(Numbered::At(slot)) => {
                        let begins = slot.max(*at) + TimeDelta::milliseconds(*slow);
                        if is_void(rate(per_minute), slot, begins) {
                            (*asking, *at, *slow) = (Asking::new(rate(per_minute)), begins, *slow / 2);
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
