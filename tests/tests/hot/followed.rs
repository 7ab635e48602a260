//! What is applied counts for every process, without a restart.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tollgate_tests::config::Config;
use tollgate_tests::provider::{Behaviour, Provider};
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use super::{apply, in_use, run, used};
use crate::budgets::counter::{entries, most_held, settled, totals};
use crate::budgets::hard::{PRICE, TEAM, TOKEN, config, request, strict};
use crate::stage::{PATIENCE, Stage};

const ALL: [Role; 7] =
    [Role::Router, Role::Router, Role::Router, Role::Router, Role::Worker, Role::Worker, Role::Ledger];
const MANY: usize = 20;
const BUDGET: &str = "team-research-total";

/// Waits until so many calls were made and the counter says what they cost.
async fn spent(stage: &Stage, calls: i64) {
    eventually(PATIENCE, "a budget that is spent", async || {
        let total: i64 = totals(&stage.client).await.values().sum();
        let made = stage.provider.total();
        if total == calls * 2 * TOKEN && made == calls as usize { Ok(()) } else { Err((total, made)) }
    })
    .await;
}

fn of_two_tokens(calls: i64) -> String {
    strict(calls * 2 * TOKEN, "hold")
}

/// Requests wait in the hands of four routers, and go on when there is more to spend: by a file, by an amount, by a sum.
/// Between that the nats-server is killed, and one router is started later.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_budget_goes_on_as_soon_as_it_is_raised() {
    let mut stage = Stage::with(&ALL, |provider| config(provider, 16, &of_two_tokens(20))).await;
    let requests: Vec<_> = (0..100).map(|n| request(&format!("r{n}"), 2)).collect();
    stage.client.publish_all(&requests).await;
    spent(&stage, 20).await;
    assert_eq!(apply(&stage, &config(&stage.provider, 16, &of_two_tokens(40))).await, 1);
    spent(&stage, 40).await;
    assert_eq!(most_held(&entries(&stage.client).await, 40 * 2 * TOKEN), 40 * 2 * TOKEN);

    let raised = run(&stage, &["budget", "raise", BUDGET, "--by-usd", "0.002", "--json"]).await;
    assert_eq!((raised.code, used(&raised.json(), 2)), (Some(0), 7), "{}{}", raised.stdout, raised.stderr);
    spent(&stage, 60).await;

    stage.nats.kill9();
    stage.nats.restart().await;
    let later = stage.start(Role::Router).await;
    in_use(&stage, 2).await;
    spent(&stage, 60).await;
    stage.running[later].kill9();
    stage.running.remove(later);

    let set = run(&stage, &["budget", "set", BUDGET, "--limit-usd", "0.0100", "--note", "for all"]).await;
    assert_eq!(set.code, Some(0), "{}{}", set.stdout, set.stderr);
    assert!(set.stdout.contains("~ budget team-research-total: limit_usd $0.006 → $0.01"), "{}", set.stdout);
    for request in &requests {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{response}");
    }
    assert_eq!(settled(&stage.client, TEAM).await, 100 * 2 * TOKEN);
    assert_eq!(stage.provider.total(), 100);
    most_held(&entries(&stage.client).await, 100 * 2 * TOKEN);
    stage.idle().await;
    stage.stop().await;
}

/// A lower limit counts at once as well, and what was spent stays spent.
#[tokio::test(flavor = "multi_thread")]
async fn a_budget_can_be_lowered_added_and_taken_away() {
    let roles = [Role::Router, Role::Worker, Role::Ledger];
    let without = |provider: &Provider| {
        let config = Config::new().provider("sim", &provider.base_url(), 4, &[("m-1", PRICE)]);
        config.model("small", &["sim/m-1"]).team(TEAM)
    };
    let with = |provider: &Provider, calls| {
        let budget = format!("[[budgets]]\nscope = {{ team = \"{TEAM}\" }}\n{}\n", strict(calls, "reject"));
        without(provider).raw(&budget)
    };
    let mut stage = Stage::with(&roles, without).await;
    let ask = async |stage: &Stage, id: &str| {
        let request = request(id, 2);
        stage.client.publish(&request).await;
        stage.client.await_response(&request.identity, PATIENCE).await.value()
    };
    for id in ["r1", "r2", "r3"] {
        assert_eq!(ask(&stage, id).await["status"], "succeeded");
    }
    // It begins with what was spent before it was there.
    apply(&stage, &with(&stage.provider, 4 * 2 * TOKEN)).await;
    assert_eq!(ask(&stage, "r4").await["status"], "succeeded");
    assert_eq!(settled(&stage.client, TEAM).await, 4 * 2 * TOKEN);
    assert_eq!(ask(&stage, "r5").await["error"]["code"], "budget_exceeded");
    apply(&stage, &with(&stage.provider, 5 * 2 * TOKEN)).await;
    assert_eq!(ask(&stage, "r6").await["status"], "succeeded");
    apply(&stage, &with(&stage.provider, 2 * TOKEN)).await;
    assert_eq!(ask(&stage, "r7").await["error"]["code"], "budget_exceeded");
    apply(&stage, &without(&stage.provider)).await;
    assert_eq!(ask(&stage, "r8").await["status"], "succeeded");
    assert_eq!(stage.provider.total(), 6);
    stage.idle().await;
    stage.stop().await;
}

