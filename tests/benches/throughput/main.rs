//! How fast the broker is, against the floor: a bare program with the same messages.
//!
//! Absolute figures say more about the machine and its other users than about the broker. So everything is measured
//! in one run on one nats-server, the floor and the broker take turns, and what counts is the ratio of medians.
//!
//! `cargo bench --bench throughput -- --quick` takes one short round, to see that it works; `--only roles` (or
//! `floor`, or `up`) measures nothing else, for a profiler to watch.

#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark is a shell: it reads the clock and its environment and has tasks of its own"
)]
#![expect(clippy::print_stdout, reason = "the table is what it is for")]
#![expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]

mod cpu;
mod floor;
mod load;
mod report;
mod rounds;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use report::Report;
use rounds::{Bench, Lengths, Subject};
use support::{broker, machine};

/// Requests under way at once in the closed loops.
const IN_FLIGHT: [usize; 2] = [64, 512];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(settings) = floor::Settings::from_arguments(&arguments) {
        // One thread answers it with the least CPU time, and CPU time is what there is too little of here.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        return runtime.expect("a runtime can be built").block_on(floor::run(settings));
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be built");
    runtime.block_on(measure(&arguments));
}

async fn measure(arguments: &[String]) {
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let (rounds, lengths) = if quick {
        (1, lengths(Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(3)))
    } else {
        (3, lengths(Duration::from_secs(2), Duration::from_secs(5), Duration::from_secs(12)))
    };
    let only = arguments.iter().skip_while(|argument| *argument != "--only").nth(1);
    let subjects: Vec<Subject> =
        Subject::ALL.into_iter().filter(|subject| only.is_none_or(|only| only == subject.name())).collect();
    let mut bench = Bench::start(&broker::binary(), lengths).await;
    let mut report = Report::new(lengths.per_second);
    for round in 1..=rounds {
        report.load_average.push(machine::load_average());
        report.publish_rate.push(bench.publish_rate().await);
        for in_flight in IN_FLIGHT {
            for subject in subjects.iter().copied() {
                let closed = bench.closed(subject, in_flight).await;
                println!("round {round}: {} at {in_flight}: {:.0}/s", subject.name(), closed.per_second);
                report.closed.entry((subject, in_flight)).or_default().push(closed);
            }
        }
        for subject in subjects.iter().copied() {
            let open = bench.open(subject).await;
            println!(
                "round {round}: {} p50 {:.2} ms, p99 {:.2} ms",
                subject.name(),
                open.p50_ms,
                open.p99_ms
            );
            report.open.entry(subject).or_default().push(open);
        }
        report.load_average.push(machine::load_average());
    }
    println!("\n{}", report.text());
    let path = report::write("throughput.json", &report.json());
    println!("written to {}", path.display());
}

fn lengths(warm_up: Duration, closed: Duration, open: Duration) -> Lengths {
    Lengths { warm_up, closed, open, per_second: 200 }
}
