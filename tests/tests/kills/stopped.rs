use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tollgate_tests::client::Client;
use tollgate_tests::provider::{Behaviour, Provider, answer_to};
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use super::run::{HOLD, IN_HAND_MIN, Lost, REQUESTS, Run};
use crate::stage::{PATIENCE, PRICE, Stage, config};

const PLACES: u32 = 256;
/// The header that names the attempt to the provider, as the id of its usage event does.
const CALL_ID: &str = "x-client-request-id";
const ROLES: [Role; 4] = [Role::Ledger, Role::Worker, Role::Worker, Role::Router];

/// One of two workers stands still for longer than its lease, with calls in its hands, and goes on: the first time
/// while its requests are being called again, the second time when all of them are answered. Its results come too late
/// and are refused; what they cost is counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stood_still_answers_nothing_twice() {
    let mut run = Run::start(PLACES, Duration::from_secs(2), &ROLES).await;
    let (workers, events) = (run.of(Role::Worker), Events::count(&run.stage.client).await);
    let mut in_hand = Vec::new();
    for all_answered in [false, true] {
        run.hold(HOLD);
        run.publish(REQUESTS / 2);
        let (victim, calls) = run.busy(&workers, "tollgate_in_flight").await;
        let lost = events.lost.len();
        run.stage.running[victim].stop();
        in_hand.push(calls);
        run.quick();
        events.taken_over(lost).await;
        if all_answered {
            run.answered().await;
        }
        run.stage.running[victim].cont();
        run.answered().await;
        events.told(&run.stage.provider).await;
    }
    run.finish("stopped worker", &in_hand, Lost::UpTo(2 * PLACES as usize)).await;
}

/// One of two workers stands still long enough for the other to get its messages, but not for a whole lease. The other
/// asks, waits, and calls nothing again.
#[tokio::test(flavor = "multi_thread")]
async fn within_its_lease_a_worker_keeps_what_it_has() {
    let mut run = Run::start(PLACES, 2 * PATIENCE, &ROLES).await;
    let workers = run.of(Role::Worker);
    run.hold(HOLD);
    run.publish(REQUESTS / 5);
    let (victim, calls) = run.busy(&workers, "tollgate_in_flight").await;
    run.stage.running[victim].stop();
    let others: Vec<_> = workers.into_iter().filter(|worker| *worker != victim).collect();
    run.busy(&others, "tollgate_redeliveries_total").await;
    run.stage.running[victim].cont();
    run.quick();
    run.finish("worker stopped within its lease", &[calls], Lost::None).await;
}

/// A worker that stood still for too long finds its attempts taken over, and leaves the messages alone: when the one
/// who took them over dies, they are delivered again.
#[tokio::test(flavor = "multi_thread")]
async fn a_superseded_worker_leaves_the_messages_to_its_successor() {
    let mut run = Run::start(PLACES, Duration::from_secs(2), &ROLES).await;
    let (workers, events) = (run.of(Role::Worker), Events::count(&run.stage.client).await);
    run.hold(HOLD);
    run.publish(REQUESTS / 5);
    let (first, calls) = run.busy(&workers, "tollgate_in_flight").await;
    run.stage.running[first].stop();
    // Long enough for what the successor calls to be under way when it dies.
    run.hold(2 * HOLD);
    events.taken_over(0).await;
    run.stage.running[first].cont();
    events.told(&run.stage.provider).await;
    let successor = workers.into_iter().find(|worker| *worker != first).unwrap();
    // Some of its calls may be over by now, as slow as the machine is; one that is not is enough.
    let broken_off = run.kill_worker(successor, 1).await;
    run.quick();
    run.stage.running[successor].restart().await;
    run.finish("superseded, then killed", &[calls, broken_off], Lost::UpTo(3 * PLACES as usize)).await;
}

/// Waits until so many messages are on their way to workers.
async fn dispatched(client: &Client, count: u64) {
    eventually(PATIENCE, &format!("{count} in the dispatch stream"), async || {
        let found = client.message_count("LLM_DISPATCH_sim").await;
        if found == count { Ok(()) } else { Err(found) }
    })
    .await;
}

