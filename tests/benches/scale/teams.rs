//! Many teams at once: what they cost a router, and how long a quiet one waits among them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tollgate_tests::roles::Role;

use crate::bar::bar;
use crate::setting::{Setting, ms, percentile, request};
use crate::support::machine;
use crate::support::report::write;

const FEW: usize = 10;
const MANY: usize = 1_000;
const QUIET: &str = "quiet";
const MAX_IN_FLIGHT: u32 = 16;
/// At most 800 a second.
const SERVICE: Duration = Duration::from_millis(20);
/// Of all teams together, in turns.
const PER_SECOND: u64 = 300;
/// Requests of the quiet team, one after the other. Of fewer, the 99th percentile would be that of two or three.
const TRIALS: usize = 1_000;
/// Of one team, before the others begin.
const FLOOD: usize = 60_000;
const PATIENCE: Duration = Duration::from_secs(120);

/// What was measured with so many teams.
struct Seen {
    quiet: Vec<f64>,
    all: Vec<f64>,
    router_mib: f64,
    /// Of one core.
    router_cpu: f64,
}

impl Seen {
    /// Another round of the same.
    fn add(&mut self, other: Self) {
        for (all, more) in [(&mut self.quiet, other.quiet), (&mut self.all, other.all)] {
            all.extend(more);
            all.sort_by(f64::total_cmp);
        }
        self.router_mib = self.router_mib.max(other.router_mib);
        self.router_cpu = self.router_cpu.max(other.router_cpu);
    }
}

pub(crate) async fn measure(binary: &Path) -> bool {
    let mut kept = true;
    let mut results = Vec::<Value>::new();
    for flood in [0, FLOOD] {
        let beside = if flood > 0 { "beside a flood" } else { "nothing else" };
        // In turns, so that a machine that becomes slower becomes slower for both.
        let mut few = among(binary, FEW, flood).await;
        let mut many = among(binary, MANY, flood).await;
        many.add(among(binary, MANY, flood).await);
        few.add(among(binary, FEW, flood).await);
        for (count, seen) in [(FEW, &few), (MANY, &many)] {
            println!(
                "{count} teams, {beside}: a quiet one's start after {:.1} ms (median), {:.1} ms (p99); all: {:.1}, \
                 {:.1} ms; router {:.0} MiB, {:.0} % of a core",
                percentile(&seen.quiet, 50),
                percentile(&seen.quiet, 99),
                percentile(&seen.all, 50),
                percentile(&seen.all, 99),
                seen.router_mib,
                seen.router_cpu * 100.0
            );
            results.push(json!({
                "teams": count, "flood": flood, "quiet_ms": seen.quiet, "router_mib": seen.router_mib,
                "router_cpu": seen.router_cpu, "all_p50_ms": percentile(&seen.all, 50),
                "all_p99_ms": percentile(&seen.all, 99),
            }));
        }
        let is_kept = percentile(&many.quiet, 99) <= 2.0 * percentile(&few.quiet, 99);
        kept &= bar("a quiet team's p99 is at most twice that among ten", is_kept);
    }
    println!("  written to {}", write("scale-teams.json", &json!(results)).display());
    kept
}

async fn among(binary: &Path, count: usize, flood: usize) -> Seen {
    let names: Vec<String> = (0..count).map(|n| format!("team-{n}")).collect();
    let mut teams: BTreeMap<&str, u32> = names.iter().map(|name| (name.as_str(), 1)).collect();
    teams.extend([(QUIET, 1), ("flood", 1)]);
    let mut setting = Setting::start(binary, 1, MAX_IN_FLIGHT, SERVICE, &teams).await;
    setting.run(Role::Worker).await;
    setting.run(Role::Ledger).await;
    let router = setting.running[0].process().pid();
    let flooding: Vec<_> = (0..flood).map(|id| request("flood", "flood", id).0).collect();
    setting.client.publish_all(&flooding).await;

    let (client, start, cpu) = (setting.client.clone(), Instant::now(), machine::cpu_seconds(router));
    let others = names.clone();
    let load = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / PER_SECOND));
        for id in 0_usize.. {
            ticks.tick().await;
            let (client, (request, _)) = (client.clone(), request(&others[id % others.len()], "load", id));
            tokio::spawn(client.publish_owned(request));
        }
    });
    let mut quiet = Vec::new();
    for id in 0..TRIALS {
        let (request, text) = request(QUIET, "quiet", id);
        quiet.push(ms(setting.started_after(&request, &text, PATIENCE).await));
    }
    load.abort();
    let took = start.elapsed().as_secs_f64();
    let router_cpu = (machine::cpu_seconds(router) - cpu) / took;
    let left = setting.client.response(&request("flood", "flood", flood.saturating_sub(1)).0.identity).await;
    assert!(left.is_none(), "the flood was over before the others were measured: take a larger one");
    quiet.sort_by(f64::total_cmp);
    Seen { quiet, all: load_waits(&setting).await, router_mib: machine::rss_mib(router), router_cpu }
}

/// Milliseconds from acceptance to call of what the other teams had answered.
async fn load_waits(setting: &Setting) -> Vec<f64> {
    let called: Vec<_> =
        setting.provider.calls().into_iter().filter(|call| call.key.contains(" load ")).collect();
    let mut waits = Vec::new();
    for call in called.iter().step_by(called.len().div_ceil(2_000).max(1)) {
        let (team, id) = call.key.split_once(" load ").expect("the key of a request");
        let (request, _) = request(team, "load", id.parse().expect("a number"));
        // The last ones may be under way.
        let Some(response) = setting.client.response(&request.identity).await else { continue };
        waits.extend(response.value()["timing"]["queued_ms"].as_f64());
    }
    waits.sort_by(f64::total_cmp);
    waits
}
