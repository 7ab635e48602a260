use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy};
use tollgate_tests::client::Client;
use tollgate_tests::roles::Role;

use super::run::{HOLD, Lost, REQUESTS, Run};

const PLACES: u32 = 256;

/// One of two workers dies with its calls. They are on the ledger as lost, and made again by whoever comes next.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_workers_calls_are_lost_and_made_again() {
    let roles = [Role::Ledger, Role::Worker, Role::Worker, Role::Router];
    let mut run = Run::start(PLACES, Duration::from_secs(2), &roles).await;
    let workers = run.of(Role::Worker);
    let (mut in_hand, mut broken_off) = (Vec::new(), 0);
    for kill in 0..5 {
        // They share the places: when all are taken, one of them has half or more.
        let (victim, calls) = if kill % 2 == 0 {
            // Whatever there is between a claim and an acknowledgement, some of its work is there.
            run.spread(HOLD);
            run.publish(REQUESTS / 5);
            run.flowing().await;
            let (victim, calls) = run.busy(&workers, "tollgate_in_flight").await;
            run.stage.running[victim].kill9();
            (victim, calls)
        } else {
            let opens = run.gate();
            run.publish(REQUESTS / 5);
            let (victim, calls) = run.calling(&workers).await;
            broken_off += run.kill_worker(victim, calls).await;
            opens.send_replace(true);
            (victim, calls)
        };
        in_hand.push(calls);
        run.quick();
        run.stage.running[victim].restart().await;
        run.answered().await;
    }
    let lost = run.finish("worker", &in_hand, Lost::UpTo(5 * PLACES as usize)).await;
    // What broke off was called, and nobody has its result.
    assert!(lost as u64 >= broken_off, "{lost} lost, {broken_off} broken off");
}

/// The stream of usage events takes nothing while answers are stored, and the worker dies with their messages in its
/// hands. Its successor finds the requests answered, calls nothing, and publishes what is missing.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_answer_cost_is_counted_after_its_worker_died() {
    let mut run =
        Run::start(PLACES, Duration::from_secs(10), &[Role::Ledger, Role::Worker, Role::Router]).await;
    let worker = run.of(Role::Worker)[0];
    let usage = usage_stream(&run.stage.client).await;
    let full = Config { max_messages: 1, discard: DiscardPolicy::New, ..usage.clone() };
    run.stage.client.jetstream().update_stream(&full).await.unwrap();
    // All of them have a place, since none is given back before its usage is stored; and one event is.
    run.publish(PLACES as usize);
    run.answered().await;
    let in_hand = run.pending("LLM_DISPATCH_sim").await;
    assert_eq!(run.stage.client.message_count("LLM_USAGE").await, 1);
    run.stage.running[worker].kill9();
    run.stage.client.jetstream().update_stream(&usage).await.unwrap();
    run.stage.running[worker].restart().await;
    run.finish("worker, usage not stored", &[in_hand], Lost::None).await;
}

async fn usage_stream(client: &Client) -> Config {
    client.jetstream().get_stream("LLM_USAGE").await.unwrap().cached_info().config.clone()
}
