//! Many routers, one budget: it is spent to the last request that fits, and not beyond, whoever is killed on the way.

use std::time::Duration;

use serde_json::{Value, json};
use tollgate_tests::config::Config;
use tollgate_tests::money::Price;
use tollgate_tests::provider::{Behaviour, Provider};
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::{Broker, Role};
use tollgate_tests::wait::eventually;

use super::counter::{entries, most_held, settled, totals};
use crate::stage::{PATIENCE, Stage, metric_of, scale};

pub(crate) const TEAM: &str = "research";
/// Only output is paid for, so that what a call can cost at most is known to the nano-dollar.
pub(crate) const PRICE: Price = Price { input: 0, cached_input: 0, output: 50_000_000_000 };
/// Of one token of output.
pub(crate) const TOKEN: i64 = 50_000;
/// What the provider answers has two words.
const WORDS: u64 = 2;

const ROUTERS: [Role; 5] = [Role::Worker, Role::Router, Role::Router, Role::Router, Role::Router];

pub(crate) fn config(provider: &Provider, max_in_flight: u32, budget: &str) -> Config {
    Config::new()
        .provider("sim", &provider.base_url(), max_in_flight, &[("m-1", PRICE)])
        .model("small", &["sim/m-1"])
        .team(TEAM)
        // Nobody is to be taken for lost because the machine is slow: that would be charged.
        .timing(Duration::from_secs(2), Duration::from_secs(60))
        .raw(&format!("[[budgets]]\nscope = {{ team = \"{TEAM}\" }}\n{budget}\n"))
}

pub(crate) fn strict(limit: i64, when_spent: &str) -> String {
    let limit = usd(limit);
    format!("limit_usd = \"{limit}\"\nper = \"total\"\nwhen_spent = \"{when_spent}\"\nreserve = \"strict\"")
}

/// A request whose answer has two tokens, and may have `max_tokens`.
pub(crate) fn request(id: &str, max_tokens: u64) -> Request {
    let identity = Identity::new(TEAM, "budgets", id);
    let messages = json!([{"role": "user", "content": id}]);
    Request::with_body(&identity, json!({"model": "small", "max_tokens": max_tokens, "messages": messages}))
}

/// How many responses succeeded, and how many were rejected because the budget was spent.
fn ends(responses: &[Value]) -> (usize, usize) {
    let succeeded = responses.iter().filter(|response| response["status"] == "succeeded").count();
    let exceeded = responses.iter().filter(|response| response["error"]["code"] == "budget_exceeded").count();
    (succeeded, exceeded)
}

async fn responses(stage: &Stage, requests: &[Request]) -> Vec<Value> {
    let mut responses = Vec::new();
    for request in requests {
        responses.push(stage.client.await_response(&request.identity, PATIENCE).await.value());
    }
    responses
}

#[tokio::test(flavor = "multi_thread")]
async fn four_routers_spend_a_strict_budget_to_its_end_and_not_beyond() {
    let fit = scale(250, 2_000);
    let limit = TOKEN * WORDS as i64 * fit as i64;
    let mut stage = Stage::with(&ROUTERS, |provider| config(provider, 64, &strict(limit, "reject"))).await;
    stage.start(Role::Ledger).await;
    let live = stage.client.watch(TEAM).await;
    let requests: Vec<_> = (0..2 * fit).map(|n| request(&format!("r{n}"), WORDS)).collect();
    stage.client.publish_all(&requests).await;
    live.await_answered(requests.len(), PATIENCE).await;
    assert_eq!(ends(&responses(&stage, &requests).await), (fit, fit));
    assert_eq!(stage.provider.total(), fit);
    assert_eq!(settled(&stage.client, TEAM).await, limit, "to the last request that fits");
    assert_eq!(most_held(&entries(&stage.client).await, limit), limit);
    // Whoever ends a try does so under the same id: were it the router and the ledger at once, it would be ended twice.
    for stored in stage.client.read_stream("LLM_BUDGET").await {
        let entry: serde_json::Value =
            serde_json::from_str(stored.header("Tollgate-Entry").unwrap()).unwrap();
        if entry["kind"] == "undo" {
            let id = format!("end/{}", entry["try"].as_str().unwrap());
            assert_eq!(stored.header("Nats-Msg-Id"), Some(id.as_str()), "{entry}");
        }
    }
    stage.idle().await;
    stage.stop().await;
}

