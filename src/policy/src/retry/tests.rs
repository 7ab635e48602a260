use super::*;
use proptest::prelude::*;
use tollgate_protocol::{NanoUsd, TokenUsage};

#[test]
fn a_pause_during_recovery_grows_with_each_time_up_to_half_a_minute() {
    assert_eq!((recovery_pause_ms(0, 0), recovery_pause_ms(0, 500)), (500, 1_000));
    assert_eq!((recovery_pause_ms(3, 0), recovery_pause_ms(3, 4_000)), (4_000, 8_000));
    assert_eq!((recovery_pause_ms(usize::MAX, 0), recovery_pause_ms(9, 15_000)), (15_000, 30_000));
}

const RULES: Rules = Rules { retry_after_ms_max: 300_000, backoff_ms_max: 60_000 };

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_timestamp(1_790_000_000 + seconds, 0).unwrap()
}

fn attempt(target: usize, outcome: Outcome, code: Option<ErrorCode>, excused: bool) -> Attempt {
    Attempt {
        provider: "p".into(),
        model: format!("m{target}"),
        number: 1,
        started_at: at(0),
        duration_ms: 5,
        outcome,
        code,
        cost_nano_usd: NanoUsd::ZERO,
        usage: TokenUsage::default(),
        price_version: String::new(),
        estimated: false,
        served_model: None,
        excused,
    }
}

fn failures(target: usize, class: Class, count: usize, excused: bool) -> Vec<Attempt> {
    vec![attempt(target, Outcome::Failed, Some(class.code()), excused); count]
}

const MODELS: [&str; 4] = ["m0", "m1", "m2", "m3"];

fn standings(up: &[bool]) -> Vec<Standing<'static>> {
    let standing =
        |(index, is_up): (usize, &bool)| Standing { provider: "p", model: MODELS[index], is_up: *is_up };
    up.iter().enumerate().map(standing).collect()
}

/// Two ordinary targets and two for too long inputs, all up.
fn check(class: Class, up: [bool; 4], target: usize, history: &[Attempt]) -> After {
    let targets = standings(&up);
    let situation = Situation {
        history,
        targets: &targets,
        candidates: if target < 2 { 0..2 } else { 2..4 },
        typed: if target < 2 && class == Class::ContextTooLong { 2..4 } else { 0..0 },
        target,
        another_key: false,
        budget: true,
        now: at(0),
        deadline: at(3_600),
    };
    after(class, &situation, &RULES, 7)
}

const UP: [bool; 4] = [true; 4];

fn fallback(target: usize) -> After {
    After::Go(Next::Fallback { target })
}

#[test]
fn a_target_is_tried_quickly_then_the_next_then_after_a_pause() {
    let class = Class::Overloaded;
    let mut history = failures(0, class, 1, true);
    assert_eq!(check(class, UP, 0, &history), After::Go(Next::Retry { delay_ms: 7 }));
    history = failures(0, class, 3, true);
    assert_eq!(check(class, UP, 0, &history), fallback(1));
    history.extend(failures(1, class, 3, true));
    let After::Go(Next::Later { at: due }) = check(class, UP, 1, &history) else { panic!("no pause") };
    assert!(due > at(0) && due < at(60));
}

#[test]
fn what_is_down_is_skipped_and_waited_for() {
    let class = Class::NotConnected;
    let history = failures(0, class, 1, true);
    assert_eq!(check(class, [false, true, true, true], 0, &history), fallback(1));
    assert_eq!(check(class, [false, false, true, true], 0, &history), After::Go(Next::Hold));
    let history = failures(1, class, 3, true);
    assert!(matches!(check(class, [true, false, true, true], 1, &history), After::Go(Next::Later { .. })));
}

/// Else the requests that always fail would be the first calls again of every recovery.
#[test]
fn what_failed_a_few_times_rests_before_it_is_held() {
    let none_up = [false, false, true, true];
    for (failed, rests) in [(1, false), (2, false), (3, true), (9, true)] {
        let history = failures(0, Class::Overloaded, failed, true);
        let is_later =
            matches!(check(Class::Overloaded, none_up, 0, &history), After::Go(Next::Later { .. }));
        assert_eq!(is_later, rests, "after {failed} failures");
    }
}

#[test]
fn failures_that_others_do_not_have_count_and_end_it() {
    for class in [Class::Overloaded, Class::Malformed, Class::TimedOut, Class::Unauthorized] {
        let most = class.rule().tries_max.unwrap() as usize;
        let mut history = failures(0, class, most, false);
        assert_eq!(check(class, UP, 0, &history), fallback(1), "{class:?}");
        history.extend(failures(1, class, most, false));
        assert_eq!(check(class, UP, 1, &history), After::Fail(Some(Dead::Exhausted)), "{class:?}");
        let excused: Vec<_> =
            history.iter().map(|attempt| Attempt { excused: true, ..attempt.clone() }).collect();
        assert!(matches!(check(class, UP, 1, &excused), After::Go(_)), "{class:?}: an outage never ends it");
    }
}

#[test]
fn a_request_at_fault_fails_unless_there_are_targets_for_it() {
    let failed = |class: Class, target| failures(target, class, 1, false);
    assert_eq!(check(Class::Rejected, UP, 0, &failed(Class::Rejected, 0)), After::Fail(None));
    assert_eq!(check(Class::ContentPolicy, UP, 0, &failed(Class::ContentPolicy, 0)), After::Fail(None));
    let mut history = failed(Class::ContextTooLong, 0);
    assert_eq!(check(Class::ContextTooLong, UP, 0, &history), fallback(2));
    history.extend(failed(Class::ContextTooLong, 2));
    assert_eq!(check(Class::ContextTooLong, UP, 2, &history), After::Fail(None));
    history.extend(failures(2, Class::Overloaded, 3, true));
    assert_eq!(check(Class::Overloaded, UP, 2, &history), fallback(3), "among its own kind");
    assert_eq!(check(Class::UnknownModel, UP, 0, &failed(Class::UnknownModel, 0)), fallback(1));
    assert_eq!(check(Class::UnknownModel, UP, 1, &failed(Class::UnknownModel, 1)), After::Fail(None));
}

