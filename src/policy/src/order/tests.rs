use super::*;
use proptest::prelude::*;

/// No budget keeps anybody.
fn room(_: &[usize]) -> bool {
    true
}

fn place(priority: Priority, team: &str, weight: u32, gate: &str, tokens: u64) -> Place {
    Place {
        priority,
        team: Team::parse(team).unwrap(),
        weight: NonZeroU32::new(weight).unwrap(),
        gate: gate.into(),
        tokens,
    }
}

fn always(_: Priority, _: &str) -> bool {
    true
}

fn drain(queue: &mut Queue<u32>, count: usize) -> Vec<String> {
    (0..count).filter_map(|_| queue.pop(always, room)).map(|(place, _)| place.team.to_string()).collect()
}

/// Takes out so many, each of which uses what was expected.
fn serve(queue: &mut Queue<u32>, count: usize) {
    for _ in 0..count {
        let (place, _) = queue.pop(always, room).unwrap();
        let settlement = Settlement::of(&place);
        queue.settle(&Settlement { used: place.tokens, ..settlement });
    }
}

#[test]
fn a_flood_delays_another_team_by_one_request() {
    let mut queue = Queue::new([16, 4, 1]);
    for index in 0..1_000 {
        queue.push(place(Priority::Normal, "flood", 1, "sim", 100), index);
    }
    drain(&mut queue, 200);
    queue.push(place(Priority::Normal, "quiet", 1, "sim", 100), 0);
    assert!(drain(&mut queue, 2).contains(&"quiet".to_owned()));
}

#[test]
fn idleness_earns_no_credit() {
    let mut queue = Queue::new([16, 4, 1]);
    for index in 0..1_000 {
        queue.push(place(Priority::Normal, "busy", 1, "sim", 100), index);
    }
    serve(&mut queue, 500);
    for index in 0..500 {
        queue.push(place(Priority::Normal, "back", 1, "sim", 100), index);
    }
    let served = drain(&mut queue, 100);
    let back = served.iter().filter(|team| *team == "back").count();
    assert!((49..=51).contains(&back), "{back} of 100");
}

#[test]
fn what_was_done_while_nobody_else_waited_is_no_debt() {
    let mut queue = Queue::new([16, 4, 1]);
    for index in 0..1_000 {
        queue.push(place(Priority::Low, "early", 1, "sim", 100), index);
    }
    serve(&mut queue, 1_000);
    for index in 0..100 {
        queue.push(place(Priority::High, "late", 1, "sim", 100), index);
        queue.push(place(Priority::Low, "late", 1, "sim", 100), index);
        queue.push(place(Priority::Low, "early", 1, "sim", 100), index);
    }
    let served: Vec<_> = (0..68).filter_map(|_| queue.pop(always, room)).map(|(place, _)| place).collect();
    let low = |team: &str| {
        served.iter().filter(|place| place.priority == Priority::Low && place.team.as_str() == team).count()
    };
    assert_eq!((low("late"), low("early")), (2, 2), "every 17th, by turns");
}

/// Five calls are under way that are expected to use much. Who comes then is not behind what they are expected to use.
#[test]
fn nobody_pays_for_what_was_expected_of_another() {
    let mut queue = Queue::new([16, 4, 1]);
    for index in 0..500 {
        queue.push(place(Priority::Normal, "early", 1, "sim", if index < 5 { 10_000 } else { 10 }), index);
    }
    let under_way: Vec<_> = (0..5).filter_map(|_| queue.pop(always, room)).map(|(place, _)| place).collect();
    for index in 0..500 {
        queue.push(place(Priority::Normal, "late", 1, "sim", 10), index);
    }
    for place in &under_way {
        queue.settle(&Settlement { used: 10, ..Settlement::of(place) });
    }
    let served = drain(&mut queue, 100);
    let early = served.iter().filter(|team| *team == "early").count();
    assert!((45..=52).contains(&early), "{early} of 100");
}

#[test]
fn weights_divide_tokens() {
    let mut queue = Queue::new([16, 4, 1]);
    for index in 0..1_000 {
        queue.push(place(Priority::Normal, "one", 1, "sim", 100), index);
        queue.push(place(Priority::Normal, "three", 3, "sim", 100), index);
    }
    let served = drain(&mut queue, 400);
    let three = served.iter().filter(|team| *team == "three").count();
    assert!((299..=301).contains(&three), "{three} of 400");
}

