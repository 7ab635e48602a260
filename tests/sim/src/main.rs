//! `make sim`: many seeds, one after the other.
//!
//! `SEEDS` says how many (20,000), `SEED` replays one, `FIRST` says where to begin, `BUG` breaks a rule on purpose, `TRACE=1` tells what happens, `THREADS`
//! says how many at a time.

use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use tollgate_sim::bug::Bug;
use tollgate_sim::plan::Plan;
use tollgate_sim::run::run_plan;

fn number(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "a tool of the developers, told by make")]
    let text = std::env::var(name).ok()?;
    text.parse().ok()
}

fn main() -> ExitCode {
    #[expect(clippy::disallowed_methods, reason = "a tool of the developers, told by make")]
    let named = std::env::var("BUG").ok().filter(|name| !name.is_empty());
    let mut out = std::io::stdout();
    let bug = named.as_deref().and_then(Bug::named);
    if named.is_some() && bug.is_none() {
        let names: Vec<&str> = Bug::ALL.iter().map(|(name, _)| *name).collect();
        let _ = writeln!(out, "no such bug; there are {}", names.join(", "));
        return ExitCode::FAILURE;
    }
    let (first, count) = match number("SEED") {
        Some(seed) => (seed, 1),
        None => (number("FIRST").unwrap_or(0), number("SEEDS").unwrap_or(20_000)),
    };
    let is_traced = number("TRACE") == Some(1);
    let threads = number("THREADS").unwrap_or(1).max(1);
    let (next, failed) = (AtomicU64::new(first), AtomicU64::new(u64::MAX));
    let (requests, calls, faults, steps) =
        (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || seed > failed.load(Ordering::Relaxed) {
                        return;
                    }
                    let outcome = run_plan(Plan::of(seed), bug, is_traced);
                    for line in &outcome.trace {
                        let _ = writeln!(std::io::stdout(), "{line}");
                    }
                    requests.fetch_add(outcome.counts.0 as u64, Ordering::Relaxed);
                    calls.fetch_add(outcome.counts.1 as u64, Ordering::Relaxed);
                    faults.fetch_add(u64::from(outcome.counts.2), Ordering::Relaxed);
                    steps.fetch_add(outcome.steps, Ordering::Relaxed);
                    if !outcome.broken.is_empty() {
                        failed.fetch_min(seed, Ordering::Relaxed);
                        let mut out = std::io::stdout();
                        for broken in outcome.broken.iter().take(10) {
                            let _ = writeln!(out, "BROKEN seed {seed}: {broken}");
                        }
                    }
                }
            });
        }
    });
    let failed = failed.load(Ordering::Relaxed);
    let seeds = if failed == u64::MAX { count } else { failed - first + 1 };
    let of = |number: &AtomicU64| number.load(Ordering::Relaxed);
    let _ = writeln!(
        out,
        "{seeds} seeds from {first}: {} requests, {} calls, {} faults, {} steps",
        of(&requests),
        of(&calls),
        of(&faults),
        of(&steps)
    );
    if failed == u64::MAX {
        return ExitCode::SUCCESS;
    }
    let _ = writeln!(out, "replay it with: make sim SEED={failed}");
    ExitCode::FAILURE
}
