use std::time::Duration;

use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use super::run::{HOLD, IN_HAND_MIN, Lost, REQUESTS, Run};
use crate::stage::PATIENCE;

/// The server dies while clients publish, while calls are under way, and while answers flow. The workers live, so every
/// call is made once, and its answer finds its way when the server is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_nats_server_loses_nothing_and_nothing_is_called_twice() {
    let roles = [Role::Ledger, Role::Worker, Role::Worker, Role::Router, Role::Router];
    let mut run = Run::start(256, Duration::from_secs(10), &roles).await;
    let mut in_hand = Vec::new();
    for kill in 0..5 {
        match kill {
            1 => {
                run.hold(HOLD);
                run.publish(REQUESTS / 5);
                called(&run).await;
            }
            2 | 4 => {
                run.spread(HOLD / 2);
                run.publish(REQUESTS / 5);
                run.flowing().await;
            }
            _ => {
                run.hold(HOLD);
                run.publish(REQUESTS / 5);
            }
        }
        in_hand.push(run.stored().await);
        run.kill_server();
        run.quick();
        run.stage.nats.restart().await;
        run.answered().await;
    }
    run.finish("nats-server", &in_hand, Lost::None).await;
}

/// The server stands still for longer than a write waits for its acknowledgement, and goes on: what was written again
/// meanwhile arrives twice, and whoever wrote it knows its own hand.
#[tokio::test(flavor = "multi_thread")]
async fn a_nats_server_that_stood_still_makes_nothing_twice() {
    /// A write is tried again after 5 s.
    const LONGER_THAN_A_TRY: Duration = Duration::from_secs(8);
    let roles = [Role::Ledger, Role::Worker, Role::Worker, Role::Router];
    let mut run = Run::start(256, Duration::from_secs(60), &roles).await;
    // Calls begin and end while nothing can be written.
    run.spread(HOLD);
    run.publish(REQUESTS / 5);
    run.flowing().await;
    let stored = run.stored().await;
    run.stage.nats.stop();
    tokio::time::sleep(LONGER_THAN_A_TRY).await;
    run.stage.nats.cont();
    run.quick();
    run.finish("nats-server stopped", &[stored], Lost::None).await;
}

async fn called(run: &Run) {
    eventually(PATIENCE, "calls under way", async || {
        let calls = run.stage.provider.in_flight() as u64;
        if calls >= IN_HAND_MIN { Ok(()) } else { Err(calls) }
    })
    .await;
}