#[test]
fn shares_divide_priorities_and_none_starves() {
    let mut queue = Queue::new([16, 4, 1]);
    for index in 0..2_000 {
        for priority in Priority::ALL {
            queue.push(place(priority, "team", 1, "sim", 10), index);
        }
    }
    let mut served = [0; 3];
    for _ in 0..2_100 {
        let (place, _) = queue.pop(always, room).unwrap();
        served[place.priority.index()] += 1;
    }
    for (count, expected) in served.into_iter().zip([1_600, 400, 100]) {
        assert!((expected - 3..=expected + 3).contains(&count), "{served:?}");
    }
}

#[test]
fn a_high_request_behind_many_low_ones_is_next() {
    let mut queue = Queue::new([16, 4, 1]);
    for index in 0..1_000 {
        queue.push(place(Priority::Low, "batch", 1, "sim", 1_000), index);
    }
    drain(&mut queue, 300);
    queue.push(place(Priority::High, "person", 1, "sim", 1_000), 0);
    assert_eq!(drain(&mut queue, 1), ["person"]);
}

/// A gate with few places for each priority, of which one comes free after the other.
#[test]
fn shares_hold_where_places_are_what_is_scarce() {
    const PLACES: usize = 5;
    let mut queue = Queue::new([16, 4, 1]);
    for index in 0..2_000 {
        for priority in Priority::ALL {
            queue.push(place(priority, "team", 1, "sim", 10), index);
        }
    }
    let (mut stream, mut served) = (std::collections::VecDeque::new(), [0; 3]);
    while served.iter().sum::<usize>() < 2_100 {
        let taken = |stream: &std::collections::VecDeque<Priority>, wanted: Priority| {
            stream.iter().filter(|priority| **priority == wanted).count()
        };
        while let Some((place, _)) = queue.pop(|priority, _| taken(&stream, priority) < PLACES, room) {
            stream.push_back(place.priority);
        }
        served[stream.pop_front().unwrap().index()] += 1;
    }
    for (count, expected) in served.into_iter().zip([1_600, 400, 100]) {
        assert!(count.abs_diff(expected) <= 10, "{served:?}");
    }
}

#[test]
fn a_lower_priority_never_keeps_a_higher_one_waiting() {
    let mut queue = Queue::new([16, 4, 1]);
    queue.push(place(Priority::High, "a", 1, "sim", 1_000_000), 0);
    assert!(queue.pop(always, room).is_some());
    queue.push(place(Priority::Low, "a", 1, "sim", 1), 1);
    queue.push(place(Priority::High, "a", 1, "sim", 1), 2);
    let high_only = |priority: Priority, _: &str| priority == Priority::High;
    assert_eq!(queue.pop(high_only, room).map(|(_, item)| item), Some(2), "though it is the low one's turn");
}

#[test]
fn a_closed_gate_blocks_nobody_else() {
    let mut queue = Queue::new([16, 4, 1]);
    for index in 0..10 {
        queue.push(place(Priority::High, "a", 1, "down", 1), index);
    }
    queue.push(place(Priority::High, "a", 1, "up", 1), 10);
    queue.push(place(Priority::Low, "b", 1, "up", 1), 11);
    let open = |_: Priority, gate: &str| gate == "up";
    assert_eq!(queue.pop(open, room).map(|(_, item)| item), Some(10));
    assert_eq!(queue.pop(open, room).map(|(_, item)| item), Some(11));
    assert_eq!(queue.pop(open, room).map(|(_, item)| item), None);
    assert_eq!(queue.len(), 10);
}

#[test]
fn no_gate_of_a_team_starves_another() {
    let mut queue = Queue::new([16, 4, 1]);
    for index in 0..10 {
        let budgets = if index % 2 == 0 { vec![] } else { vec![1] };
        let gate = Gate { provider: "sim".into(), budgets };
        queue.push(Place { gate, ..place(Priority::High, "a", 1, "sim", 1) }, index);
    }
    let order: Vec<u32> = std::iter::from_fn(|| queue.pop(always, room)).map(|(_, item)| item).collect();
    assert_eq!(order, (0..10).collect::<Vec<_>>());
}

