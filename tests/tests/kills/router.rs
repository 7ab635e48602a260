use std::time::Duration;

use tollgate_tests::roles::Role;

use super::run::{Lost, REQUESTS, Run};

/// One of two routers dies in the middle of its work, then both at once, and so on. Nobody else is harmed, so nothing is called twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_router_loses_nothing_and_doubles_nothing() {
    let roles = [Role::Ledger, Role::Worker, Role::Router, Role::Router];
    // Few places, so that most of what is published waits in the routers' hands.
    let mut run = Run::start(64, Duration::from_secs(10), &roles).await;
    let routers = run.of(Role::Router);
    let mut in_hand = Vec::new();
    for kill in 0..5 {
        run.spread(Duration::from_millis(500));
        run.publish(REQUESTS / 5);
        run.flowing().await;
        let (router, its_own) = run.busy(&routers, "tollgate_in_hand").await;
        let pending = run.pending("LLM_REQ").await;
        let victims = if kill % 2 == 0 { vec![router] } else { routers.clone() };
        for victim in &victims {
            run.stage.running[*victim].kill9();
        }
        in_hand.push(if kill % 2 == 0 { its_own.min(pending) } else { pending });
        run.quick();
        for victim in victims {
            run.stage.running[victim].restart().await;
        }
        run.answered().await;
    }
    run.finish("router", &in_hand, Lost::None).await;
}
