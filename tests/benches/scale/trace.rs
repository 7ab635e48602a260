//! A real hour of one service's chat requests (Azure LLM inference trace 2023, conversations; Patel et al., Splitwise,
//! ISCA 2024) at fifty times its speed, over three teams and three priorities: how long each waits in the queue.
//!
//! A call takes as long as the trace's number of tokens says. The provider has so many places that on average nine of ten
//! are taken; so the bursts of the trace make queues. Beside it, computed: the same arrivals and calls with one queue,
//! first come, first served.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use chrono::NaiveDateTime;
use serde_json::json;
use tollgate_tests::client::Client;
use tollgate_tests::provider::Behaviour;
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::Role;

use crate::plot;
use crate::setting::{MODEL, Setting, ms, percentile};
use crate::support::machine;
use crate::support::report::write;

const SPEED: u32 = 50;
const TEAMS: [&str; 3] = ["assistant", "search", "reports"];
const PRIORITIES: [&str; 3] = ["high", "normal", "low"];
/// Of ten requests, which are of which priority.
const MIX: [usize; 10] = [0, 1, 1, 2, 1, 0, 1, 2, 1, 2];
/// A token of the answer, and one of the prompt, before the speed: a large model on few accelerators.
const PER_OUTPUT: Duration = Duration::from_millis(30);
const PER_INPUT: Duration = Duration::from_micros(100);
/// How much of the provider's places the trace takes on average.
const LOAD: f64 = 0.9;
const PATIENCE: Duration = Duration::from_secs(600);

struct Arrival {
    /// Since the first, at this speed.
    at: Duration,
    input: usize,
    output: usize,
}

impl Arrival {
    fn service(&self) -> Duration {
        let (input, output) = (self.input as f64, self.output as f64);
        (PER_INPUT.mul_f64(input) + PER_OUTPUT.mul_f64(output)) / SPEED
    }
}

pub(crate) async fn measure(binary: &Path) {
    let Some(arrivals) = arrivals() else {
        println!(
            "trace: SKIPPED: set TOLLGATE_TRACE to azure_llm_trace_conv_2023.csv (Azure/AzurePublicDataset)"
        );
        return;
    };
    let services: Duration = arrivals.iter().map(Arrival::service).sum();
    let length = arrivals.last().map_or(Duration::ZERO, |last| last.at);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
    let places = (services.as_secs_f64() / length.as_secs_f64() / LOAD).ceil() as u32;
    println!(
        "trace: {} requests in {:.0} s, mean call {:.0} ms, {places} places",
        arrivals.len(),
        length.as_secs_f64(),
        ms(services) / arrivals.len() as f64
    );
    let teams = TEAMS.into_iter().map(|team| (team, 1)).collect();
    let mut setting = Setting::start(binary, 1, places, Duration::ZERO, &teams).await;
    setting.run(Role::Worker).await;
    setting.run(Role::Ledger).await;
    let service: Vec<Duration> = arrivals.iter().map(Arrival::service).collect();
    let of_calls = service.clone();
    setting.provider.script(move |call| {
        let number = number_of(&call.key).expect("a key of this run");
        Behaviour::Delay(of_calls[number])
    });

    let published = publish(&setting.client, &arrivals).await;
    let called = called(&setting, arrivals.len()).await;
    let waits: Vec<f64> = published
        .iter()
        .zip(&called)
        .map(|(at, call)| ms(call.duration_since(*at).unwrap_or_default()))
        .collect();

    let mut groups = BTreeMap::<(usize, usize), Vec<f64>>::new();
    let mut curves = vec![Vec::new(); PRIORITIES.len()];
    for (n, wait) in waits.iter().enumerate() {
        groups.entry((n % TEAMS.len(), priority(n))).or_default().push(*wait);
        curves[priority(n)].push(*wait);
    }
    println!("  | team | priority | requests | p50 ms | p99 ms |");
    for ((team, priority), waits) in &mut groups {
        waits.sort_by(f64::total_cmp);
        println!(
            "  | {} | {} | {} | {:.0} | {:.0} |",
            TEAMS[*team],
            PRIORITIES[*priority],
            waits.len(),
            percentile(waits, 50),
            percentile(waits, 99)
        );
    }
    let fifo = first_come_first_served(&arrivals, places as usize);
    println!(
        "  | one queue, computed | | {} | {:.0} | {:.0} |",
        fifo.len(),
        percentile(&fifo, 50),
        percentile(&fifo, 99)
    );
    let mut named: Vec<(String, Vec<f64>)> =
        PRIORITIES.iter().map(|name| (*name).to_owned()).zip(curves).collect();
    named.push(("one queue, first come first served (computed)".to_owned(), fifo));
    for (_, waits) in &mut named {
        waits.sort_by(f64::total_cmp);
    }
    let result = write("scale-trace.json", &json!({"places": places, "waits_ms": waits}));
    let picture = result.with_file_name("scale-trace.svg");
    std::fs::write(&picture, plot::distributions("queue wait", &named)).expect("the plot can be written");
    println!(
        "  router {:.0} MiB; written to {}",
        machine::peak_mib(setting.running[0].process().pid()),
        picture.display()
    );
}

