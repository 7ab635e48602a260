//! One run, from its seed to its verdict.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::task::JoinSet;

use super::Options;
use super::counted;
use super::faults::{Fault, Table};
use super::load::{Accepted, Planned, TEAMS, publish};
use super::rng::Rng;
use super::stage::Stage;
use super::verdict::{self, Outcome};
use crate::client::Client;

/// How long everything may take to be answered once nothing goes wrong any more.
const ANSWERED_WITHIN: Duration = Duration::from_secs(300);
/// As many requests are asked for one by one, or all after so long: most answers are seen as they come.
const ASKED_FOR_AT_ONCE: usize = 100;
const ASKED_FOR_EVERY: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(20);

/// Runs, and says what became of the promises.
///
/// # Panics
/// When the processes do not start, or the streams cannot be read at the end.
pub async fn run(options: &Options) -> Outcome {
    let say = |text: &str| {
        if options.loud {
            eprintln!("seed {}: {text}", options.seed);
        }
    };
    let (mut requests, mut faults, mut times) = (
        Rng::new(options.seed, "requests"),
        Rng::new(options.seed, "faults"),
        Rng::new(options.seed, "times"),
    );
    let planned: Vec<Planned> = (0..options.requests).map(|n| Planned::draw(n, &mut requests)).collect();
    let span_ms = options.requests as u64 * 1_000 / u64::from(options.per_second.max(1));
    let mut plan: Vec<(Duration, Fault)> = Fault::draw(options.faults, &mut faults)
        .into_iter()
        .map(|fault| (Duration::from_millis(times.between(300, span_ms.max(301))), fault))
        .collect();
    plan.sort_by_key(|(at, _)| *at);

    let mut stage = Stage::start(&TEAMS, options.seed, &counted::config(options.requests)).await;
    let client = Client::connect(&stage.nats.url()).await;
    let mut lives = Vec::new();
    for team in TEAMS {
        lives.push(client.watch(team).await);
    }
    let accepted = Accepted::default();
    let mut table = Table::default();
    let mut publishing = JoinSet::new();
    publishing.spawn({
        let (client, accepted, planned) = (client.clone(), accepted.clone(), planned.clone());
        let between = Duration::from_secs(1) / options.per_second.max(1);
        async move {
            let mut ticks = tokio::time::interval(between);
            let mut under_way = JoinSet::new();
            for planned in planned {
                ticks.tick().await;
                under_way.spawn(publish(client.clone(), planned, accepted.clone()));
            }
            under_way.join_all().await;
        }
    });
    let begun = Instant::now();
    let (mut due, mut put_off) = (plan.into_iter().peekable(), Vec::new());
    // What found no process free is tried again for as long as there is load.
    while due.peek().is_some() || (!put_off.is_empty() && begun.elapsed().as_millis() < u128::from(span_ms)) {
        put_off.extend(std::iter::from_fn(|| due.next_if(|(at, _)| *at <= begun.elapsed())));
        for (at, fault) in std::mem::take(&mut put_off) {
            if stage.fire(&fault, &mut faults, &mut table).await {
                say(&format!("{:>6.1} s  {fault}", begun.elapsed().as_secs_f64()));
            } else {
                put_off.push((at, fault));
            }
        }
        stage.tend(&mut faults, &mut table).await;
        tokio::time::sleep(TICK).await;
    }
    for _ in &put_off {
        table.add("not fired: nobody was free");
    }
    stage.calm(&mut faults, &mut table).await;
    say("no more faults");
    let calm = Instant::now();
    let (mut is_published, mut asked) = (false, calm);
    let missing = loop {
        stage.tend(&mut faults, &mut table).await;
        if !is_published {
            match publishing.try_join_next() {
                Some(Ok(())) => is_published = true,
                Some(Err(error)) => break vec![format!("not everything could be published: {error}")],
                None => {}
            }
        } else {
            let missing = missing(&client, &planned, &accepted, &lives, &mut asked).await;
            if missing.is_empty() || calm.elapsed() > ANSWERED_WITHIN {
                break missing;
            }
        }
        if calm.elapsed() > ANSWERED_WITHIN + Duration::from_secs(60) {
            break vec!["not everything could be published".to_owned()];
        }
        tokio::time::sleep(TICK * 10).await;
    };
    say(&format!("answered after {:.1} s more", calm.elapsed().as_secs_f64()));
    let mut outcome =
        verdict::of(options, &stage, &client, &planned, &accepted, &lives, table, missing).await;
    if !outcome.violations.is_empty() {
        outcome.logs = stage.logs();
        outcome.store = keep(options, &stage);
    }
    outcome
}

/// Keeps the server's store of a long run, so that whoever looks for the reason can start a server on it.
fn keep(options: &Options, stage: &Stage) -> Option<PathBuf> {
    if !options.loud {
        return None;
    }
    stage.nats.kill9();
    let to = std::env::temp_dir().join(format!("tollgate-chaos-{}-{}", options.seed, std::process::id()));
    let copied = std::process::Command::new("cp").arg("-r").arg(stage.nats.store()).arg(&to).status();
    copied.is_ok_and(|status| status.success()).then_some(to)
}

/// Accepted requests without a stored response.
async fn missing(
    client: &Client,
    planned: &[Planned],
    accepted: &Accepted,
    lives: &[crate::client::Live],
    asked: &mut Instant,
) -> Vec<String> {
    let accepted = accepted.all();
    let unseen = planned.iter().map(|planned| &planned.request.identity).filter(|identity| {
        accepted.contains(identity) && lives.iter().all(|live| live.response(identity).is_none())
    });
    let unseen: Vec<_> = unseen.collect();
    if unseen.len() > ASKED_FOR_AT_ONCE && asked.elapsed() < ASKED_FOR_EVERY {
        return unseen.into_iter().map(ToString::to_string).collect();
    }
    *asked = Instant::now();
    let looks = unseen
        .into_iter()
        .map(|identity| async move { (identity, client.response(identity).await.is_none()) });
    let found: Vec<_> = futures_util::stream::iter(looks.collect::<Vec<_>>()).buffered(64).collect().await;
    found.into_iter().filter(|(_, missing)| *missing).map(|(identity, _)| identity.to_string()).collect()
}
