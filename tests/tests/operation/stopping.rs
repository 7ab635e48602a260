//! SIGTERM: what is in hand is finished or handed back at once. Nothing here may have to wait for a message to be
//! handed out again by time, so that time is set to the longest there is.

use std::time::Duration;

use tollgate_tests::check::Expected;
use tollgate_tests::provider::Behaviour;
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use crate::stage::{PATIENCE, Stage, config};

const TEAM: &str = "research";

/// Longer than any test's patience.
const NEVER: Duration = Duration::from_secs(600);

fn requests(count: usize) -> Vec<Request> {
    let one = |n: usize| {
        Request::chat(&Identity::new(TEAM, "stopping", &n.to_string()), "small", &format!("stopping {n}"))
    };
    (0..count).map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_finishes_its_calls_and_hands_the_rest_on() {
    use Role::{Ledger, Router, Worker};
    let mut stage =
        Stage::with(&[Ledger, Router, Worker], |provider| config(provider, 20, &[TEAM]).timing(NEVER, NEVER))
            .await;
    let live = stage.client.watch(TEAM).await;
    stage.provider.always(Behaviour::Delay(Duration::from_secs(2)));
    let requests = requests(60);
    stage.client.publish_all(&requests).await;
    eventually(PATIENCE, "20 calls", async || (stage.provider.in_flight() == 20).then_some(())).await;

    stage.running[2].term();
    assert_eq!(
        stage.running[2].process().ended(PATIENCE).await,
        Some(0),
        "{}",
        stage.running[2].process().logs()
    );
    // Each call it had begun is answered and acknowledged, and it has begun no other.
    let made = stage.provider.total();
    assert!((20..=40).contains(&made), "{made} calls");
    assert_eq!(stage.provider.in_flight(), 0);
    live.await_answered(made, PATIENCE).await;
    assert_eq!(live.answered(), made);

    stage.provider.always(Behaviour::Answer);
    stage.start(Worker).await;
    live.await_answered(requests.len(), PATIENCE).await;
    stage.idle().await;
    assert_eq!(stage.provider.total(), requests.len());
    let expected: Vec<_> = requests.iter().map(Expected::answered).collect();
    stage.settled(&expected, &[&live]).await.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_hands_back_what_it_could_not_dispatch() {
    let mut stage =
        Stage::with(&[Role::Router], |provider| config(provider, 1, &[TEAM]).timing(NEVER, NEVER)).await;
    let requests = requests(25);
    stage.client.publish_all(&requests).await;
    eventually(PATIENCE, "a full dispatch stream and a router with the rest", async || {
        let dispatched = stage.client.message_count("LLM_DISPATCH_sim").await;
        let in_hand = stage.client.ack_pending("LLM_REQ").await;
        if (dispatched, in_hand) == (2, 23) { Ok(()) } else { Err((dispatched, in_hand)) }
    })
    .await;
    stage.running[0].term();
    assert_eq!(stage.running[0].process().ended(PATIENCE).await, Some(0));
    assert_eq!(stage.client.message_count("LLM_REQ").await, 23, "what it had in hand is still there");

    for role in [Role::Router, Role::Worker] {
        stage.start(role).await;
    }
    for request in &requests {
        stage.client.await_response(&request.identity, PATIENCE).await;
    }
    assert_eq!(stage.provider.total(), requests.len());
}

/// All roles in one process, with requests at every stage of the way.
#[tokio::test(flavor = "multi_thread")]
async fn everything_at_once_stops_and_goes_on() {
    let mut stage = Stage::up(|provider| config(provider, 10, &[TEAM]).timing(NEVER, NEVER)).await;
    let live = stage.client.watch(TEAM).await;
    stage.provider.latency(Duration::from_millis(5));
    let requests = requests(1_000);
    let publishing = stage.client.publish_all(&requests);
    let stopping = async {
        for share in [100, 400] {
            live.await_answered(share, PATIENCE).await;
            stage.running[0].term();
            assert_eq!(stage.running[0].process().ended(PATIENCE).await, Some(0));
            stage.running[0].restart().await;
        }
    };
    tokio::join!(publishing, stopping);
    live.await_answered(requests.len(), PATIENCE).await;
    stage.idle().await;
    assert_eq!(stage.provider.total(), requests.len());
    let expected: Vec<_> = requests.iter().map(Expected::answered).collect();
    stage.settled(&expected, &[&live]).await.assert_clean();
}