/// What was called while a budget was not there is in it when it is back, before anything else is dispatched; the ledger, one
/// that is made anew and `reconcile` agree on that.
#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_comes_back_has_all_that_was_called_without_it() {
    let roles = [Role::Router, Role::Worker, Role::Ledger];
    let without = |provider: &Provider| {
        let models = [("m-1", PRICE), ("m-2", PRICE)];
        let config = Config::new().provider("sim", &provider.base_url(), 4, &models);
        config.model("small", &["sim/m-1"]).model("large", &["sim/m-2"]).team(TEAM)
    };
    let with = |provider: &Provider| {
        let scope = format!("{{ team = \"{TEAM}\", model = \"m-1\" }}");
        let limit = strict(8 * 2 * TOKEN, "reject");
        without(provider).raw(&format!("[[budgets]]\nname = \"m\"\nscope = {scope}\n{limit}\n"))
    };
    let mut stage = Stage::with(&roles, with).await;
    let ask = async |stage: &Stage, id: &str, model: &str| {
        let asked = request(id, 2);
        let body = serde_json::json!({"model": model, "max_tokens": 2, "messages": [{"role": "user", "content": id}]});
        stage.client.publish(&Request::with_body(&asked.identity, body)).await;
        stage.client.await_response(&asked.identity, PATIENCE).await.value()
    };
    let charged = async |stage: &Stage, calls: i64| {
        eventually(PATIENCE, &format!("{calls} calls charged, and no difference"), async || {
            let total: i64 = totals(&stage.client).await.values().sum();
            if total != calls * 2 * TOKEN {
                return Err(format!("{total}"));
            }
            let ended = run(stage, &["reconcile", "--json", "--wait", "1s"]).await;
            if ended.code == Some(0) { Ok(()) } else { Err(ended.stdout) }
        })
        .await;
    };
    for n in 0..2 {
        assert_eq!(ask(&stage, &format!("a{n}"), "small").await["status"], "succeeded");
        assert_eq!(ask(&stage, &format!("b{n}"), "large").await["status"], "succeeded");
    }
    charged(&stage, 2).await;
    let before = entries(&stage.client).await.len();
    apply(&stage, &without(&stage.provider)).await;
    for n in 2..5 {
        assert_eq!(ask(&stage, &format!("a{n}"), "small").await["status"], "succeeded");
        assert_eq!(ask(&stage, &format!("b{n}"), "large").await["status"], "succeeded");
    }
    charged(&stage, 2).await;
    assert_eq!(entries(&stage.client).await.len(), before, "nothing is written to what is not there");
    // Routers that hear of it again, or are started meanwhile, wait for the ledger.
    let told = stage.client.jetstream().get_key_value("llm_spent").await.unwrap();
    let is_closed = async || {
        let value = told.get("m.total").await.unwrap().unwrap();
        serde_json::from_slice::<Value>(&value).unwrap()["is_closed"] == true
    };
    eventually(PATIENCE, "the budget closed", async || is_closed().await.then_some(())).await;

    // With two that are under way when it comes back, and end then.
    let (opens, open) = tokio::sync::watch::channel(false);
    stage.provider.always(Behaviour::Until(open));
    let under_way = [request("u0", 2), request("u1", 2)];
    stage.client.publish_all(&under_way).await;
    eventually(PATIENCE, "two calls", async || (stage.provider.in_flight() == 2).then_some(())).await;
    apply(&stage, &with(&stage.provider)).await;
    charged(&stage, 5).await;
    eventually(PATIENCE, "the budget open", async || (!is_closed().await).then_some(())).await;
    opens.send_replace(true);
    charged(&stage, 7).await;
    let codes = [ask(&stage, "a5", "small").await, ask(&stage, "a6", "small").await];
    assert_eq!(codes[0]["status"], "succeeded");
    assert_eq!(codes[1]["error"]["code"], "budget_exceeded");
    charged(&stage, 8).await;

    let ledger = stage.running.len() - 1;
    stage.running[ledger].kill9();
    std::fs::remove_dir_all(stage.broker.data_path()).unwrap();
    stage.running[ledger].restart().await;
    charged(&stage, 8).await;
    assert_eq!(ask(&stage, "a7", "small").await["error"]["code"], "budget_exceeded");

    // Each of many is opened by what is read with a consumer of its own: a stream has room for a thousand.
    let budget = |n| {
        format!(
            "[[budgets]]\nname = \"of-{n}\"\nscope = {{ user = \"u{n}\" }}\nlimit_usd = \"1\"\nper = \"day\"\n"
        )
    };
    let many: String = (0..MANY).map(budget).collect();
    apply(&stage, &with(&stage.provider).raw(&many)).await;
    eventually(PATIENCE, "all of them open", async || {
        let open = totals(&stage.client).await.keys().filter(|subject| subject.contains(".of-")).count();
        if open == MANY { Ok(()) } else { Err(open) }
    })
    .await;
    eventually(PATIENCE / 4, "no consumer left", async || {
        match stage.client.consumers("LLM_USAGE").await.len() {
            ..MANY => Ok(()),
            consumers => Err(consumers),
        }
    })
    .await;
    stage.idle().await;
    stage.stop().await;
}

