//! What `make test` runs of the simulation. `make sim` runs more.

use std::collections::BTreeMap;

use tollgate_sim::bug::Bug;
use tollgate_sim::plan::Plan;
use tollgate_sim::run::{run, run_plan};

const SEEDS: u64 = 500;

#[test]
fn no_invariant_is_broken() {
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..SEEDS {
        let outcome = run(seed, None);
        assert!(
            outcome.broken.is_empty(),
            "replay it with `make sim SEED={seed}`:\n{}",
            outcome.broken.join("\n")
        );
        outcome.seen.into_iter().for_each(|(what, count)| *seen.entry(what).or_default() += count);
    }
    // A simulation in which nothing happens finds nothing.
    for what in [
        "request",
        "job",
        "claim",
        "retry",
        "fallback",
        "later",
        "hold",
        "attempt",
        "lost",
        "unpaid",
        "reserve",
        "undo",
        "settle",
        "number",
        "start under a rate",
        "wait for a slot",
        "void number",
        "succeeded",
        "failed",
        "rejected",
        "expired",
        "cancelled",
    ] {
        assert!(seen.get(what).copied().unwrap_or(0) >= 20, "{what}: {seen:?}");
    }
}

#[test]
fn a_seed_always_does_the_same() {
    for seed in [3, 19, 28, 44, 61, 88, 196] {
        let once = run_plan(Plan::of(seed), None, true);
        let again = run_plan(Plan::of(seed), None, true);
        assert!(once.trace.len() > 10, "{seed}");
        assert_eq!(once.trace, again.trace, "{seed}");
    }
}

/// The other broken rules are tried by `make sim-mutants`.
#[test]
fn what_is_broken_on_purpose_is_noticed() {
    for (bug, seeds) in [(Bug::NoClaim, 20), (Bug::RouterAcksFirst, 20), (Bug::EndNotFenced, 20)] {
        let found = (0..seeds).find(|seed| !run(*seed, Some(bug)).broken.is_empty());
        assert!(found.is_some(), "{bug:?} was not noticed by any of {seeds} seeds");
    }
}
