use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use tollgate_tests::client::Client;
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use super::run::{IN_HAND_MIN, Lost, REQUESTS, Run};
use crate::stage::PATIENCE;

/// Events that the ledger folds in one transaction, at most: so many may be done between a look and the kill.
const BATCH_MAX: u64 = 500;

/// The ledger starts behind, is asked how far it is, and dies while it folds; five times. In between it also dies while
/// it follows what comes in. Its sums are the same as if nothing had happened.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_ledger_counts_everything_once() {
    let roles = [Role::Worker, Role::Router];
    let mut run = Run::start(256, Duration::from_secs(10), &roles).await;
    let ledger = run.stage.start(Role::Ledger).await;
    let mut in_hand = Vec::new();
    for _ in 0..5 {
        run.publish(REQUESTS / 5);
        let events = last_event(&run.stage.client).await;
        eventually(PATIENCE, "events to follow", async || {
            (last_event(&run.stage.client).await >= events + IN_HAND_MIN).then_some(())
        })
        .await;
        run.stage.running[ledger].kill9();
        run.answered().await;
        in_hand.push(kill_behind(&mut run, ledger).await);
        run.stage.running[ledger].restart().await;
    }
    run.finish("ledger", &in_hand, Lost::None).await;
}

/// Starts the ledger and kills it as soon as it says that enough is left to fold. Returns how much that was, after the
/// most that it can have folded since.
async fn kill_behind(run: &mut Run, ledger: usize) -> u64 {
    run.stage.running[ledger].restart_without_waiting();
    let start = Instant::now();
    let lag = loop {
        assert!(start.elapsed() < PATIENCE, "the ledger says nothing");
        if let Some(lag) = lag(&run.stage.client).await {
            break lag;
        }
    };
    run.stage.running[ledger].kill9();
    assert!(lag >= IN_HAND_MIN + BATCH_MAX, "the ledger was {lag} events behind");
    lag - BATCH_MAX
}

/// How many events are stored and not in the totals, if the ledger answers.
async fn lag(client: &Client) -> Option<u64> {
    let query = serde_json::json!({"by": ["team"]});
    let reply = client.request("llm.ctl.usage.query", HeaderMap::new(), &query, Duration::from_secs(5)).await;
    let reply: serde_json::Value = serde_json::from_slice(&reply.ok()?.payload).ok()?;
    reply["as_of"]["lag"].as_u64()
}

async fn last_event(client: &Client) -> u64 {
    let stream = client.jetstream().get_stream("LLM_USAGE").await.unwrap();
    stream.cached_info().state.last_sequence
}
