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

use support::{broker, machine};

fn main() -> ExitCode {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be built");
    let binary = broker::binary();
    let mut kept = true;
    println!("{} cores, load average {:.1}", machine::cores(), machine::load_average());
    if is_wanted("trace") {
        runtime.block_on(trace::measure(&binary));
    }
    if is_wanted("teams") {
        kept &= runtime.block_on(teams::measure(&binary));
    }
    if is_wanted("million") {
        kept &= runtime.block_on(million::measure(&binary));
    }
    println!("load average {:.1} after", machine::load_average());
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
