use super::*;
use proptest::prelude::*;

const CODE: ErrorCode = ErrorCode::ProviderOverloaded;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_timestamp_millis(1_790_000_000_000 + ms).unwrap()
}

fn closed() -> TargetHealth {
    TargetHealth::unknown("p", "m", at(0))
}

fn open_at(now: i64) -> TargetHealth {
    closed().trip(CODE, at(now), u64::MAX).unwrap()
}

fn is_up(target: &TargetHealth, now: i64) -> Availability {
    availability(None, Some(target), at(now))
}

#[test]
fn a_broken_target_is_probed_by_one_call_after_a_while() {
    let target = open_at(0);
    assert!(matches!(is_up(&target, 400), Availability::Down { why: Why::Broken(Some(CODE)), .. }));
    assert!(target.grant(at(400)).is_none());
    assert_eq!(is_up(&target, 1_000), Availability::Probe);
    let (half_open, probe) = target.grant(at(1_000)).unwrap();
    assert!(half_open.is_current(probe));
    assert!(half_open.grant(at(1_001)).is_none(), "one at a time");
    assert!(half_open.trip(CODE, at(1_001), 0).is_none(), "it is known to be down");
    let again = half_open.probed(probe, false, Some(CODE), at(1_100), u64::MAX, 64).unwrap();
    assert!(matches!(again.breaker, Breaker::Open { trips: 1, until } if until > at(1_900)), "{again:?}");
}

#[test]
fn a_target_that_answers_is_given_twice_as_much_until_it_is_closed() {
    let mut target = open_at(0);
    let (mut now, mut stages) = (1_000, Vec::new());
    while target.breaker != Breaker::Closed {
        let mut probes = Vec::new();
        while let Some((next, probe)) = target.grant(at(now)) {
            target = next;
            probes.push(probe);
        }
        stages.push(probes.len());
        for probe in probes {
            now += 1;
            target = target.probed(probe, true, None, at(now), 0, 20).unwrap();
        }
    }
    assert_eq!(stages, [1, 2, 4, 8, 16]);
    assert_eq!(target.since, at(now));
}

#[test]
fn permits_of_the_dead_are_given_out_again() {
    let (target, old) = open_at(0).grant(at(2_000)).unwrap();
    assert_eq!(is_up(&target, 2_000 + STAGE_MS_MAX), Availability::Probe);
    let (target, new) = target.grant(at(2_000 + STAGE_MS_MAX)).unwrap();
    assert!(target.probed(old, false, Some(CODE), at(40_000), 0, 64).is_none(), "too late");
    assert!(
        target.probed(new, true, None, at(40_000), 0, 1).is_some_and(|next| next.breaker == Breaker::Closed)
    );
}

