//! Promise 4 for limits: what is in flight, and what begins in a minute, across any number of routers and workers.

use std::time::{Duration, SystemTime};

use serde_json::json;
use tollgate_tests::config::Config;
use tollgate_tests::provider::{Behaviour, Provider};
use tollgate_tests::request::Request;
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use super::counter::{entries, most_held, numbers, totals};
use super::hard::{PRICE, TEAM, request};
use crate::stage::{PATIENCE, Stage, scale};

const ROLES: [Role; 7] =
    [Role::Worker, Role::Router, Role::Router, Role::Router, Role::Router, Role::Ledger, Role::Worker];
const ROUTERS: [usize; 2] = [1, 2];

fn config(provider: &Provider, limit: &str) -> Config {
    Config::new()
        .provider("sim", &provider.base_url(), 32, &[("m-1", PRICE)])
        .model("small", &["sim/m-1"])
        .team(TEAM)
        .team("other")
        .timing(Duration::from_secs(2), Duration::from_secs(60))
        .raw(&format!("[[limits]]\n{limit}\n"))
}

fn of_team(limit: &str) -> String {
    format!("scope = {{ team = \"{TEAM}\" }}\n{limit}")
}

/// Waits until nothing is in flight under a limit, by its counter.
async fn released(stage: &Stage) {
    eventually(PATIENCE, "nothing in flight", async || {
        let totals = totals(&stage.client).await;
        if totals.values().all(|total| *total == 0) { Ok(()) } else { Err(totals) }
    })
    .await;
}

