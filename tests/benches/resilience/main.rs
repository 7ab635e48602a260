//! What an outage and a rolling restart cost: two runs against the release build, each with its bars.
//!
//! `cargo bench --bench resilience -- outage` or `-- rolling` takes one of them.

#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark is a shell: it reads the clock and its environment and has tasks of its own"
)]
#![expect(clippy::print_stdout, reason = "the table is what it is for")]
#![expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]

#[path = "../support/bar.rs"]
mod bar;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "this benchmark has a provider and a client of its own")]
mod support;

mod outage;
mod rolling;

use std::process::ExitCode;

use bar::Parts;

fn main() -> ExitCode {
    let mut parts = Parts::begin();
    parts.part("rolling", rolling::measure);
    parts.part("outage", outage::measure);
    parts.end()
}

/// The value below which this part of all is.
fn quantile(sorted: &[u64], part: f64) -> u64 {
    let last = sorted.len().saturating_sub(1);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index into a list")]
    let index = (last as f64 * part).round() as usize;
    sorted.get(index).copied().unwrap_or_default()
}