/// The bound of a call is more than it costs, and everybody but the workers is killed again and again.
#[tokio::test(flavor = "multi_thread")]
async fn killed_routers_ledgers_and_servers_leave_the_budget_as_hard_as_it_was() {
    let (fit, bound) = (scale(200, 600), TOKEN * 5);
    let limit = TOKEN * WORDS as i64 * fit as i64;
    let mut stage = Stage::with(&ROUTERS, |provider| config(provider, 32, &strict(limit, "reject"))).await;
    let ledger = stage.start(Role::Ledger).await;
    stage.provider.always(Behaviour::Delay(Duration::from_millis(20)));
    let requests: Vec<_> = (0..2 * fit).map(|n| request(&format!("r{n}"), 5)).collect();
    stage.client.publish_all(&requests).await;
    for round in 1..=4 {
        let calls = fit * round / 6;
        eventually(PATIENCE, "calls to be made", async || {
            let total = stage.provider.total();
            if total >= calls { Ok(()) } else { Err((total, calls)) }
        })
        .await;
        for router in [1, 2] {
            stage.running[router].kill9();
        }
        stage.running[ledger].kill9();
        if round == 2 {
            stage.nats.kill9();
            stage.nats.restart().await;
        }
        for index in [1, 2, ledger] {
            stage.running[index].restart().await;
        }
    }
    let (succeeded, exceeded) = ends(&responses(&stage, &requests).await);
    assert_eq!(succeeded + exceeded, requests.len());
    let spent = settled(&stage.client, TEAM).await;
    assert!(spent <= limit && spent > limit - bound, "{spent} of {limit} is spent");
    most_held(&entries(&stage.client).await, limit);
    stage.idle().await;
}

/// A router dies with a try that the limit has refused and that it has not taken back. Who has the request next must not take
/// that for a reservation.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_try_of_a_killed_router_is_no_reservation() {
    let limit = TOKEN * WORDS as i64;
    let config = |provider: &Provider| config(provider, 4, &strict(limit, "reject"));
    let mut stage = Stage::with(&[Role::Worker, Role::Ledger, Role::Router], config).await;
    stage.provider.always(Behaviour::Delay(Duration::from_secs(600)));
    let first = request("first", WORDS);
    stage.client.publish(&first).await;
    eventually(PATIENCE, "a call that fills the budget", async || {
        (stage.provider.in_flight() == 1).then_some(())
    })
    .await;
    stage.running[2].restart_at(Some("router.reserve.stored:1:kill"));
    let second = request("second", WORDS);
    stage.client.publish(&second).await;
    eventually(PATIENCE, "the router's end", async || (!stage.running[2].is_alive()).then_some(())).await;
    let over = entries(&stage.client).await;
    assert_eq!(over.last().unwrap().total, 2 * limit, "a refused try that nobody took back: {over:?}");
    stage.running[2].restart().await;
    eventually(PATIENCE, "a router that finds no room", async || {
        let waits = stage.metric("tollgate_budget_waits_total", &[]).await;
        if waits >= 3.0 { Ok(()) } else { Err(waits) }
    })
    .await;
    assert_eq!(stage.provider.total(), 1, "the second has no room");
    // A call that was broken off counts as what it can cost at most, which is all there is.
    let cancel = first.identity.cancel_subject();
    stage.client.try_publish_raw(&cancel, Default::default(), "").await.unwrap();
    let response = stage.client.await_response(&second.identity, PATIENCE).await.value();
    assert_eq!(response["error"]["code"], "budget_exceeded", "{response}");
    assert_eq!((stage.provider.total(), settled(&stage.client, TEAM).await), (1, limit));
    assert_eq!(most_held(&entries(&stage.client).await, limit), limit);
    stage.idle().await;
}