/// What a team uses at a fast provider does not put it behind others at a slow one, and providers take turns.
#[test]
fn each_provider_has_an_order_of_its_own() {
    let mut queue = Queue::new([16, 4, 1]);
    let fast = |_: Priority, provider: &str| provider == "fast";
    for index in 0..1_000 {
        queue.push(place(Priority::Normal, "both", 1, "fast", 1_000), index);
        queue.push(place(Priority::Normal, "slow-only", 1, "slow", 1_000), index);
    }
    for _ in 0..1_000 {
        let (place, _) = queue.pop(fast, room).unwrap();
        queue.settle(&Settlement { used: 1_000, ..Settlement::of(&place) });
    }
    queue.push(place(Priority::Normal, "both", 1, "slow", 1_000), 0);
    assert!(drain(&mut queue, 2).contains(&"both".to_owned()));
    for index in 0..4 {
        queue.push(place(Priority::Low, "both", 1, "fast", 1), index);
    }
    let providers = |(place, _): (Place, u32)| place.gate.provider;
    let turns: Vec<_> = (0..4).filter_map(|_| queue.pop(always, room)).map(providers).collect();
    assert_eq!(turns.iter().filter(|provider| *provider == "fast").count(), 2, "{turns:?}");
}

fn of_budget(priority: Priority, team: &str, tokens: u64) -> Place {
    let gate = Gate { provider: "sim".into(), budgets: vec![0] };
    Place { gate, ..place(priority, team, 1, "sim", tokens) }
}

/// A team waits for a budget while another is served. Who comes then begins beside the one that is served, and the one that
/// waited does not have all the rest when its budget has room.
#[test]
fn who_waits_for_a_budget_earns_no_credit_and_gives_none() {
    let mut queue = Queue::new([16, 4, 1]);
    let spent = |budgets: &[usize]| budgets.is_empty();
    for index in 0..2_000 {
        queue.push(of_budget(Priority::Normal, "gated", 1_000), index);
        queue.push(place(Priority::Normal, "busy", 1, "sim", 1_000), index);
    }
    for _ in 0..1_000 {
        let (place, _) = queue.pop(always, spent).unwrap();
        queue.settle(&Settlement { used: 1_000, ..Settlement::of(&place) });
    }
    for index in 0..1_000 {
        queue.push(place(Priority::Normal, "late", 1, "sim", 1_000), index);
    }
    let count = |queue: &mut Queue<u32>, room: fn(&[usize]) -> bool, of: &str| {
        let taken = (0..100).filter_map(|_| {
            let (place, _) = queue.pop(always, room)?;
            queue.settle(&Settlement { used: 1_000, ..Settlement::of(&place) });
            Some(place)
        });
        taken.filter(|place| place.team.as_str() == of).count()
    };
    let late = count(&mut queue, |budgets| budgets.is_empty(), "late");
    assert!((49..=51).contains(&late), "{late} of 100");
    let gated = count(&mut queue, room, "gated");
    assert!((33..=40).contains(&gated), "{gated} of 100: a third, and what it may lag behind");
}

/// The same between priorities.
#[test]
fn a_priority_that_waits_for_a_budget_earns_no_credit() {
    let mut queue = Queue::new([16, 4, 1]);
    let spent = |budgets: &[usize]| budgets.is_empty();
    for index in 0..3 {
        queue.push(of_budget(Priority::High, "gated", 1_000), index);
    }
    for index in 0..2_000 {
        queue.push(place(Priority::Normal, "busy", 1, "sim", 1_000), index);
    }
    for _ in 0..1_000 {
        let (place, _) = queue.pop(always, spent).unwrap();
        queue.settle(&Settlement { used: 1_000, ..Settlement::of(&place) });
    }
    for index in 0..1_000 {
        queue.push(place(Priority::High, "flood", 1, "sim", 1_000), index);
    }
    let taken: Vec<_> = (0..100).filter_map(|_| queue.pop(always, spent)).collect();
    let normal = taken.iter().filter(|(place, _)| place.priority == Priority::Normal).count();
    assert!((16..=21).contains(&normal), "{normal} of 100: a fifth, less what high may lag behind");
}

