//! The figures of a run: medians, ratios, a table and a file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::{Value, json};

use crate::rounds::{Closed, Open, Subject};
use crate::support::machine;
pub(crate) use crate::support::report::write;

/// What a broker has to reach: this part of the floor's throughput,
const THROUGHPUT_BAR: f64 = 0.5;
/// and no more than this many times its median latency.
const LATENCY_BAR: f64 = 2.0;

/// Every round's figures.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) load_average: Vec<f64>,
    pub(crate) publish_rate: Vec<f64>,
    pub(crate) closed: BTreeMap<(Subject, usize), Vec<Closed>>,
    pub(crate) open: BTreeMap<Subject, Vec<Open>>,
    per_second: u32,
}

impl Report {
    pub(crate) fn new(per_second: u32) -> Self {
        Self { per_second, ..Self::default() }
    }

    fn throughput(&self, subject: Subject, in_flight: usize) -> f64 {
        median(self.closed.get(&(subject, in_flight)).into_iter().flatten().map(|closed| closed.per_second))
    }

    fn p50(&self, subject: Subject) -> f64 {
        median(self.open.get(&subject).into_iter().flatten().map(|open| open.p50_ms))
    }

    fn p99(&self, subject: Subject) -> f64 {
        median(self.open.get(&subject).into_iter().flatten().map(|open| open.p99_ms))
    }