/// A router stands still between a try that the limit refused and taking it back. Meanwhile there is room, and another router
/// goes on with that try. What the first takes back then must not be what the call relies on.
#[tokio::test(flavor = "multi_thread")]
async fn a_try_that_another_router_goes_on_with_is_not_taken_back() {
    let limit = TOKEN * WORDS as i64;
    let config = |provider: &Provider| config(provider, 4, &strict(limit, "hold"));
    let mut stage = Stage::with(&[Role::Ledger, Role::Router], config).await;
    stage.provider.always(Behaviour::Delay(Duration::from_secs(600)));
    stage.running[1].restart_at(Some("router.reserve.stored:2:stop"));
    stage.running[1].await_ready().await;
    // Nobody works: the first has the budget, and is not called.
    let [first, second, third] = ["first", "second", "third"].map(|id| request(id, WORDS));
    stage.client.publish(&first).await;
    eventually(PATIENCE, "a reservation that holds", async || {
        (stage.client.message_count("LLM_DISPATCH_sim").await == 1).then_some(())
    })
    .await;
    stage.client.publish(&second).await;
    eventually(PATIENCE, "a try that the limit refuses", async || {
        let total = entries(&stage.client).await.last().map_or(0, |entry| entry.total);
        if total == 2 * limit { Ok(()) } else { Err(total) }
    })
    .await;
    stage.start(Role::Router).await;
    let cancel = first.identity.cancel_subject();
    stage.client.try_publish_raw(&cancel, Default::default(), "").await.unwrap();
    stage.client.await_response(&first.identity, PATIENCE).await;
    stage.start(Role::Worker).await;
    eventually(PATIENCE, "the second's call", async || (stage.provider.in_flight() == 1).then_some(())).await;
    let entries_now = entries(&stage.client).await;
    assert!(entries_now.iter().any(|entry| entry.kind == "take"), "{entries_now:?}");
    stage.running[1].cont();
    eventually(PATIENCE, "the first router's undo", async || {
        let waits = metric_of(&stage.running[1], "tollgate_budget_waits_total", &[]).await;
        if waits >= 1.0 { Ok(()) } else { Err(waits) }
    })
    .await;
    let before = stage.metric("tollgate_budget_waits_total", &[]).await;
    stage.client.publish(&third).await;
    eventually(PATIENCE, "the third to find no room", async || {
        let waits = stage.metric("tollgate_budget_waits_total", &[]).await;
        if waits >= before + 2.0 || stage.provider.total() > 1 { Ok(()) } else { Err(waits) }
    })
    .await;
    assert_eq!(stage.provider.total(), 1, "there is room for one");
    // Others try again and again, and take back what does not hold.
    eventually(PATIENCE, "a counter that says what is reserved", async || {
        let total = totals(&stage.client).await.values().sum::<i64>();
        if total == limit { Ok(()) } else { Err(total) }
    })
    .await;
}

/// A ledger stands still for longer than its lease, with calls to be settled, another one takes over, and the first goes
/// on.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_stood_still_settles_nothing_twice() {
    let (fit, bound) = (200, TOKEN * 5);
    let limit = TOKEN * WORDS as i64 * fit;
    let config = |provider: &Provider| config(provider, 32, &strict(limit, "hold"));
    let mut stage = Stage::with(&ROUTERS, config).await;
    let ledger = stage.start(Role::Ledger).await;
    let other = Broker::new(&config(&stage.provider), &stage.nats.url());
    let other = other.run(Role::Ledger).await;
    stage.provider.always(Behaviour::Delay(Duration::from_millis(20)));
    let requests: Vec<_> = (0..2 * fit).map(|n| request(&format!("r{n}"), 5)).collect();
    stage.client.publish_all(&requests).await;
    for half in 1..=2 {
        let settles = usize::try_from(fit / 4 * half).unwrap();
        eventually(PATIENCE, "settlements", async || {
            let entries = entries(&stage.client).await;
            let count = entries.iter().filter(|entry| entry.kind == "settle").count();
            if count >= settles { Ok(()) } else { Err(count) }
        })
        .await;
        let (stopped, goes_on) =
            if half == 1 { (&stage.running[ledger], &other) } else { (&other, &stage.running[ledger]) };
        stopped.stop();
        let before = entries(&stage.client).await.iter().filter(|entry| entry.kind == "settle").count();
        eventually(PATIENCE, "the other ledger to settle", async || {
            assert!(goes_on.is_alive());
            let entries = entries(&stage.client).await;
            let count = entries.iter().filter(|entry| entry.kind == "settle").count();
            // A few may have been on their way.
            if count > before + 10 { Ok(()) } else { Err((before, count)) }
        })
        .await;
        stopped.cont();
    }
    // Nothing more fits when what is left is less than one call can cost; the rest waits.
    let spent = eventually(PATIENCE, "a budget that is spent", async || {
        let spent = settled(&stage.client, TEAM).await;
        if spent > limit - bound { Ok(spent) } else { Err(spent) }
    })
    .await;
    assert!(spent <= limit, "{spent} of {limit} is spent");
    most_held(&entries(&stage.client).await, limit);
    drop(other);
}

pub(crate) fn usd(nanos: i64) -> String {
    tollgate_tests::money::usd(u64::try_from(nanos).unwrap())
}
