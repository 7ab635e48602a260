use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use tollgate_tests::client::Client;
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use super::run::{IN_HAND_MIN, Lost, REQUESTS, Run};
use crate::stage::PATIENCE;

/// The ledger dies while it follows what comes in; then it starts far behind, is asked how far, and dies while it folds:
/// five times. Its sums are the same as if nothing had happened.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_ledger_counts_everything_once() {
    let roles = [Role::Worker, Role::Router];
    let mut run = Run::start(256, Duration::from_secs(10), &roles).await;
    let ledger = run.stage.start(Role::Ledger).await;
    let mut in_hand = Vec::new();
    while in_hand.len() < 5 {
        run.publish(REQUESTS / 5);
        let events = last_event(&run.stage.client).await;
        eventually(PATIENCE, "events to follow", async || {
            (last_event(&run.stage.client).await >= events + IN_HAND_MIN).then_some(())
        })
        .await;
        run.stage.running[ledger].kill9();
        run.answered().await;
        let lag = kill_behind(&mut run, ledger).await;
        // Less is a kill too, but one that does not count: it came too late.
        in_hand.extend((lag >= IN_HAND_MIN).then_some(lag));
        run.stage.running[ledger].restart().await;
    }
    run.finish("ledger", &in_hand, Lost::None).await;
}

/// Starts the ledger and kills it as soon as it says how much is left to fold. Returns that.
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
    lag
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