/// The usage of a call says its price; what was reserved before a price was raised is charged at the old one.
#[tokio::test(flavor = "multi_thread")]
async fn a_price_counts_for_what_is_dispatched_after_it() {
    let roles = [Role::Router, Role::Worker, Role::Ledger];
    let limit = 10 * 2 * TOKEN;
    let priced = |provider: &Provider, times: u64| {
        let price = tollgate_tests::money::Price { output: PRICE.output * times, ..PRICE };
        let budget = format!("[[budgets]]\nscope = {{ team = \"{TEAM}\" }}\n{}\n", strict(limit, "reject"));
        let config = Config::new().provider("sim", &provider.base_url(), 1, &[("m-1", price)]);
        config.model("small", &["sim/m-1"]).team(TEAM).team("other").raw(&budget)
    };
    let mut stage = Stage::with(&roles, |provider| priced(provider, 1)).await;
    stage.provider.always(Behaviour::Delay(Duration::from_millis(300)));
    // One is called, and one lies in the provider's stream: both are reserved for.
    let first: Vec<_> = (0..2).map(|n| request(&format!("first-{n}"), 2)).collect();
    stage.client.publish_all(&first).await;
    eventually(PATIENCE, "a call and a dispatched request", async || {
        let (calls, dispatched) =
            (stage.provider.in_flight(), stage.client.message_count("LLM_DISPATCH_sim").await);
        if (calls, dispatched) == (1, 2) { Ok(()) } else { Err((calls, dispatched)) }
    })
    .await;
    apply(&stage, &priced(&stage.provider, 4)).await;
    for request in &first {
        stage.client.await_response(&request.identity, PATIENCE).await;
    }
    let second: Vec<_> = (0..4).map(|n| request(&format!("second-{n}"), 2)).collect();
    stage.client.publish_all(&second).await;
    let mut ends = Vec::new();
    for request in &second {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        ends.push(response["status"].as_str().unwrap().to_owned());
    }
    ends.sort();
    // 2 at one token's price each, then 2 at four times that: there is no room for a third of these.
    assert_eq!(ends, ["rejected", "rejected", "succeeded", "succeeded"]);
    let free = Identity::new("other", "budgets", "free");
    stage.client.publish(&Request::chat(&free, "small", "free")).await;
    stage.client.await_response(&free, PATIENCE).await;
    assert_eq!(settled(&stage.client, TEAM).await, limit);
    most_held(&entries(&stage.client).await, limit);
    let (old, new) = ("0/0/50000000000", "0/0/200000000000");
    let events: Vec<Value> =
        stage.client.read_stream("LLM_USAGE").await.iter().map(|stored| stored.value()).collect();
    for event in events.iter().filter(|event| event["kind"] == "attempt") {
        let id = event["id"].as_str().unwrap();
        let wanted = if id.starts_with("first") { old } else { new };
        assert_eq!(event["price_version"], wanted, "{event}");
    }
    stage.idle().await;
    stage.stop().await;
}

/// Requests that wait in a router's hands are ordered by the new weights.
#[tokio::test(flavor = "multi_thread")]
async fn weights_count_for_what_waits_already() {
    let weighted = |provider: &Provider, weight| {
        crate::stage::config(provider, 4, &["flood"]).weighted_team("quiet", weight)
    };
    let mut stage = Stage::with(&[Role::Router], |provider| weighted(provider, 1)).await;
    let of = |team: &str| -> Vec<Request> {
        let request = |n| {
            Request::chat(&Identity::new(team, "order", &format!("{n}")), "small", &format!("{team} {n}"))
        };
        (0..400).map(request).collect()
    };
    stage.client.publish_all(&[of("flood"), of("quiet")].concat()).await;
    eventually(PATIENCE, "a full prefetch of two lanes", async || {
        let lanes = stage.client.consumers("LLM_REQ").await;
        (lanes.iter().filter(|lane| lane.num_ack_pending >= 24).count() == 2).then_some(())
    })
    .await;
    apply(&stage, &weighted(&stage.provider, 3)).await;
    stage.start(Role::Worker).await;
    stage.idle().await;
    let calls = stage.provider.calls();
    let heavy = calls.iter().take(400).filter(|call| call.key.starts_with("quiet")).count();
    assert!((240..=360).contains(&heavy), "{heavy} of the first 400 calls are of the team of weight 3");
    assert_eq!(calls.len(), 800, "each is called once");
}

