//! A large installation: a day's real traffic in a minute, a thousand teams, a million requests that wait.
//!
//! `cargo bench --bench scale -- trace`, `-- teams` or `-- million` takes one of them.

#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark is a shell: it reads the clock and its environment and has tasks of its own"
)]
#![expect(clippy::print_stdout, reason = "the table is what it is for")]
#![expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]

#[path = "../support/bar.rs"]
mod bar;
#[path = "../support/setting.rs"]
mod setting;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "this benchmark has a provider and a client of its own")]
mod support;

mod million;
mod plot;
mod teams;
mod trace;

use std::process::ExitCode;

use bar::Parts;

fn main() -> ExitCode {
    let mut parts = Parts::begin();
    parts.part("trace", async |binary| {
        trace::measure(binary).await;
        true
    });
    parts.part("teams", teams::measure);
    parts.part("million", million::measure);
    parts.end()
}
