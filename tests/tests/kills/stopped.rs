use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use tokio_util::task::AbortOnDropHandle;
use tollgate_tests::client::Client;
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use super::run::{HOLD, IN_HAND_MIN, Lost, QUICK, REQUESTS, Run};
use crate::stage::PATIENCE;

const PLACES: u32 = 256;

/// One of two workers stands still for longer than its lease, with calls in its hands, and goes on: the first time
/// while its requests are being called again, the second time when all of them are answered. Its results come too late
/// and are refused; what they cost is counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stood_still_answers_nothing_twice() {
    let roles = [Role::Ledger, Role::Worker, Role::Worker, Role::Router];
    let mut run = Run::start(PLACES, Duration::from_secs(2), &roles).await;
    let (workers, lost) = (run.of(Role::Worker), LostSeen::count(&run.stage.client).await);
    let mut in_hand = Vec::new();
    for all_answered in [false, true] {
        run.stage.provider.latency(HOLD);
        run.publish(REQUESTS / 2);
        let (victim, calls) = run.busy(&workers, "tollgate_in_flight").await;
        let lost_before = lost.seen();
        run.stage.running[victim].stop();
        in_hand.push(calls);
        run.stage.provider.latency(QUICK);
        eventually(PATIENCE, "its calls to be taken for lost", async || {
            let lost = lost.seen() - lost_before;
            if lost >= IN_HAND_MIN { Ok(()) } else { Err(lost) }
        })
        .await;
        if all_answered {
            run.answered().await;
        }
        run.stage.running[victim].cont();
        run.answered().await;
    }
    run.finish("stopped worker", &in_hand, Lost::UpTo(2 * PLACES as usize)).await;
}

/// Counts the attempts that are put on the ledger as lost.
struct LostSeen {
    seen: Arc<AtomicU64>,
    _receiver: AbortOnDropHandle<()>,
}

impl LostSeen {
    async fn count(client: &Client) -> Self {
        let mut events = client.nats().subscribe("llm.live.usage.>").await.unwrap();
        client.nats().flush().await.unwrap();
        let seen = Arc::new(AtomicU64::new(0));
        let counting = seen.clone();
        let receiver = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                let event: serde_json::Value = serde_json::from_slice(&event.payload).unwrap();
                counting.fetch_add(u64::from(event["kind"] == "lost"), Ordering::Relaxed);
            }
        });
        Self { seen, _receiver: AbortOnDropHandle::new(receiver) }
    }

    fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }
}