fn priority(n: usize) -> usize {
    MIX[n / TEAMS.len() % MIX.len()]
}

fn number_of(key: &str) -> Option<usize> {
    key.split_once(' ').and_then(|(number, _)| number.parse().ok())
}

/// Publishes each at its time. Returns when that was.
async fn publish(client: &Client, arrivals: &[Arrival]) -> Vec<SystemTime> {
    let (start, mut published, mut publishes) = (Instant::now(), Vec::new(), Vec::new());
    for (n, arrival) in arrivals.iter().enumerate() {
        let identity = Identity::new(TEAMS[n % TEAMS.len()], "trace", &n.to_string());
        // As many words as the trace has tokens: the provider counts them.
        let text = format!("{n} {}", "w ".repeat(arrival.input.saturating_sub(1)));
        let messages = json!([{"role": "user", "content": text}]);
        let body = json!({"model": MODEL, "max_tokens": arrival.output.max(1), "messages": messages});
        let request = Request::with_body(&identity, body).priority(PRIORITIES[priority(n)]);
        tokio::time::sleep((start + arrival.at).saturating_duration_since(Instant::now())).await;
        published.push(SystemTime::now());
        publishes.push(tokio::spawn(client.clone().publish_owned(request)));
    }
    for publish in publishes {
        publish.await.expect("a publish does not panic");
    }
    published
}

/// When each was called.
async fn called(setting: &Setting, count: usize) -> Vec<SystemTime> {
    tollgate_tests::wait::eventually(PATIENCE, "all to be called", async || {
        let total = setting.provider.total();
        if total >= count { Ok(()) } else { Err(total) }
    })
    .await;
    let mut called = vec![SystemTime::UNIX_EPOCH; count];
    for call in setting.provider.calls().iter().filter(|call| call.earlier == 0) {
        called[number_of(&call.key).expect("a key of this run")] = call.arrived_at;
    }
    called
}

/// What they would wait in one queue, in milliseconds, sorted.
fn first_come_first_served(arrivals: &[Arrival], places: usize) -> Vec<f64> {
    let mut free = vec![Duration::ZERO; places];
    let mut waits: Vec<f64> = arrivals
        .iter()
        .map(|arrival| {
            let soonest = free.iter_mut().min().expect("there is a place");
            let begins = arrival.at.max(*soonest);
            *soonest = begins + arrival.service();
            ms(begins - arrival.at)
        })
        .collect();
    waits.sort_by(f64::total_cmp);
    waits
}

/// The trace, if there is one: a table of time, prompt tokens and generated tokens.
fn arrivals() -> Option<Vec<Arrival>> {
    let path = std::env::var_os("TOLLGATE_TRACE").map(PathBuf::from)?;
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let rows: Vec<_> = text
        .lines()
        .skip(1)
        .map(|line| {
            let mut cells = line.trim().split(',');
            let at =
                cells.next().and_then(|at| NaiveDateTime::parse_from_str(at, "%Y-%m-%d %H:%M:%S%.f").ok());
            let mut number = || cells.next().and_then(|cell| cell.parse().ok());
            (at.expect("a time"), number().expect("prompt tokens"), number().expect("generated tokens"))
        })
        .collect();
    let first = rows.first()?.0;
    let since = |at: NaiveDateTime| (at - first).to_std().unwrap_or_default() / SPEED;
    Some(rows.into_iter().map(|(at, input, output)| Arrival { at: since(at), input, output }).collect())
}
