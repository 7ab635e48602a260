use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tollgate_tests::client::Client;
use tollgate_tests::provider::answer_to;
use tollgate_tests::request::Identity;
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use super::run::{HOLD, IN_HAND_MIN, Run};
use crate::stage::PATIENCE;

const CALLERS: usize = 100;

/// Longer than an answer takes here; whoever has none by then asks again.
const ASKS_AGAIN_AFTER: Duration = Duration::from_secs(8);

/// Dies when the requests of all callers are stored: they get their answers without it. Dies with the asks of all
/// callers in its hands: they ask again, with their ids, and get the answer of the one call.
#[tokio::test(flavor = "multi_thread")]
async fn every_caller_gets_its_answer_when_ask_dies() {
    let roles = [Role::Ledger, Role::Worker, Role::Router];
    let mut run = Run::start(256, Duration::from_secs(10), &roles).await;
    let ask = run.stage.start(Role::Ask).await;
    run.hold(HOLD);

    let mut stored = Callers::ask(&run.stage.client, 0);
    eventually(PATIENCE, "the calls of all callers", async || {
        let calls = run.stage.provider.in_flight();
        if calls >= CALLERS { Ok(()) } else { Err(calls) }
    })
    .await;
    assert_eq!(stored.answered(), 0, "all wait");
    run.stage.running[ask].kill9();
    let asks = stored.all(&run.stage.client).await;
    assert_eq!(asks, CALLERS as u64, "nobody had to ask again");

    run.stage.running[ask].restart().await;
    run.quick();
    // Frozen, so that every ask is in its hands and none has become a request.
    run.stage.running[ask].stop();
    let mut lost = Callers::ask(&run.stage.client, CALLERS);
    eventually(PATIENCE, "the asks of all callers", async || {
        let waiting = lost.asked.load(Ordering::Relaxed);
        if waiting >= IN_HAND_MIN { Ok(()) } else { Err(waiting) }
    })
    .await;
    run.stage.client.nats().flush().await.unwrap();
    assert_eq!((lost.answered(), run.stage.client.message_count("LLM_REQ").await), (0, 0), "all wait");
    run.stage.running[ask].kill9();
    run.stage.running[ask].restart().await;
    let asks = lost.all(&run.stage.client).await;
    assert!(asks >= 2 * CALLERS as u64, "everybody asked again: {asks}");
    run.stage.idle().await;
    assert!(run.stage.provider.call_counts().values().all(|calls| *calls == 1), "one call each");
    assert_eq!(run.stage.provider.total(), 2 * CALLERS);
    eprintln!("ask: {CALLERS} callers waited for calls, {CALLERS} for ask itself; one call each");
}

/// A hundred callers, each waiting for its answer and asking again with its id if there is none.
struct Callers {
    waiting: JoinSet<(Identity, Value)>,
    asked: Arc<AtomicU64>,
}

impl Callers {
    fn ask(client: &Client, first: usize) -> Self {
        let (mut waiting, asked) = (JoinSet::new(), Arc::new(AtomicU64::new(0)));
        for number in first..first + CALLERS {
            waiting.spawn(caller(client.clone(), number, asked.clone()));
        }
        Self { waiting, asked }
    }

    fn answered(&mut self) -> usize {
        std::iter::from_fn(|| self.waiting.try_join_next()).map(Result::unwrap).count()
    }

    /// Waits until all have their answers, which are those that are stored, and returns how often they asked.
    async fn all(mut self, client: &Client) -> u64 {
        while let Some(done) = self.waiting.join_next().await {
            let (identity, reply) = done.unwrap();
            let stored = client.response(&identity).await.unwrap().value();
            assert_eq!(reply, stored["body"], "the reply to {identity} is its stored answer");
        }
        self.asked.load(Ordering::Relaxed)
    }
}

async fn caller(client: Client, number: usize, asked: Arc<AtomicU64>) -> (Identity, Value) {
    let identity = Identity::new("red", "asks", &format!("a{number}"));
    let body = json!({"model": "small", "messages": [{"role": "user", "content": format!("ask {number}")}]});
    let (start, mut seen) = (Instant::now(), String::new());
    let reply: Value = loop {
        assert!(start.elapsed() < PATIENCE, "no answer to {identity}; last seen: {seen}");
        asked.fetch_add(1, Ordering::Relaxed);
        let mut headers = HeaderMap::new();
        headers.insert("Tollgate-Id", identity.id.as_str());
        headers.insert("Tollgate-Group", identity.group.as_str());
        match client.request("llm.ask.red.high", headers, &body, ASKS_AGAIN_AFTER).await {
            Ok(reply) if is_answer(&reply) => break serde_json::from_slice(&reply.payload).unwrap(),
            Ok(reply) => seen = String::from_utf8_lossy(&reply.payload).into_owned(),
            Err(error) => seen = error,
        }
        // Nobody may be listening: that is said at once.
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(reply["choices"][0]["message"]["content"], answer_to(&body).text);
    (identity, reply)
}

fn is_answer(reply: &async_nats::Message) -> bool {
    reply.headers.as_ref().is_none_or(|headers| headers.get("Nats-Service-Error").is_none())
}