#[test]
fn a_target_that_fails_now_and_then_gets_through_its_ramp_and_one_that_answers_nothing_waits_longer() {
    let (mut target, mut now, mut calls) = (open_at(0), 1_000, 0);
    while target.breaker != Breaker::Closed {
        while let Some((next, probe)) = target.grant(at(now)) {
            calls += 1;
            target = next.probed(probe, calls % 5 != 4, Some(CODE), at(now), 0, 64).unwrap();
        }
        assert!(calls < 80, "{calls} calls, and it is not closed");
        now += 100;
    }

    let waits = |answered_first: bool| {
        let (target, probe) = open_at(0).grant(at(1_000)).unwrap();
        let target = if answered_first {
            let mut target = target.probed(probe, true, None, at(1_000), 0, 64).unwrap();
            for _ in 0..2 {
                let (next, probe) = target.grant(at(1_000)).unwrap();
                target = next.probed(probe, false, Some(CODE), at(1_000), u64::MAX, 64).unwrap();
            }
            target
        } else {
            target.probed(probe, false, Some(CODE), at(1_000), u64::MAX, 64).unwrap()
        };
        match target.breaker {
            Breaker::Open { trips, .. } => trips,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((waits(false), waits(true)), (1, 0));
}

/// Each call takes 45 seconds, which is longer than a stage lives at first.
#[test]
fn a_slow_target_gets_through_its_ramp() {
    let (mut target, mut now, mut calls) = (open_at(0), 1_000, Vec::<(i64, Probe)>::new());
    while target.breaker != Breaker::Closed {
        assert!(now < 1_000_000, "{target:?}");
        while let Some((next, probe)) = target.grant(at(now)) {
            target = next;
            calls.push((now + 45_000, probe));
        }
        now += 1_000;
        for (_, probe) in calls.extract_if(.., |(end, _)| *end <= now) {
            target = target.probed(probe, true, None, at(now), 0, 64).unwrap_or(target);
        }
        assert!(calls.len() <= 33, "{} at once", calls.len());
    }
    assert!(now < 360_000, "six stages of a call each: {now} ms");
    assert_eq!(target.stage_ms, 0, "the next outage begins anew");
}

#[test]
fn a_permit_that_is_not_used_is_given_to_somebody_else() {
    let (target, probe) = open_at(0).grant(at(2_000)).unwrap();
    let target = target.give_back(probe).unwrap();
    assert!(target.give_back(probe).is_none(), "once");
    let (target, again) = target.grant(at(2_001)).unwrap();
    assert_eq!(again, probe, "of the same stage");
    assert!(target.grant(at(2_002)).is_none());
}

#[test]
fn pauses_are_of_the_whole_provider_and_never_shorter() {
    let provider = ProviderHealth::default().throttle(at(500)).unwrap();
    assert!(provider.throttle(at(400)).is_none());
    let down = |now| availability(Some(&provider), None, at(now));
    assert_eq!(down(499), Availability::Down { why: Why::Throttled, until: Some(at(500)) });
    assert_eq!(down(500), Availability::Up);
    let paused = ProviderHealth { paused_since: Some(at(0)), ..provider };
    let up = closed();
    assert!(matches!(
        availability(Some(&paused), Some(&up), at(900)),
        Availability::Down { why: Why::Paused, .. }
    ));
}

#[test]
fn a_window_trips_on_failures_in_a_row_or_on_half_of_many() {
    let mut window = Window::default();
    assert!((0..4).all(|n| !window.note(Outcome::Failure, at(n))));
    assert!(!window.note(Outcome::Success, at(5)));
    assert!((6..10).all(|n| !window.note(Outcome::Failure, at(n))));
    assert!(window.note(Outcome::Failure, at(10)));
    assert_eq!(window.last_success(), Some(at(5)));

    let mut window = Window::default();
    let mixed = |window: &mut Window, n: i64| {
        let outcome = if n % 2 == 0 { Outcome::Success } else { Outcome::Failure };
        window.note(outcome, at(n * 100))
    };
    assert!((0..19).all(|n| !mixed(&mut window, n)));
    assert!(mixed(&mut window, 19), "ten of twenty");

    let mut window = Window::default();
    assert!((0..40).all(|n| !window.note(Outcome::Failure, at(n * 11_000))), "one now and then is no outage");
}

proptest! {
    /// Of any interleaving of permits and results, no stage has more permits out than it allows, results of older
    /// stages change nothing, and an open breaker never waits longer than its bound.
    #[test]
    fn a_stage_has_the_permits_it_allows(steps in proptest::collection::vec((0_u8..4, 0_i64..2_000, any::<u64>()), 1..120)) {
        let (mut target, mut now) = (open_at(0), 0);
        let mut permits: Vec<Probe> = Vec::new();
        for (step, pause, chance) in steps {
            now += pause;
            match step {
                0 | 1 => if let Some((next, probe)) = target.grant(at(now)) {
                    target = next;
                    permits.push(probe);
                },
                _ if permits.is_empty() => {}
                _ => {
                    let probe = permits.swap_remove(usize::try_from(chance % permits.len() as u64).unwrap());
                    let is_current = target.is_current(probe);
                    let next = target.probed(probe, step == 2, Some(CODE), at(now), chance, 64);
                    let is_longer = next.as_ref().is_some_and(|next| next.stage_ms > target.stage_ms);
                    prop_assert_eq!(next.is_some(), is_current || is_longer);
                    target = next.unwrap_or(target);
                }
            }
            match target.breaker {
                Breaker::HalfOpen { allowed, granted, succeeded, failed, .. } => {
                    let ended = succeeded + failed;
                    let out = permits.iter().filter(|probe| target.is_current(**probe)).count();
                    prop_assert!(granted <= allowed && ended <= granted && failed * 2 <= allowed);
                    prop_assert_eq!(out, usize::try_from(granted - ended).unwrap());
                }
                Breaker::Open { until, .. } => {
                    let longest = i64::try_from(OPEN_MS_MAX.1).unwrap();
                    prop_assert!(until <= at(now + longest));
                }
                Breaker::Closed => break,
            }
        }
    }

    #[test]
    fn a_few_failures_never_trip(outcomes in proptest::collection::vec(any::<bool>(), 0..19)) {
        let mut window = Window::default();
        let mut in_a_row = 0;
        for (n, failed) in outcomes.into_iter().enumerate() {
            in_a_row = if failed { in_a_row + 1 } else { 0 };
            let outcome = if failed { Outcome::Failure } else { Outcome::Success };
            let trips = window.note(outcome, at(n as i64));
            prop_assert_eq!(trips, in_a_row == 5);
            if trips { break }
        }
    }
}