/// A limit that is closed every other time takes nothing of a team's share: what it lags behind meanwhile it catches up with,
/// also with large calls.
#[test]
fn a_gate_that_is_closed_for_moments_costs_no_share() {
    for tokens in [100, 20_000] {
        let mut queue = Queue::new([16, 4, 1]);
        for index in 0..2_000 {
            let flaps = of_budget(Priority::Normal, "flaps", tokens);
            queue.push(Place { weight: NonZeroU32::new(3).unwrap(), ..flaps }, index);
            queue.push(place(Priority::Normal, "steady", 1, "sim", tokens), index);
        }
        let mut flaps = 0;
        for round in 0..1_000 {
            let (place, _) = queue.pop(always, |budgets| budgets.is_empty() || round % 10 > 2).unwrap();
            queue.settle(&Settlement { used: tokens, ..Settlement::of(&place) });
            flaps += usize::from(place.team.as_str() == "flaps");
        }
        assert!((690..=700).contains(&flaps), "{flaps} of 1,000 with {tokens} tokens: it was open 700 times");
    }
}

#[test]
fn what_is_taken_out_is_gone_and_the_rest_goes_on() {
    let mut queue = Queue::new([16, 4, 1]);
    for index in 0..10 {
        queue.push(place(Priority::High, &format!("t{}", index % 3), 1, "x", 1), index);
    }
    assert_eq!(queue.take_out(|item| item % 2 == 0).len(), 5);
    assert_eq!(queue.len(), 5);
    let mut left: Vec<u32> = std::iter::from_fn(|| queue.pop(always, room)).map(|(_, item)| item).collect();
    left.sort_unstable();
    assert_eq!(left, [1, 3, 5, 7, 9]);
}

#[test]
fn what_is_put_back_is_first_again_and_costs_nothing() {
    let mut queue = Queue::new([16, 4, 1]);
    for index in 0..3 {
        queue.push(place(Priority::High, "a", 1, "sim", 100), index);
        queue.push(place(Priority::High, "b", 1, "sim", 100), 10 + index);
    }
    for _ in 0..50 {
        let (place, item) = queue.pop(always, room).unwrap();
        assert_eq!(item, 0);
        queue.put_back(place, item);
    }
    let order: Vec<u32> = std::iter::from_fn(|| queue.pop(always, room)).map(|(_, item)| item).collect();
    assert_eq!(order, [0, 10, 1, 11, 2, 12]);
}

proptest! {
    /// Two teams that both have work at every moment: what they were served, divided by weight, never
    /// differs by more than one request of each (SFQ's bound with known costs).
    #[test]
    fn backlogged_teams_stay_within_one_request_of_each_other(
        costs in proptest::collection::vec((1_u64..2_000, 1_u64..2_000), 200),
        weights in (1_u32..10, 1_u32..10),
    ) {
        let mut queue = Queue::new([1, 1, 1]);
        for (index, (a, b)) in costs.iter().enumerate() {
            queue.push(place(Priority::Normal, "a", weights.0, "sim", *a), index as u32);
            queue.push(place(Priority::Normal, "b", weights.1, "sim", *b), index as u32);
        }
        let mut served = [0.0_f64; 2];
        let mut left = [200; 2];
        while left[0] > 0 && left[1] > 0 {
            let (place, _) = queue.pop(always, room).unwrap();
            let which = usize::from(place.team.as_str() == "b");
            left[which] -= 1;
            served[which] += place.tokens as f64 / f64::from(place.weight.get());
            let bound = 2_000.0 / f64::from(weights.0) + 2_000.0 / f64::from(weights.1) + 1.0;
            prop_assert!((served[0] - served[1]).abs() <= bound, "{served:?} {bound}");
        }
    }

    #[test]
    fn everything_that_goes_in_comes_out_once(
        items in proptest::collection::vec((0_usize..3, 0_u32..5, 0_u32..3, 0_u64..100, any::<bool>()), 0..200),
    ) {
        let mut queue = Queue::new([16, 4, 1]);
        for (index, (priority, team, gate, tokens, back)) in items.iter().enumerate() {
            let place = place(Priority::ALL[*priority], &format!("t{team}"), team + 1, &format!("g{gate}"), *tokens);
            queue.push(place, index);
            if *back && let Some((place, item)) = queue.pop(always, room) {
                queue.put_back(place, item);
            }
        }
        let mut seen: Vec<usize> = std::iter::from_fn(|| queue.pop(always, room)).map(|(_, item)| item).collect();
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..items.len()).collect::<Vec<_>>());
        prop_assert!(queue.is_empty());
    }
}

