use std::time::Duration;

use tollgate_tests::roles::Role;

use super::run::{HOLD, Lost, QUICK, REQUESTS, Run};

const PLACES: u32 = 256;

/// One of two workers dies with its calls. They are on the ledger as lost, and made again by whoever comes next.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_workers_calls_are_lost_and_made_again() {
    let roles = [Role::Ledger, Role::Worker, Role::Worker, Role::Router];
    let mut run = Run::start(PLACES, Duration::from_secs(2), &roles).await;
    let workers = run.of(Role::Worker);
    let mut in_hand = Vec::new();
    for _ in 0..5 {
        run.stage.provider.latency(HOLD);
        run.publish(REQUESTS / 5);
        // They share the places: when all are taken, one of them has half or more.
        let (victim, _) = run.busy(&workers, "tollgate_in_flight").await;
        run.pending("LLM_DISPATCH_sim").await;
        in_hand.push(run.kill_worker(victim).await);
        run.stage.provider.latency(QUICK);
        run.stage.running[victim].restart().await;
        run.answered().await;
    }
    let lost = run.finish("worker", &in_hand, Lost::UpTo(5 * PLACES as usize)).await;
    // What broke off was called, and nobody has its result.
    assert!(lost as u64 >= in_hand.iter().sum(), "{lost} lost, {in_hand:?} broken off");
}