/// Checks that no call was earlier than a limit of so many per minute allows, all that were made since `start`. A slow
/// machine makes calls later, never earlier.
fn assert_paced(provider: &Provider, start: SystemTime, per_minute: u32) {
    let mut times: Vec<_> = provider.calls().iter().map(|call| call.arrived_at).collect();
    times.sort_unstable();
    let slot = Duration::from_secs(60) / per_minute;
    for (earlier, at) in times.iter().filter(|at| **at >= start).enumerate() {
        // The slot that was under way at the start, and those since.
        let slots = 1 + at.duration_since(start).unwrap().as_nanos() / slot.as_nanos() + 1;
        assert!((earlier as u128) < slots, "call {} after {:?}", earlier + 1, at.duration_since(start));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_are_in_flight_than_the_limit_whoever_is_killed() {
    let mut stage = Stage::with(&ROLES, |provider| config(provider, &of_team("in_flight = 3"))).await;
    stage.provider.always(Behaviour::Delay(Duration::from_millis(30)));
    let count = scale(60, 300);
    let requests: Vec<_> = (0..count).map(|n| request(&format!("r{n}"), 2)).collect();
    let live = stage.client.watch(TEAM).await;
    stage.client.publish_all(&requests).await;
    for round in 1..=3 {
        eventually(PATIENCE, "calls", async || {
            let total = stage.provider.total();
            if total >= count * round / 5 { Ok(()) } else { Err(total) }
        })
        .await;
        for router in ROUTERS {
            stage.running[router].kill9();
        }
        for router in ROUTERS {
            stage.running[router].restart().await;
        }
    }
    live.await_answered(count, PATIENCE).await;
    assert_eq!((stage.provider.peak(), stage.provider.total()), (3, count));
    released(&stage).await;
    assert_eq!(most_held(&entries(&stage.client).await, 3), 3);
    stage.idle().await;
    stage.stop().await;
}

/// The only place is reserved for a request whose router died. Others of its team are before it in the order, and those of its own
/// lane fill the hands of the router that is there: neither keeps it from going.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_router_died_goes_on_whoever_is_before_it() {
    let roles = [Role::Worker, Role::Ledger, Role::Router];
    let mut stage = Stage::with(&roles, |provider| config(provider, &of_team("in_flight = 1"))).await;
    stage.running[2].restart_at(Some("router.reserved:1:kill"));
    let first = request("first", 2).priority("low");
    stage.client.publish(&first).await;
    eventually(PATIENCE, "its end", async || (!stage.running[2].is_alive()).then_some(())).await;
    // More of the same lane than a router has in hand.
    let low: Vec<_> = (0..48).map(|n| request(&format!("low{n}"), 2).priority("low")).collect();
    let high: Vec<_> = (0..48).map(|n| request(&format!("high{n}"), 2).priority("high")).collect();
    stage.client.publish_all(&low).await;
    stage.client.publish_all(&high).await;
    stage.running[2].restart().await;
    for request in [&first, &low[47], &high[47]] {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{response}");
    }
    released(&stage).await;
    assert_eq!(most_held(&entries(&stage.client).await, 1), 1);
    stage.stop().await;
}

/// Tries that the limit refused, of routers that died before they took them back, are more than the limit allows. They are
/// nobody's, and do not keep their own request waiting until its deadline.
#[tokio::test(flavor = "multi_thread")]
async fn refused_tries_of_killed_routers_do_not_fill_a_limit() {
    let roles = [Role::Worker, Role::Ledger, Role::Router];
    let mut stage = Stage::with(&roles, |provider| config(provider, &of_team("in_flight = 1"))).await;
    stage.provider.always(Behaviour::Delay(Duration::from_secs(600)));
    let [first, second] = ["first", "second"].map(|id| request(id, 2));
    stage.client.publish(&first).await;
    eventually(PATIENCE, "a call", async || (stage.provider.in_flight() == 1).then_some(())).await;
    for killed in 1..=2 {
        stage.running[2].restart_at(Some("router.reserve.stored:1:kill"));
        if killed == 1 {
            stage.client.publish(&second).await;
        }
        eventually(PATIENCE, "its end", async || (!stage.running[2].is_alive()).then_some(())).await;
    }
    let over = entries(&stage.client).await;
    assert_eq!(over.last().unwrap().total, 3, "two refused tries that nobody took back: {over:?}");
    stage.running[2].restart().await;
    stage.provider.always(Behaviour::Answer);
    let cancel = first.identity.cancel_subject();
    stage.client.try_publish_raw(&cancel, Default::default(), "").await.unwrap();
    let response = stage.client.await_response(&second.identity, PATIENCE).await.value();
    assert_eq!(response["status"], "succeeded", "{response}");
    released(&stage).await;
    stage.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_a_minute_are_spread_over_it_across_routers() {
    let limit = of_team("requests_per_minute = 600");
    let mut stage = Stage::with(&ROLES, |provider| config(provider, &limit)).await;
    let start = SystemTime::now();
    let requests: Vec<_> = (0..40).map(|n| request(&format!("r{n}"), 2)).collect();
    let live = stage.client.watch(TEAM).await;
    stage.client.publish_all(&requests).await;
    // A router dies with numbers in hand; they are wasted, and nothing else.
    eventually(PATIENCE, "calls", async || (stage.provider.total() >= 5).then_some(())).await;
    stage.running[ROUTERS[0]].kill9();
    stage.running[ROUTERS[0]].restart().await;
    live.await_answered(requests.len(), PATIENCE).await;
    assert_eq!(stage.provider.total(), requests.len());
    assert_paced(&stage.provider, start, 600);
    stage.idle().await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_an_account_are_paced_in_the_workers_retries_too() {
    let limit = "scope = { provider = \"sim\" }\nrequests_per_minute = 600";
    let mut stage = Stage::with(&ROLES, |provider| config(provider, limit)).await;
    stage.provider.script(|call| {
        if call.earlier == 0 { Behaviour::error(500, "server_error", None) } else { Behaviour::Answer }
    });
    let start = SystemTime::now();
    let requests: Vec<_> = (0..15).map(|n| request(&format!("r{n}"), 2)).collect();
    let live = stage.client.watch(TEAM).await;
    stage.client.publish_all(&requests).await;
    live.await_answered(requests.len(), PATIENCE).await;
    assert!(stage.provider.total() >= 2 * requests.len());
    assert_paced(&stage.provider, start, 600);
    stage.idle().await;
    stage.stop().await;
}

/// A provider that says that no request is left and that 600 are there again in a minute has one every 100 ms.
#[tokio::test(flavor = "multi_thread")]
async fn calls_keep_the_distance_that_the_provider_says_it_needs() {
    let roles = [Role::Worker, Role::Router];
    let mut stage = Stage::with(&roles, |provider| config(provider, &of_team("in_flight = 100"))).await;
    stage.start(Role::Ledger).await;
    let headers = [("limit", "600"), ("remaining", "0"), ("reset", "1m0s")];
    stage.provider.always(Behaviour::Status {
        status: 200,
        headers: headers.map(|(what, value)| (format!("x-ratelimit-{what}-requests"), value.into())).into(),
        body: json!({
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m-1",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
        })
        .to_string(),
    });
    let first = request("first", 2);
    stage.client.publish(&first).await;
    let response = stage.client.await_response(&first.identity, PATIENCE).await.value();
    assert_eq!(response["status"], "succeeded", "{response}");
    let start = SystemTime::now();
    let requests: Vec<_> = (0..15).map(|n| request(&format!("r{n}"), 2)).collect();
    stage.client.publish_all(&requests).await;
    for request in &requests {
        stage.client.await_response(&request.identity, PATIENCE).await;
    }
    assert_paced(&stage.provider, start, 600);
    stage.idle().await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_minute_are_not_passed_and_say_what_was_used() {
    let limit = of_team("tokens_per_minute = 200");
    let mut stage = Stage::with(&ROLES, |provider| config(provider, &limit)).await;
    // So many that they do not fit into two minutes.
    let requests: Vec<_> = (0..200).map(|n| request(&format!("r{n}"), 2).field("ttl_ms", 4_000)).collect();
    let live = stage.client.watch(TEAM).await;
    stage.client.publish_all(&requests).await;
    live.await_answered(requests.len(), PATIENCE).await;
    let ended = |status: &str| live.all().iter().filter(|stored| stored.value()["status"] == status).count();
    assert_eq!(ended("succeeded") + ended("expired"), requests.len());
    assert!(ended("succeeded") > 0 && ended("expired") > 0);
    let used: i64 = live
        .all()
        .iter()
        .filter_map(|stored| {
            let usage = &stored.value()["usage"];
            Some(usage["input_tokens"].as_i64()? + usage["output_tokens"].as_i64()?)
        })
        .sum();
    eventually(PATIENCE, "counters that say what was used", async || {
        let counted: i64 = totals(&stage.client).await.values().sum();
        if counted == used { Ok(()) } else { Err((counted, used)) }
    })
    .await;
    // What passes the limit is only what calls use beyond their estimates: a word or two each.
    for (window, total) in totals(&stage.client).await {
        assert!(total <= 220, "{total} of 200 in {window}");
    }
    stage.idle().await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_want_to_wait_is_rejected_and_nobody_else() {
    let mut stage = Stage::with(&ROLES, |provider| config(provider, &of_team("in_flight = 1"))).await;
    stage.provider.script(|call| match call.key.as_str() {
        "holds" => Behaviour::Delay(Duration::from_secs(600)),
        _ => Behaviour::Answer,
    });
    let holds = request("holds", 2);
    stage.client.publish(&holds).await;
    eventually(PATIENCE, "a call", async || (stage.provider.in_flight() == 1).then_some(())).await;
    let rejected = request("rejected", 2).field("on_limit", "reject");
    let waits = request("waits", 2).field("on_limit", "wait");
    stage.client.publish(&waits).await;
    stage.client.publish(&rejected).await;
    let response = stage.client.await_response(&rejected.identity, PATIENCE).await.value();
    assert_eq!(
        (&response["status"], &response["error"]["code"]),
        (&json!("rejected"), &json!("rate_limited"))
    );
    assert_eq!(response["error"]["retryable"], true, "{response}");
    assert!(response["error"]["message"].as_str().unwrap().contains("1 in flight"), "{response}");
    // Another team has no limit.
    let other = tollgate_tests::request::Identity::new("other", "limits", "free");
    let other = tollgate_tests::request::Request::chat(&other, "small", "free");
    stage.client.publish(&other).await;
    stage.client.await_response(&other.identity, PATIENCE).await;
    assert!(stage.client.response(&waits.identity).await.is_none());
    let cancel = holds.identity.cancel_subject();
    stage.client.try_publish_raw(&cancel, Default::default(), "").await.unwrap();
    let response = stage.client.await_response(&waits.identity, PATIENCE).await.value();
    assert_eq!(response["status"], "succeeded", "{response}");
    released(&stage).await;
    stage.idle().await;
    stage.stop().await;
}

/// How many slots of a limit began since the first cell that somebody took a number of, and how many numbers were taken.
async fn slots_and_numbers(stage: &Stage, per_minute: u32) -> (i64, i64) {
    let numbers = numbers(&stage.client).await;
    // The last token of the subject: requests per minute, and the number of the cell's first slot since 1970.
    let first = |subject: &String| subject.rsplit('-').next().unwrap().parse::<i64>().unwrap();
    let first = numbers.keys().map(first).min().expect("somebody took a number");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let slot = i64::try_from(now.as_millis()).unwrap() * i64::from(per_minute) / 60_000;
    (slot - first + 1, numbers.values().sum())
}

/// Numbers are asked for by those who can use them: without that, each of the many takes one at once.
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_want_to_wait_for_its_turn_is_rejected_and_wastes_none() {
    let limit = of_team("requests_per_minute = 20");
    let mut stage = Stage::with(&ROLES, |provider| config(provider, &limit)).await;
    let start = SystemTime::now();
    let requests: Vec<_> =
        (0..200).map(|n| request(&format!("r{n}"), 2).field("on_limit", "reject")).collect();
    stage.client.publish_all(&requests).await;
    let ends = async |requests: &[Request]| {
        let mut succeeded = 0;
        for request in requests {
            let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
            match (response["status"].as_str(), response["error"]["code"].as_str()) {
                (Some("succeeded"), None) => succeeded += 1,
                (Some("rejected"), Some("rate_limited")) => {}
                _ => panic!("{response}"),
            }
        }
        succeeded
    };
    let mut succeeded = ends(&requests).await;
    assert!(succeeded < requests.len(), "some are rejected");
    // A number whose slot was to come is had by who comes when it has.
    for n in 0.. {
        if succeeded > 0 {
            break;
        }
        let more = request(&format!("more-{n}"), 2).field("on_limit", "reject");
        stage.client.publish(&more).await;
        succeeded = ends(&[more]).await;
    }
    // Each router may have one number left, or have asked once where none was left. Two that skip the same slots at the
    // turn of a slot skip up to a cell's ten twice.
    let (slots, numbers) = slots_and_numbers(&stage, 20).await;
    assert!(numbers <= slots + 4 + 10, "{numbers} numbers were taken while {slots} slots began");
    // What is left over is somebody's: only so many slots go by before who waits has one.
    let waits = request("waits", 2);
    stage.client.publish(&waits).await;
    let response = stage.client.await_response(&waits.identity, PATIENCE).await.value();
    assert_eq!(response["status"], "succeeded", "{response}");
    assert_eq!(stage.provider.total(), succeeded + 1);
    assert_paced(&stage.provider, start, 20);
    released(&stage).await;
    stage.idle().await;
    stage.stop().await;
}