    /// The table.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let cores = machine::cores();
        line(&mut text, &format!("{cores} cores, load average {}", list(&self.load_average, 1)));
        let rate = median(self.publish_rate.iter().copied());
        line(
            &mut text,
            &format!("bare publish loop, 512 in flight: {rate:.0}/s {}", list(&self.publish_rate, 0)),
        );
        line(&mut text, "\n| in flight | floor/s | roles/s | ratio | up/s | ratio | bar |");
        line(&mut text, "|---:|---:|---:|---:|---:|---:|---|");
        for in_flight in self.in_flights() {
            let [floor, roles, up] = Subject::ALL.map(|subject| self.throughput(subject, in_flight));
            let (of_roles, of_up) = (roles / floor, up / floor);
            let bar = verdict(of_roles.min(of_up) >= THROUGHPUT_BAR, &format!(">= {THROUGHPUT_BAR}"));
            line(
                &mut text,
                &format!(
                    "| {in_flight} | {floor:.0} | {roles:.0} | {of_roles:.2} | {up:.0} | {of_up:.2} | {bar} |"
                ),
            );
        }
        line(&mut text, &format!("\n| {}/s | floor | roles | ratio | up | ratio | bar |", self.per_second));
        line(&mut text, "|---|---:|---:|---:|---:|---:|---|");
        let [floor, roles, up] = Subject::ALL.map(|subject| self.p50(subject));
        let (of_roles, of_up) = (roles / floor, up / floor);
        let bar = verdict(of_roles.max(of_up) <= LATENCY_BAR, &format!("<= {LATENCY_BAR}"));
        line(
            &mut text,
            &format!("| p50 ms | {floor:.2} | {roles:.2} | {of_roles:.2} | {up:.2} | {of_up:.2} | {bar} |"),
        );
        let [floor, roles, up] = Subject::ALL.map(|subject| self.p99(subject));
        let (of_roles, of_up) = (roles / floor, up / floor);
        line(
            &mut text,
            &format!("| p99 ms | {floor:.2} | {roles:.2} | {of_roles:.2} | {up:.2} | {of_up:.2} | |"),
        );
        line(&mut text, "\n| CPU µs per request | process: µs (MiB resident) |\n|---|---|");
        for ((subject, in_flight), rounds) in &self.closed {
            let cpu = by_name(rounds, |closed| &closed.cpu_us);
            let rss = by_name(rounds, |closed| &closed.rss_mib);
            let sum: f64 = cpu.values().sum();
            let each: Vec<String> =
                cpu.iter().map(|(name, us)| format!("{name} {us:.0} ({:.0})", rss[name])).collect();
            line(
                &mut text,
                &format!("| {} at {in_flight} | sum {sum:.0}: {} |", subject.name(), each.join(", ")),
            );
        }
        line(&mut text, "\n| messages of the nats-server per request | in | out |\n|---|---:|---:|");
        for ((subject, in_flight), rounds) in &self.closed {
            let (into, out) = messages(rounds);
            line(&mut text, &format!("| {} at {in_flight} | {into:.1} | {out:.1} |", subject.name()));
        }
        line(&mut text, "\n| bytes of a stored message | by stream |\n|---|---|");
        for ((subject, in_flight), rounds) in &self.closed {
            let bytes = by_name(rounds, |closed| &closed.message_bytes);
            let each: Vec<String> = bytes.iter().map(|(name, bytes)| format!("{name} {bytes:.0}")).collect();
            line(&mut text, &format!("| {} at {in_flight} | {} |", subject.name(), each.join(", ")));
        }
        text
    }

    /// The same for programs, with every round.
    pub(crate) fn json(&self) -> Value {
        let closed: Vec<Value> = self
            .closed
            .iter()
            .map(|((subject, in_flight), rounds)| {
                json!({
                    "subject": subject.name(),
                    "in_flight": in_flight,
                    "per_second": self.throughput(*subject, *in_flight),
                    "of_floor": self.throughput(*subject, *in_flight) / self.throughput(Subject::Floor, *in_flight),
                    "rounds": rounds.iter().map(|closed| closed.per_second).collect::<Vec<_>>(),
                    "cpu_us": by_name(rounds, |closed| &closed.cpu_us),
                    "messages_in": messages(rounds).0,
                    "messages_out": messages(rounds).1,
                    "rss_mib": by_name(rounds, |closed| &closed.rss_mib),
                    "peak_mib": by_name(rounds, |closed| &closed.peak_mib),
                    "message_bytes": by_name(rounds, |closed| &closed.message_bytes),
                })
            })
            .collect();
        let open: Vec<Value> = self
            .open
            .iter()
            .map(|(subject, rounds)| {
                json!({
                    "subject": subject.name(),
                    "per_second": self.per_second,
                    "p50_ms": self.p50(*subject),
                    "p99_ms": self.p99(*subject),
                    "of_floor_p50": self.p50(*subject) / self.p50(Subject::Floor),
                    "rounds_p50_ms": rounds.iter().map(|open| open.p50_ms).collect::<Vec<_>>(),
                    "rounds_p99_ms": rounds.iter().map(|open| open.p99_ms).collect::<Vec<_>>(),
                })
            })
            .collect();
        json!({
            "cores": machine::cores(),
            "load_average": self.load_average,
            "publish_per_second": self.publish_rate,
            "closed": closed,
            "open": open,
        })
    }

    fn in_flights(&self) -> BTreeSet<usize> {
        self.closed.keys().map(|(_, in_flight)| *in_flight).collect()
    }
}

/// The median of each name over all rounds.
fn by_name(rounds: &[Closed], of: impl Fn(&Closed) -> &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let names = rounds.iter().flat_map(|round| of(round).keys());
    names
        .map(|name| (name.clone(), median(rounds.iter().filter_map(|round| of(round).get(name).copied()))))
        .collect()
}

/// The medians over all rounds.
fn messages(rounds: &[Closed]) -> (f64, f64) {
    let of = |each: fn(&Closed) -> f64| median(rounds.iter().map(each));
    (of(|closed| closed.messages.0), of(|closed| closed.messages.1))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[length / 2],
        length => f64::midpoint(values[length / 2 - 1], values[length / 2]),
    }
}

fn verdict(kept: bool, bar: &str) -> String {
    format!("{bar}: {}", crate::support::report::verdict(kept))
}

fn list(values: &[f64], digits: usize) -> String {
    let values: Vec<String> = values.iter().map(|value| format!("{value:.digits$}")).collect();
    format!("[{}]", values.join(", "))
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a String takes everything");
}
