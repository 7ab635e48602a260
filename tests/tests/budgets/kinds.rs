//! The kinds of budgets, and what follows when one is spent.

use std::time::Duration;

use async_nats::HeaderMap;
use serde_json::{Value, json};
use tollgate_tests::money::Price;
use tollgate_tests::provider::{Behaviour, answer_to};
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use super::counter::{entries, most_held, settled, totals};
use super::hard::{PRICE, TEAM, TOKEN, config, request, strict, usd};
use crate::stage::{PATIENCE, Stage, scale};

const ROLES: [Role; 3] = [Role::Ledger, Role::Worker, Role::Router];

/// Waits until a router has found the budget to be full, so often.
async fn waits(stage: &Stage, count: f64) {
    eventually(PATIENCE, "a request that waits for its budget", async || {
        let waits = stage.metric("tollgate_budget_waits_total", &[]).await;
        if waits >= count { Ok(()) } else { Err(waits) }
    })
    .await;
}

/// Waits until the counter says that so much is spent, and nothing is reserved.
async fn spent(stage: &Stage, nanos: i64) {
    eventually(PATIENCE, "what is spent", async || {
        let total: i64 = totals(&stage.client).await.values().sum();
        let on_ledger = stage.client.usage_by_team().await["total"]["cost_nano_usd"].as_i64();
        if (total, on_ledger) == (nanos, Some(nanos)) { Ok(()) } else { Err((total, on_ledger)) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_spent_budget_goes_on_when_the_limit_is_raised() {
    let budget = strict(3 * 2 * TOKEN, "hold");
    let mut stage = Stage::with(&ROLES, |provider| config(provider, 4, &budget)).await;
    let requests: Vec<_> = (0..5).map(|n| request(&format!("r{n}"), 2)).collect();
    stage.client.publish_all(&requests).await;
    spent(&stage, 3 * 2 * TOKEN).await;
    assert_eq!(stage.provider.total(), 3);
    // Another team has no budget, and does not wait.
    let raised = strict(5 * 2 * TOKEN, "hold");
    stage.broker.configure(&config(&stage.provider, 4, &raised));
    for index in [0, 2] {
        stage.running[index].restart().await;
    }
    for request in &requests {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{response}");
    }
    assert_eq!(settled(&stage.client, TEAM).await, 5 * 2 * TOKEN);
    let list = eventually(PATIENCE, "what is spent to be told", async || {
        let asked = stage.client.request("llm.ctl.budget.list", HeaderMap::new(), &json!({}), PATIENCE).await;
        let list: Value = serde_json::from_slice(&asked.unwrap().payload).unwrap();
        let budget = list["budgets"][0].clone();
        if budget["spent_nano_usd"] == 10 * TOKEN { Ok(budget) } else { Err(budget) }
    })
    .await;
    assert_eq!((&list["name"], &list["limit_nano_usd"]), (&json!("team-research-total"), &json!(10 * TOKEN)));
    assert_eq!((&list["reserved_nano_usd"], &list["is_open"]), (&json!(0), &json!(true)));
    assert_eq!(most_held(&entries(&stage.client).await, 5 * 2 * TOKEN), 5 * 2 * TOKEN);
}

/// More requests than a router has places for a team wait for more than is left. Smaller ones pass them.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_for_the_rest_of_a_budget_holds_up_nothing_smaller() {
    let mut stage = Stage::with(&ROLES, |provider| config(provider, 4, &strict(10 * TOKEN, "hold"))).await;
    stage.client.publish(&request("first", 2)).await;
    spent(&stage, 2 * TOKEN).await;
    let large: Vec<_> = (0..80).map(|n| request(&format!("large-{n}"), 9)).collect();
    stage.client.publish_all(&large).await;
    waits(&stage, 40.0).await;
    let small: Vec<_> = (0..4).map(|n| request(&format!("small-{n}"), 2)).collect();
    stage.client.publish_all(&small).await;
    for request in &small {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{response}");
    }
    assert_eq!(settled(&stage.client, TEAM).await, 10 * TOKEN);
    assert_eq!(stage.provider.total(), 5);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_spent_budget_ends_at_its_deadline() {
    let mut stage = Stage::with(&ROLES, |provider| config(provider, 4, &strict(2 * TOKEN, "hold"))).await;
    stage.client.publish(&request("fits", 2)).await;
    spent(&stage, 2 * TOKEN).await;
    let waiting = request("waits", 2).field("ttl_ms", 2_000);
    stage.client.publish(&waiting).await;
    let response = stage.client.await_response(&waiting.identity, PATIENCE).await.value();
    assert_eq!((&response["status"], stage.provider.total()), (&json!("expired"), 1), "{response}");
    spent(&stage, 2 * TOKEN).await;
    stage.idle().await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_fit_is_rejected_at_once() {
    let stage = Stage::with(&ROLES, |provider| config(provider, 4, &strict(10 * TOKEN, "hold"))).await;
    let too_large = request("too-large", 11);
    let unbounded = Request::chat(&Identity::new(TEAM, "budgets", "unbounded"), "small", "unbounded");
    for request in [&too_large, &unbounded] {
        stage.client.publish(request).await;
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "rejected");
        assert_eq!(response["error"]["code"], "budget_too_small", "{response}");
    }
    let response = stage.client.await_response(&too_large.identity, PATIENCE).await.value();
    let message = response["error"]["message"].as_str().unwrap();
    assert!(message.contains("$0.00055") && message.contains("$0.0005 in all"), "{message}");
    assert_eq!(stage.provider.total(), 0);
    spent(&stage, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_budget_of_estimates_rejects_nothing_while_it_is_not_spent() {
    let count = scale(100, 300);
    let limit = TOKEN * 2 * count as i64;
    let budget = format!("limit_usd = \"{}\"\nper = \"month\"\nwhen_spent = \"reject\"", usd(limit));
    let mut stage = Stage::with(&ROLES, |provider| config(provider, 16, &budget)).await;
    stage.provider.always(Behaviour::Delay(Duration::from_millis(50)));
    let live = stage.client.watch(TEAM).await;
    // Each says that it may cost more than the whole budget.
    let requests: Vec<_> = (0..count).map(|n| request(&format!("r{n}"), 16_384)).collect();
    assert!(16_384 * TOKEN > limit);
    stage.client.publish_all(&requests).await;
    live.await_answered(count, PATIENCE).await;
    for stored in live.all() {
        assert_eq!(stored.value()["status"], "succeeded", "{}", stored.value());
    }
    assert!(stage.provider.peak() > 1, "what such answers have is learnt, and then they are called together");
    assert_eq!(settled(&stage.client, TEAM).await, limit);
    most_held(&entries(&stage.client).await, limit);
    let one_more = request("one-more", 1);
    stage.client.publish(&one_more).await;
    let response = stage.client.await_response(&one_more.identity, PATIENCE).await.value();
    assert_eq!(response["error"]["code"], "budget_exceeded", "{response}");
    assert_eq!(response["error"]["retryable"], false);
    stage.idle().await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_budget_sends_requests_to_a_cheaper_model() {
    let cheap = Price { input: 0, cached_input: 0, output: PRICE.output / 10 };
    let budget = strict(2 * TOKEN + 5 * TOKEN / 10, "downgrade");
    let mut stage = Stage::with(&ROLES, |provider| {
        config(provider, 4, &budget)
            .provider("cheap", &provider.base_url(), 4, &[("m-2", cheap)])
            .model("either", &["sim/m-1", "cheap/m-2"])
            .raw(&format!(
                "[[budgets]]\nname = \"dear\"\nscope = {{ provider = \"sim\" }}\n{}\n",
                strict(2 * TOKEN, "downgrade")
            ))
    })
    .await;
    let of = |id: &str| {
        let identity = Identity::new(TEAM, "budgets", id);
        Request::with_body(
            &identity,
            json!({"model": "either", "max_tokens": 2, "messages": [{"role": "user", "content": id}]}),
        )
    };
    let mut providers = Vec::new();
    for id in ["one", "two", "three"] {
        stage.client.publish(&of(id)).await;
        let response = stage.client.await_response(&of(id).identity, PATIENCE).await.value();
        providers.push(response["provider"].as_str().unwrap().to_owned());
        eventually(PATIENCE, "what was reserved to be settled", async || {
            let settled: i64 = totals(&stage.client)
                .await
                .iter()
                .filter(|(name, _)| name.contains("team-"))
                .map(|(_, total)| total)
                .sum();
            let on_ledger = stage.client.usage_by_team().await["total"]["cost_nano_usd"].as_i64();
            if Some(settled) == on_ledger { Ok(()) } else { Err((settled, on_ledger)) }
        })
        .await;
    }
    assert_eq!(providers, ["sim", "cheap", "cheap"]);
    stage.idle().await;
    stage.stop().await;
}

/// The budget is for both targets: its rest is enough for the cheaper one.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_budget_for_all_is_spent_on_the_cheaper_model() {
    let cheap = Price { input: 0, cached_input: 0, output: PRICE.output / 10 };
    let mut stage = Stage::with(&ROLES, |provider| {
        config(provider, 4, &strict(2 * TOKEN + 5 * TOKEN / 10, "downgrade"))
            .provider("cheap", &provider.base_url(), 4, &[("m-2", cheap)])
            .model("either", &["sim/m-1", "cheap/m-2"])
    })
    .await;
    let of = |id: &str| {
        let body = json!({"model": "either", "max_tokens": 2, "messages": [{"role": "user", "content": id}]});
        Request::with_body(&Identity::new(TEAM, "budgets", id), body)
    };
    let mut providers = Vec::new();
    for id in ["one", "two", "three"] {
        stage.client.publish(&of(id)).await;
        let response = stage.client.await_response(&of(id).identity, PATIENCE).await.value();
        providers.push(response["provider"].as_str().unwrap_or_default().to_owned());
        settled(&stage.client, TEAM).await;
    }
    assert_eq!(providers, ["sim", "cheap", "cheap"]);
    stage.idle().await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_budget_of_a_user_keeps_nobody_else() {
    let budget = strict(1_000 * TOKEN, "hold");
    let stage = Stage::with(&ROLES, |provider| {
        config(provider, 4, &budget).raw(&format!(
            "[[budgets]]\nscope = {{ user = \"ann\" }}\n{}\n[[budgets]]\nscope = {{ tag = \"application=search\" }}\n{}\n",
            strict(2 * TOKEN, "hold"),
            strict(4 * TOKEN, "hold"),
        ))
    })
    .await;
    let by = |id: &str, user: &str| request(id, 2).field("user", user);
    stage.client.publish(&by("ann-1", "ann")).await;
    spent_of(&stage, "user-ann-total", 2 * TOKEN).await;
    // More than a router holds of a lane: what comes after them is of the same team and priority.
    let more: Vec<_> = (2..90).map(|n| by(&format!("ann-{n}"), "ann")).collect();
    stage.client.publish_all(&more).await;
    waits(&stage, 1.0).await;
    for n in 0..5 {
        let request = by(&format!("bob-{n}"), "bob");
        stage.client.publish(&request).await;
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded");
    }
    let tagged = by("tagged", "bob").field("tags", json!({"application": "search"}));
    stage.client.publish(&tagged).await;
    stage.client.await_response(&tagged.identity, PATIENCE).await;
    let counters = totals(&stage.client).await;
    let tag = counters.iter().find(|(name, _)| name.contains("tag-application")).unwrap();
    assert!(*tag.1 >= 2 * TOKEN);
    assert!(stage.client.response(&by("ann-2", "ann").identity).await.is_none());
}

async fn spent_of(stage: &Stage, budget: &str, nanos: i64) {
    let subject = format!("llm.budget.{budget}.total");
    eventually(PATIENCE, "what is spent of one budget", async || {
        let totals = totals(&stage.client).await;
        if totals.get(&subject) == Some(&nanos) { Ok(()) } else { Err(totals) }
    })
    .await;
}

/// What a call costs that fails after it was paid for is charged, and the next call is reserved for anew.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_paid_failure_the_budget_is_asked_again() {
    let mut stage = Stage::with(&ROLES, |provider| config(provider, 4, &strict(100 * TOKEN, "hold"))).await;
    stage
        .provider
        .script(|call| if call.earlier == 0 { Behaviour::TruncatedBody } else { Behaviour::Answer });
    let request = request("again", 5);
    stage.client.publish(&request).await;
    let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
    assert_eq!(response["status"], "succeeded", "{response}");
    let attempts = response["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2, "{response}");
    let cost: i64 = attempts.iter().map(|attempt| attempt["cost_nano_usd"].as_i64().unwrap()).sum();
    assert!(cost > i64::try_from(PRICE.cost(answer_to(request.body()).tokens)).unwrap());
    assert_eq!(settled(&stage.client, TEAM).await, cost);
    let entries = entries(&stage.client).await;
    assert_eq!(entries.iter().filter(|entry| entry.kind == "reserve").count(), 2, "{entries:?}");
    stage.idle().await;
    stage.stop().await;
}

/// A budget that comes later begins with what was spent in its window, and with what was under way.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_budget_begins_with_what_was_spent() {
    let without = |provider: &_| config(provider, 4, &strict(1_000_000 * TOKEN, "hold"));
    let mut stage = Stage::with(&ROLES, without).await;
    for n in 0..3 {
        let request = request(&format!("before-{n}"), 2);
        stage.client.publish(&request).await;
        stage.client.await_response(&request.identity, PATIENCE).await;
    }
    spent(&stage, 6 * TOKEN).await;
    // A call is under way whose worker stands still until the new budget is open.
    stage.provider.always(Behaviour::Delay(Duration::from_secs(1)));
    let under_way = request("under-way", 2);
    stage.client.publish(&under_way).await;
    eventually(PATIENCE, "a call under way", async || (stage.provider.in_flight() == 1).then_some(())).await;
    stage.running[1].stop();
    let month = format!(
        "[[budgets]]\nname = \"later\"\nscope = {{}}\nlimit_usd = \"{}\"\nper = \"month\"\n",
        usd(10 * TOKEN)
    );
    stage.broker.configure(&config(&stage.provider, 4, &strict(1_000_000 * TOKEN, "hold")).raw(&month));
    for index in [0, 2] {
        stage.running[index].restart().await;
    }
    let opening = eventually(PATIENCE, "the new budget's opening", async || {
        let entries = entries(&stage.client).await;
        entries.into_iter().find(|entry| entry.kind == "open" && entry.subject.contains(".later."))
    })
    .await;
    assert_eq!(opening.amount, 6 * TOKEN);
    stage.running[1].cont();
    stage.client.await_response(&under_way.identity, PATIENCE).await;
    eventually(PATIENCE, "all of it in the new budget", async || {
        let totals = totals(&stage.client).await;
        let later = totals.iter().find(|(name, _)| name.contains(".later.")).map(|(_, total)| *total);
        if later == Some(8 * TOKEN) { Ok(()) } else { Err(totals) }
    })
    .await;
    stage.idle().await;
    stage.stop().await;
}
