//! `make chaos`: long runs of drawn faults, and what must hold after them.
//!
//! Variables: `SEED` (one) or `SEEDS` (several, with spaces), `REQUESTS` of each run, or `MINUTES` that it publishes for;
//! `RATE` per second, `FAULTS`. Ends with 1 if a promise was broken.

#![expect(clippy::print_stdout, reason = "it is a report")]
#![expect(
    clippy::disallowed_methods,
    reason = "a program of the tests: it reads its environment and the clock"
)]

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use futures_util::FutureExt;
use tollgate_tests::chaos::{Options, Table, run};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().filter(|text| !text.is_empty()).map(|text| {
        text.parse().unwrap_or_else(|_| panic!("{name}: expected a whole number, found {text:?}"))
    })
}

#[tokio::main]
async fn main() -> ExitCode {
    let seeds: Vec<u64> = match std::env::var("SEEDS").ok().filter(|text| !text.trim().is_empty()) {
        Some(text) => {
            text.split_whitespace().map(|seed| seed.parse().expect("seeds are whole numbers")).collect()
        }
        None => vec![number("SEED").unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(1, |now| now.as_secs())
        })],
    };
    let per_second = u32::try_from(number("RATE").unwrap_or(60)).expect("a rate is small");
    let requests = match (number("REQUESTS"), number("MINUTES")) {
        (Some(requests), _) => requests,
        (None, minutes) => minutes.unwrap_or(1) * 60 * u64::from(per_second),
    };
    let requests = usize::try_from(requests).expect("so many fit into memory");
    let seconds = requests / per_second.max(1) as usize;
    let faults =
        number("FAULTS").map_or((seconds / 2).max(10), |faults| usize::try_from(faults).expect("few"));
    let (mut sum, mut total, mut broken, mut lost, mut calls) = (Table::default(), 0, Vec::new(), 0, 0);
    for seed in seeds {
        println!("seed {seed}: {requests} requests at {per_second}/s, {faults} faults");
        let options = Options { seed, requests, per_second, faults, timely: true, loud: true };
        // What breaks the harness shall not take the other seeds with it.
        let Ok(outcome) = AssertUnwindSafe(Box::pin(run(&options))).catch_unwind().await else {
            println!("seed {seed}: the run itself ended too early");
            broken.push(seed);
            continue;
        };
        println!("{outcome}");
        sum.merge(&outcome.table);
        total += outcome.requests;
        lost += outcome.lost;
        calls += outcome.calls;
        if !outcome.violations.is_empty() {
            let file = std::env::temp_dir().join(format!("tollgate-chaos-{seed}.log"));
            if std::fs::write(&file, &outcome.logs).is_ok() {
                println!("  logs: {}", file.display());
            }
            if let Some(store) = &outcome.store {
                println!("  the server's store: {}", store.display());
            }
            broken.push(seed);
        }
    }
    println!("\n  times  fault\n{sum}");
    println!("{total} requests, {calls} calls, {lost} lost, {} processes killed with -9", sum.kills());
    if broken.is_empty() {
        println!("every promise kept");
        ExitCode::SUCCESS
    } else {
        println!("BROKEN with the seeds {broken:?}");
        ExitCode::FAILURE
    }
}