/// Under one request a minute, what waits would wait for minutes; and one at a time is one until more may be.
#[tokio::test(flavor = "multi_thread")]
async fn limits_count_for_what_waits_already() {
    let limited = |provider: &Provider, limit: &str| {
        let config = Config::new().provider("sim", &provider.base_url(), 16, &[("m-1", PRICE)]);
        let limit = format!("[[limits]]\nscope = {{ team = \"{TEAM}\" }}\n{limit}\n");
        config.model("small", &["sim/m-1"]).team(TEAM).raw(&limit)
    };
    let roles = [Role::Router, Role::Router, Role::Worker, Role::Ledger];
    let mut stage = Stage::with(&roles, |provider| limited(provider, "requests_per_minute = 1")).await;
    let paced: Vec<_> = (0..6).map(|n| request(&format!("paced-{n}"), 2)).collect();
    stage.client.publish_all(&paced).await;
    eventually(PATIENCE, "one that had its turn, and others that wait for theirs", async || {
        let waits = stage.metric("tollgate_budget_waits_total", &[]).await;
        let begun = stage.provider.total();
        if begun >= 1 && waits >= 1.0 { Ok(()) } else { Err((begun, waits)) }
    })
    .await;
    apply(&stage, &limited(&stage.provider, "in_flight = 1")).await;
    for request in &paced {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{response}");
    }
    stage.provider.always(Behaviour::Delay(Duration::from_millis(500)));
    let together: Vec<_> = (0..10).map(|n| request(&format!("together-{n}"), 2)).collect();
    stage.client.publish_all(&together).await;
    eventually(PATIENCE, "two calls, one after the other", async || {
        (stage.provider.total() >= paced.len() + 2).then_some(())
    })
    .await;
    assert!(stage.provider.in_flight() <= 1);
    apply(&stage, &limited(&stage.provider, "in_flight = 4")).await;
    eventually(PATIENCE, "four calls at a time", async || {
        let in_flight = stage.provider.in_flight();
        if in_flight == 4 { Ok(()) } else { Err(in_flight) }
    })
    .await;
    for request in &together {
        stage.client.await_response(&request.identity, PATIENCE).await;
    }
    assert!(stage.provider.peak() <= 4, "{} at a time", stage.provider.peak());
    stage.idle().await;
    stage.stop().await;
}

/// Calls wait in a worker's places for minutes under one a minute of its provider's account, and go on when more may be.
#[tokio::test(flavor = "multi_thread")]
async fn limits_of_an_account_count_for_calls_that_wait_already() {
    let limited = |provider: &Provider, per_minute: u32| {
        let config = Config::new().provider("sim", &provider.base_url(), 16, &[("m-1", PRICE)]);
        let limit = format!(
            "[[limits]]\nname = \"account\"\nscope = {{ provider = \"sim\" }}\nrequests_per_minute = {per_minute}\n"
        );
        config.model("small", &["sim/m-1"]).team(TEAM).raw(&limit)
    };
    let roles = [Role::Router, Role::Worker, Role::Ledger];
    let mut stage = Stage::with(&roles, |provider| limited(provider, 1)).await;
    let requests: Vec<_> = (0..8).map(|n| request(&format!("r{n}"), 2)).collect();
    stage.client.publish_all(&requests).await;
    eventually(PATIENCE, "a number that each has asked for", async || {
        // A counter's message says its total; the last one of each counts.
        let stored = stage.client.read_stream("LLM_PACE").await;
        let total = |payload: Value| payload["val"].as_str()?.parse::<usize>().ok();
        let last: BTreeMap<_, _> = stored
            .iter()
            .map(|stored| (stored.subject.clone(), total(stored.value()).unwrap_or(0)))
            .collect();
        let asked: usize = last.values().sum();
        if asked >= requests.len() { Ok(()) } else { Err(asked) }
    })
    .await;
    apply(&stage, &limited(&stage.provider, 6_000)).await;
    let raised = std::time::Instant::now();
    for request in &requests {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{response}");
    }
    // One a minute would have taken many.
    assert!(raised.elapsed() < PATIENCE, "{:?}", raised.elapsed());
    stage.idle().await;
    stage.stop().await;
}