/// A worker hands on what it may not call, and stands still before it acknowledges. Meanwhile the message is delivered to
/// another one, which may call it. The late acknowledgement takes it from nobody: when the other one dies, it is called
/// all the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_that_comes_late_takes_nothing_away() {
    let lease = Duration::from_secs(2);
    let mut stage = Stage::with(&ROLES, |provider| config(provider, 4, &["red"]).timing(lease, lease)).await;
    let (first, second, router) = (1, 2, 3);
    let set = |word: &str| {
        let output =
            stage.broker.command(&["provider", word, "sim", "--server", &stage.nats.url()]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    stage.running[first].kill9();
    stage.running[second].kill9();
    let request = Request::chat(&Identity::new("red", "late", "one"), "small", "one");
    stage.client.publish(&request).await;
    dispatched(&stage.client, 1).await;
    set("pause");
    stage.running[router].stop();
    stage.running[first].restart_at(Some("worker.handed_over:1:stop"));
    eventually(PATIENCE, "the request handed on", async || {
        (stage.client.message_count("LLM_RETRY").await == 1).then_some(())
    })
    .await;
    set("resume");
    let (opens, open) = watch::channel(false);
    stage.provider.always(Behaviour::Until(open));
    stage.running[second].restart().await;
    eventually(PATIENCE, "the message at the other worker, done with or called", async || {
        let is_done_with = stage.client.message_count("LLM_DISPATCH_sim").await == 0;
        (is_done_with || stage.provider.total() == 1).then_some(())
    })
    .await;
    stage.running[first].cont();
    dispatched(&stage.client, 0).await;
    stage.running[second].kill9();
    opens.send_replace(true);
    stage.running[second].restart().await;
    stage.running[router].cont();
    let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
    assert_eq!(response["status"], "succeeded", "{response}");
    assert_eq!(stage.provider.total(), 1);
}

/// Whoever took it over answered and died before it said what that cost: the one that comes back too late, and lets go of
/// the message, says it.
#[tokio::test(flavor = "multi_thread")]
async fn a_superseded_worker_finishes_for_a_successor_that_died() {
    let lease = Duration::from_secs(2);
    let mut stage = Stage::with(&ROLES, |provider| config(provider, 4, &["red"]).timing(lease, lease)).await;
    let (first, successor) = (1, 2);
    stage.running[successor].kill9();
    stage.running[first].restart_at(Some("worker.called:1:stop"));
    stage.running[first].await_ready().await;
    let request = Request::chat(&Identity::new("red", "stopped", "one"), "small", "one");
    stage.client.publish(&request).await;
    eventually(PATIENCE, "a call", async || (stage.provider.total() == 1).then_some(())).await;
    stage.running[successor].restart_at(Some("worker.answered:1:kill"));
    let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
    assert_eq!(response["attempts"].as_array().unwrap().len(), 2, "{response}");
    eventually(PATIENCE, "the death of the successor", async || {
        (!stage.running[successor].is_alive()).then_some(())
    })
    .await;
    stage.running[first].cont();
    let usage = eventually(PATIENCE, "both calls on the ledger", async || {
        let usage = stage.client.usage_by_team().await;
        if usage["total"]["attempts"] == 2 { Ok(usage) } else { Err(usage.to_string()) }
    })
    .await;
    // The first was answered as well: what it cost has taken the place of the estimate.
    assert_eq!((&usage["total"]["requests"], &usage["total"]["lost"]), (&1.into(), &0.into()), "{usage}");
    assert_eq!(
        usage["total"]["cost_nano_usd"].as_i64().map(i128::from),
        Some(2 * PRICE.cost(answer_to(request.body()).tokens))
    );
    stage.running.remove(successor);
    stage.idle().await;
}

/// Hears usage events as they come in.
struct Events {
    /// Attempts that are taken for lost, by the id of their event.
    lost: Ids,
    /// Attempts that came to a result, in time or too late.
    results: Ids,
    _receiver: AbortOnDropHandle<()>,
}

impl Events {
    async fn count(client: &Client) -> Self {
        let mut events = client.nats().subscribe("llm.live.usage.>").await.unwrap();
        client.nats().flush().await.unwrap();
        let (lost, results) = (Ids::default(), Ids::default());
        let heard = (lost.clone(), results.clone());
        let receiver = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                let id = event.headers.as_ref().unwrap().get("ce-id").unwrap().as_str().to_owned();
                let event: Value = serde_json::from_slice(&event.payload).unwrap();
                if event["kind"] == "lost" {
                    heard.0.add(id);
                } else if event["kind"] == "attempt" {
                    heard.1.add(id);
                }
            }
        });
        Self { lost, results, _receiver: AbortOnDropHandle::new(receiver) }
    }

    /// Waits until so many more than `before` are taken for lost as must be in hand.
    async fn taken_over(&self, before: usize) {
        eventually(PATIENCE, "the calls to be taken for lost", async || match self.lost.len() - before {
            more if more as u64 >= IN_HAND_MIN => Ok(()),
            more => Err(more),
        })
        .await;
    }

    /// Waits until every lost attempt that the provider was called for has a result all the same. A claim whose worker
    /// stopped before its call has none.
    async fn told(&self, provider: &Provider) {
        eventually(PATIENCE, "a result of every lost call", async || {
            let called =
                provider.calls().into_iter().filter_map(|call| call.headers.get(CALL_ID).cloned()).collect();
            let (lost, results) = (self.lost.all(), self.results.all());
            let expected: BTreeSet<String> = lost.intersection(&called).cloned().collect();
            let missing = expected.difference(&results).count();
            if missing == 0 && !expected.is_empty() {
                Ok(())
            } else {
                Err((missing, expected.len(), lost.len()))
            }
        })
        .await;
    }
}

#[derive(Clone, Debug, Default)]
struct Ids(Arc<Mutex<BTreeSet<String>>>);

impl Ids {
    fn add(&self, id: String) {
        self.0.lock().unwrap().insert(id);
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn all(&self) -> BTreeSet<String> {
        self.0.lock().unwrap().clone()
    }
}