/// Calls end a while after they were dispatched, and use much less than was expected.
#[test]
fn what_was_really_used_decides() {
    let mut queue = Queue::new([16, 4, 1]);
    let mut served = crate::served::Served::default();
    let team = |name: &str| Team::parse(name).unwrap();
    let place = |name: &str, weight: u32, tokens: u64| Place {
        priority: Priority::Normal,
        team: team(name),
        weight: std::num::NonZeroU32::new(weight).unwrap(),
        gate: "sim".into(),
        tokens,
    };
    let mut ids = 0;
    let mut counts = std::collections::BTreeMap::<String, u64>::new();
    let mut under_way = std::collections::VecDeque::new();
    for _ in 0..1_000 {
        for (name, weight, tokens) in [("greedy", 1, 10_000), ("modest", 1, 20), ("heavy", 3, 500)] {
            let waiting =
                |queue: &mut Queue<_>| queue.iter_mut().filter(|(place, _)| place.team == team(name)).count();
            while waiting(&mut queue) < 8 {
                ids += 1;
                let identity = tollgate_protocol::Identity::from_tokens(&format!("{name}.g.{ids}")).unwrap();
                queue.push(place(name, weight, tokens), identity);
            }
        }
        let (place, identity) = queue.pop(|_, _| true, room).unwrap();
        let now = tollgate_protocol::Timestamp::UNIX_EPOCH;
        for gone in served.note(&identity, &place, now) {
            queue.settle(&gone);
        }
        *counts.entry(place.team.to_string()).or_default() += 1;
        under_way.push_back(identity);
        if under_way.len() > 4 {
            let ended = under_way.pop_front().unwrap();
            if let Some(settlement) = served.used(&ended, 20) {
                queue.settle(&settlement);
            }
        }
    }
    for (name, share) in [("greedy", 200), ("heavy", 600), ("modest", 200)] {
        assert!(counts[name].abs_diff(share) <= 20, "{counts:?}");
    }
}

#[test]
fn a_budget_without_room_keeps_only_those_that_need_it() {
    let mut queue = Queue::new([16, 4, 1]);
    let of = |budgets: &[usize], team: &str, priority| {
        let gate = Gate { provider: "sim".into(), budgets: budgets.to_vec() };
        Place { gate, ..place(priority, team, 1, "sim", 10) }
    };
    queue.push(of(&[0], "spent", Priority::High), 1);
    queue.push(of(&[0, 1], "spent", Priority::High), 2);
    queue.push(of(&[1], "spent", Priority::High), 3);
    queue.push(of(&[], "other", Priority::Low), 4);
    let without_0 = |budgets: &[usize]| !budgets.contains(&0);
    assert_eq!(
        queue.pop(always, without_0).map(|(_, item)| item),
        Some(3),
        "of the same team, from another budget"
    );
    assert_eq!(queue.pop(always, without_0).map(|(_, item)| item), Some(4));
    assert_eq!(queue.pop(always, without_0).map(|(_, item)| item), None);
    // Nor does who waits for a budget keep a lower priority from a place at the provider.
    queue.push(of(&[], "other", Priority::Low), 5);
    let only_low = |priority: Priority, _: &str| priority == Priority::Low;
    assert_eq!(queue.pop(only_low, without_0).map(|(_, item)| item), Some(5));
    queue.push(of(&[], "other", Priority::Low), 6);
    assert_eq!(queue.pop(only_low, room).map(|(_, item)| item), None, "with room it is the high one's turn");
    let left: Vec<u32> = std::iter::from_fn(|| queue.pop(always, room)).map(|(_, item)| item).collect();
    assert_eq!(left, [1, 2, 6]);
}

#[test]
fn no_usage_starves_a_team_for_more_than_one_call_can_have() {
    let mut queue = Queue::<u32>::new([16, 4, 1]);
    let expected = place(Priority::Normal, "absurd", 1, "sim", 100);
    queue.push(expected.clone(), 0);
    assert!(queue.pop(always, room).is_some());
    queue.settle(&Settlement { used: u64::MAX, ..Settlement::of(&expected) });
    queue.settle(&Settlement { used: 0, less: u64::MAX, ..Settlement::of(&expected) });
    queue.settle(&Settlement { used: u64::MAX, ..Settlement::of(&expected) });
    assert_eq!(queue.lines["sim"].levels[Priority::Normal.index()].pass, USED_MAX * SCALE / 4);
}