#[test]
fn a_pause_that_is_asked_for_is_kept_up_to_the_cap() {
    let throttled = |wish| Class::Throttled { retry_after_ms: Some(wish) };
    let history = failures(0, throttled(0), 1, true);
    let one = |class, up| {
        let targets = standings(&[up]);
        let situation = Situation {
            history: &history,
            targets: &targets,
            candidates: 0..1,
            typed: 0..0,
            target: 0,
            another_key: false,
            budget: true,
            now: at(0),
            deadline: at(3_600),
        };
        after(class, &situation, &RULES, 0)
    };
    assert_eq!(one(throttled(200), true), After::Go(Next::Retry { delay_ms: 200 }));
    assert_eq!(one(throttled(20_000), true), After::Go(Next::Later { at: at(20) }));
    assert_eq!(one(throttled(1_000_000_000_000), true), After::Go(Next::Later { at: at(300) }));
    assert_eq!(one(throttled(20_000), false), After::Go(Next::Hold), "the whole provider pauses");
}

#[test]
fn another_key_is_tried_at_once_and_an_empty_budget_waits() {
    let class = Class::Unauthorized;
    let history = failures(0, class, 1, true);
    let targets = standings(&[true]);
    let situation = Situation {
        history: &history,
        targets: &targets,
        candidates: 0..1,
        typed: 0..0,
        target: 0,
        another_key: true,
        budget: false,
        now: at(0),
        deadline: at(3_600),
    };
    assert_eq!(after(class, &situation, &RULES, 99), After::Go(Next::Retry { delay_ms: 0 }));
    let situation = Situation { another_key: false, ..situation };
    assert!(matches!(after(class, &situation, &RULES, 99), After::Go(Next::Later { .. })));
}

#[test]
fn lost_attempts_are_made_again_then_apart_then_buried() {
    let lost = |count| vec![attempt(0, Outcome::Lost, None, false); count];
    let check = |count| after_lost(&lost(count), at(0), at(3_600), u64::MAX);
    assert_eq!(check(1), AfterLost::ClaimNext);
    for count in 2..LOST_MAX {
        assert!(matches!(check(count), AfterLost::Later { at: due } if due >= at(1)), "{count}");
    }
    assert_eq!(check(LOST_MAX), AfterLost::Bury { times: LOST_MAX });
    let mut mixed = lost(LOST_MAX);
    mixed.push(attempt(0, Outcome::Failed, Some(ErrorCode::ProviderOverloaded), true));
    mixed.extend(lost(1));
    assert_eq!(after_lost(&mixed, at(0), at(3_600), 0), AfterLost::ClaimNext, "only in a row");
}

#[test]
fn only_who_was_answered_meanwhile_holds_a_failure_against_a_request() {
    let class = Class::Overloaded;
    let failed =
        |target, second| Attempt { started_at: at(second), ..attempt(target, Outcome::Failed, None, true) };
    let excused =
        |class, before: &[Attempt], last: Option<i64>| is_excused(class, &failed(0, 5), before, last.map(at));
    assert!(excused(class, &[], None) && excused(class, &[], Some(4)) && !excused(class, &[], Some(6)));
    assert!(!excused(class, &[failed(0, 2)], Some(4)), "between its two calls another one was answered");
    assert!(excused(class, &[failed(0, 2)], Some(1)) && excused(class, &[failed(1, 2)], Some(4)));
    assert!(excused(Class::Throttled { retry_after_ms: None }, &[], Some(6)));
    assert!(!excused(Class::Rejected, &[], None));
}

proptest! {
    /// A failure of the provider's never ends a request that has time left, as long as it is not held against it.
    #[test]
    fn nothing_fails_early_because_a_provider_is_down(
        which in 0..Class::ALL.len(), wish: Option<u64>, target in 0_usize..2, up: [bool; 4], budget: bool,
        another_key: bool, calls in 1_usize..60, left in 1_i64..100_000, chance: u64,
    ) {
        let class = match Class::ALL[which] {
            Class::Throttled { .. } => Class::Throttled { retry_after_ms: wish },
            class => class,
        };
        let history = failures(target, class, calls, true);
        let targets = standings(&up);
        let situation = Situation {
            history: &history, targets: &targets, candidates: 0..2, typed: 0..0, target, another_key, budget,
            now: at(0), deadline: at(left),
        };
        let after = after(class, &situation, &RULES, chance);
        if class.rule().remedy == Remedy::TryAgain {
            prop_assert!(matches!(after, After::Go(_)), "{:?}", after);
        }
        match after {
            After::Go(Next::Retry { delay_ms }) => prop_assert!(delay_ms <= QUICK_DELAY_MS_MAX),
            After::Go(Next::Fallback { target }) => {
                prop_assert!(up[target] || class.rule().remedy != Remedy::TryAgain);
            }
            After::Go(Next::Later { at: due }) => {
                let longest = (RULES.retry_after_ms_max + RULES.backoff_ms_max) as i64;
                prop_assert!(due <= at(left) && due <= at(0) + chrono::TimeDelta::milliseconds(longest));
            }
            After::Go(Next::Hold) => prop_assert!(!up[0] && !up[1]),
            After::Fail(_) => {}
        }
    }
}
