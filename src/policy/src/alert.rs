//! When it is told how much of a budget is spent.
//!
//! Each threshold is told once in a window. With another limit, it is told again if what was spent when it was last told
//! does not reach it. (What is spent now does not matter: a ledger may hear of the limit long after it was changed.)

use tollgate_protocol::NanoUsd;
use tollgate_protocol::budget::Told;

/// What is to be told now, and what was told before that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What counts as told, without what is due.
    pub told: Told,
    /// Thresholds to be told now, in percent, ascending.
    pub due: Vec<u32>,
}

/// What follows from what is spent of a window, with thresholds in percent.
pub fn step(thresholds: &[u32], limit: NanoUsd, spent: i64, told: &Told) -> Step {
    let mut kept = Told { limit_nano_usd: limit.0, ..told.clone() };
    if told.limit_nano_usd != limit.0 {
        kept.percents.retain(|percent| is_reached(*percent, limit, told.spent_nano_usd));
    }
    let is_due = |percent: &u32| is_reached(*percent, limit, spent) && !kept.percents.contains(percent);
    let due = thresholds.iter().copied().filter(is_due).collect();
    Step { told: kept, due }
}

/// The same with one more told, when so much is spent.
pub fn with(told: &Told, percent: u32, spent: i64) -> Told {
    let mut percents = told.percents.clone();
    percents.push(percent);
    percents.sort_unstable();
    percents.dedup();
    // A correction can make it less. That is no reason to tell anything again.
    let spent_nano_usd = told.spent_nano_usd.max(spent);
    Told { limit_nano_usd: told.limit_nano_usd, spent_nano_usd, percents }
}

/// How much of a limit is spent, in whole percent, rounded down.
pub fn percent(limit: NanoUsd, spent: i64) -> u64 {
    let spent = i128::from(spent.max(0));
    let part = match i128::from(limit.0) {
        limit if limit > 0 => spent * 100 / limit,
        _ if spent > 0 => i128::from(u64::MAX),
        _ => 0,
    };
    u64::try_from(part).unwrap_or(u64::MAX)
}

fn is_reached(threshold: u32, limit: NanoUsd, spent: i64) -> bool {
    spent > 0 && percent(limit, spent) >= u64::from(threshold)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const THRESHOLDS: [u32; 3] = [50, 80, 100];

    fn told(limit: i64, spent: i64, percents: &[u32]) -> Told {
        Told { limit_nano_usd: limit, spent_nano_usd: spent, percents: percents.to_vec() }
    }

    #[track_caller]
    fn check(limit: i64, spent: i64, before: &Told, kept: &[u32], due: &[u32]) {
        let expected = Step { told: told(limit, before.spent_nano_usd, kept), due: due.to_vec() };
        assert_eq!(step(&THRESHOLDS, NanoUsd(limit), spent, before), expected);
    }

    #[test]
    fn a_threshold_is_told_when_it_is_reached() {
        let nothing = Told::default();
        check(1_000, 0, &nothing, &[], &[]);
        check(1_000, 499, &nothing, &[], &[]);
        check(1_000, 500, &nothing, &[], &[50]);
        check(1_000, 2_000, &nothing, &[], &[50, 80, 100]);
        check(1_000, 799, &told(1_000, 500, &[50]), &[50], &[]);
        check(1_000, 800, &told(1_000, 500, &[50]), &[50], &[80]);
        check(3, 2, &nothing, &[], &[50]);
        check(0, 0, &nothing, &[], &[]);
        check(0, 1, &nothing, &[], &[50, 80, 100]);
        check(1_000, -5, &nothing, &[], &[]);
        check(i64::MAX, i64::MAX, &nothing, &[], &[50, 80, 100]);
    }

    #[test]
    fn what_became_less_is_not_told_again() {
        check(1_000, 400, &told(1_000, 500, &[50]), &[50], &[]);
        check(1_000, 500, &told(1_000, 500, &[50]), &[50], &[]);
        assert_eq!(with(&told(1_000, 500, &[50]), 80, 400), told(1_000, 500, &[50, 80]));
    }

    #[test]
    fn another_limit_has_its_own_thresholds() {
        let all = told(1_000, 1_000, &[50, 80, 100]);
        check(2_000, 1_000, &all, &[50], &[]);
        check(2_000, 1_600, &all, &[50], &[80]);
        check(4_000, 1_000, &all, &[], &[]);
        check(4_000, 2_000, &all, &[], &[50]);
        // Lower: what was told stays told, what is reached with it is told.
        check(500, 500, &told(1_000, 500, &[50]), &[50], &[80, 100]);
    }

    #[test]
    fn part_of_a_limit_is_rounded_down() {
        assert_eq!(percent(NanoUsd(3), 2), 66);
        assert_eq!(percent(NanoUsd(100), -1), 0);
        assert_eq!(percent(NanoUsd(1), i64::MAX), u64::MAX);
    }

    proptest! {
        #[test]
        fn each_threshold_is_told_once_while_the_limit_is_the_same(
            limit in 1_i64..10_000,
            spent in prop::collection::vec(-10_i64..20_000, 0..50),
        ) {
            let (mut told, mut all) = (Told::default(), Vec::new());
            for now in &spent {
                let step = step(&THRESHOLDS, NanoUsd(limit), *now, &told);
                told = step.due.iter().fold(step.told, |told, percent| with(&told, *percent, *now));
                all.extend(step.due);
            }
            all.sort_unstable();
            let most = spent.iter().copied().max().unwrap_or(0);
            let reached: Vec<u32> =
                THRESHOLDS.into_iter().filter(|threshold| is_reached(*threshold, NanoUsd(limit), most)).collect();
            prop_assert_eq!(all, reached);
        }
    }
}
