use std::time::Duration;

use tollgate_tests::roles::Role;

use super::run::{HOLD, Lost, REQUESTS, Run};

const PLACES: u32 = 256;
const ROLES: [Role; 5] = [Role::Ledger, Role::Worker, Role::Worker, Role::Router, Role::Router];

/// Twice: a router and a worker die at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn a_router_and_a_worker_die_at_once() {
    let mut run = Run::start(PLACES, Duration::from_secs(2), &ROLES).await;
    let (workers, routers) = (run.of(Role::Worker), run.of(Role::Router));
    let mut in_hand = Vec::new();
    for _ in 0..2 {
        run.spread(HOLD);
        run.publish(REQUESTS / 2);
        run.flowing().await;
        let (worker, calls) = run.busy(&workers, "tollgate_in_flight").await;
        let (router, its_own) = run.busy(&routers, "tollgate_in_hand").await;
        let pending = run.pending("LLM_REQ").await;
        run.stage.running[worker].kill9();
        run.stage.running[router].kill9();
        in_hand.extend([its_own.min(pending), calls]);
        run.quick();
        run.stage.running[worker].restart().await;
        run.stage.running[router].restart().await;
        run.answered().await;
    }
    run.finish("router and worker", &in_hand, Lost::UpTo(2 * PLACES as usize)).await;
}

/// Twice: a worker and the nats-server die at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_and_the_nats_server_die_at_once() {
    let mut run = Run::start(PLACES, Duration::from_secs(3), &ROLES).await;
    let workers = run.of(Role::Worker);
    let mut in_hand = Vec::new();
    for _ in 0..2 {
        run.spread(HOLD);
        run.publish(REQUESTS / 2);
        run.flowing().await;
        let (worker, calls) = run.busy(&workers, "tollgate_in_flight").await;
        let stored = run.stored().await;
        run.kill_server();
        run.stage.running[worker].kill9();
        in_hand.extend([stored, calls]);
        run.quick();
        run.stage.nats.restart().await;
        run.stage.running[worker].restart().await;
        run.answered().await;
    }
    // The other worker's calls may be taken for lost if it finds the server again later than its lease allows.
    run.finish("worker and nats-server", &in_hand, Lost::UpTo(2 * PLACES as usize)).await;
}
