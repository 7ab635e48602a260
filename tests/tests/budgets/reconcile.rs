//! `tollgate reconcile`: nothing after kills, everything that somebody else wrote, and repairs that can be seen.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use async_nats::HeaderMap;
use serde_json::{Value, json};
use tollgate_tests::provider::Behaviour;
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use super::counter::{entries, settled, totals};
use super::hard::{TEAM, TOKEN, config, request, strict};
use crate::cli::{Ended, end, run, start};
use crate::stage::{PATIENCE, Stage, scale};

const ROLES: [Role; 4] = [Role::Ledger, Role::Worker, Role::Router, Role::Router];
const BUDGET: &str = "team-research-total";
const COUNTER: &str = "team-research-total.total";

async fn reconcile(stage: &Stage, dir: &Path, more: &[&str]) -> Ended {
    let arguments: Vec<&str> = ["reconcile", "--json"].iter().chain(more).copied().collect();
    run(stage, dir, &arguments).await
}

/// What was found, as (what, account or entry, amount too much).
fn named(ended: &Ended, list: &str) -> BTreeSet<(String, String, i64)> {
    let found = ended.json();
    let each = |difference: &Value| {
        let what = difference["what"].as_str().unwrap().to_owned();
        let who =
            difference["account"].as_str().map_or_else(|| difference["sequence"].to_string(), str::to_owned);
        let amount = |name: &str| difference[name].as_i64().unwrap();
        (what, who, amount("stands") - amount("should_be"))
    };
    found[list].as_array().unwrap().iter().map(each).collect()
}

/// Adds an entry to the counter as anybody could who may publish there. Returns its sequence.
async fn inject(stage: &Stage, amount: i64, entry: Option<Value>) -> u64 {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Incr", amount.to_string());
    if let Some(entry) = entry {
        headers.insert("Tollgate-Entry", entry.to_string());
    }
    let subject = format!("llm.budget.{COUNTER}");
    let published = stage.client.jetstream().publish_with_headers(subject, headers, "".into()).await.unwrap();
    published.await.unwrap().sequence
}

async fn total(stage: &Stage) -> i64 {
    totals(&stage.client).await[&format!("llm.budget.{COUNTER}")]
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_leave_no_difference_and_work_under_way_is_none() {
    let count = scale(100, 300);
    let limit = TOKEN * 2 * 2 * count as i64;
    let mut stage = Stage::with(&ROLES, |provider| config(provider, 16, &strict(limit, "hold"))).await;
    let dir = tempfile::tempdir().unwrap();
    stage.provider.always(Behaviour::Delay(Duration::from_millis(20)));
    let requests: Vec<_> = (0..count).map(|n| request(&format!("r{n}"), 5)).collect();
    stage.client.publish_all(&requests).await;
    for round in 1..=3 {
        eventually(PATIENCE, "calls to be made", async || {
            let total = stage.provider.total();
            if total >= count * round / 5 { Ok(()) } else { Err(total) }
        })
        .await;
        for index in [0, 2] {
            stage.running[index].kill9();
        }
        if round == 2 {
            stage.nats.kill9();
            stage.nats.restart().await;
        }
        for index in [0, 2] {
            stage.running[index].restart().await;
        }
        // While all of it goes on.
        let ended = reconcile(&stage, dir.path(), &[]).await;
        assert_eq!(ended.code, Some(0), "{} {}", ended.stdout, ended.stderr);
    }
    for request in &requests {
        stage.client.await_response(&request.identity, PATIENCE).await;
    }
    settled(&stage.client, TEAM).await;
    stage.idle().await;
    let ended = reconcile(&stage, dir.path(), &["--wait", "60s"]).await;
    assert_eq!(ended.code, Some(0), "{} {}", ended.stdout, ended.stderr);
    let found = ended.json();
    assert_eq!((&found["open"], &found["being_settled"]), (&json!(0), &json!(0)), "{found}");
    assert_eq!(found["accounts"], count, "{found}");
    stage.stop().await;
    let ended = reconcile(&stage, dir.path(), &[]).await;
    assert_eq!(ended.code, Some(3), "without a ledger nothing is compared: {}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_wrote_is_named_and_put_right_once() {
    let limit = TOKEN * 2 * 100;
    let mut stage = Stage::with(&ROLES, |provider| config(provider, 4, &strict(limit, "hold"))).await;
    let dir = tempfile::tempdir().unwrap();
    for n in 0..3 {
        let request = request(&format!("r{n}"), 2);
        stage.client.publish(&request).await;
        stage.client.await_response(&request.identity, PATIENCE).await;
    }
    let paid = settled(&stage.client, TEAM).await;
    assert_eq!(paid, 3 * 2 * TOKEN);

    // Of a request that there was: the ledger takes it back, as it does with all that it can tell.
    let of = |kind: &str, account: &str, attempt: u32| json!({"kind": kind, "account": account, "attempt": attempt});
    inject(&stage, 11 * TOKEN, Some(of("reserve", "research.budgets.r0", 1))).await;
    inject(&stage, -3 * TOKEN, Some(of("undo", "research.budgets.r1", 2))).await;
    eventually(PATIENCE, "the ledger to take it back", async || {
        let total = total(&stage).await;
        if total == paid { Ok(()) } else { Err(total) }
    })
    .await;
    // What nobody can tell: no header, an unknown kind, requests that are not there, a second opening.
    let bare = inject(&stage, 7 * TOKEN, None).await;
    let unknown = inject(&stage, -2 * TOKEN, Some(json!({"kind": "gift"}))).await;
    inject(&stage, 5 * TOKEN, Some(of("reserve", "research.budgets.nobody", 1))).await;
    inject(&stage, 4 * TOKEN, Some(of("settle", "nonsense", 3))).await;
    let opening = inject(&stage, 6 * TOKEN, Some(json!({"kind": "open", "usage_sequence": 2}))).await;
    let ended = reconcile(&stage, dir.path(), &["--wait", "3s"]).await;
    assert_eq!(ended.code, Some(1), "{} {}", ended.stdout, ended.stderr);
    let found = named(&ended, "differences");
    let difference =
        |what: &str, who: &dyn ToString, tokens: i64| (what.to_owned(), who.to_string(), tokens * TOKEN);
    let expected: BTreeSet<_> = [
        difference("entry", &bare, 7),
        difference("entry", &unknown, -2),
        difference("entry", &opening, 6),
        difference("reservation", &"research.budgets.nobody", 5),
        difference("reservation", &"nonsense", 4),
    ]
    .into();
    assert_eq!(found, expected, "{}", ended.stdout);
    let text = run(&stage, dir.path(), &["reconcile", "--wait", "1s"]).await;
    assert!(
        text.stdout.contains("research.budgets.nobody") && text.stdout.contains("5 differences"),
        "{}",
        text.stdout
    );
    assert_eq!(total(&stage).await, paid + 20 * TOKEN, "and nothing was changed");

    // Twice at once.
    let other = tempfile::tempdir().unwrap();
    let arguments = ["reconcile", "--json", "--repair", "--wait", "3s"];
    let both = [start(&stage, dir.path(), &arguments), start(&stage, other.path(), &arguments)];
    for process in &both {
        let ended = end(process).await;
        assert_eq!(ended.code, Some(0), "{} {}", ended.stdout, ended.stderr);
        assert_eq!(named(&ended, "differences"), BTreeSet::new());
    }
    let all = entries(&stage.client).await;
    let mut corrections: Vec<i64> =
        all.iter().filter(|entry| entry.kind == "correct").map(|entry| entry.amount / TOKEN).collect();
    corrections.sort_unstable();
    assert_eq!(corrections, [-7, -6, -5, -4, 2]);
    assert_eq!(total(&stage).await, paid);
    let ended = reconcile(&stage, dir.path(), &["--wait", "60s"]).await;
    assert_eq!(ended.code, Some(0), "{} {}", ended.stdout, ended.stderr);
    let show = run(&stage, dir.path(), &["budget", "show", BUDGET, "--json"]).await.json();
    assert_eq!((&show["spent_nano_usd"], &show["reserved_nano_usd"]), (&json!(paid), &json!(0)), "{show}");
    stage.stop().await;
}

/// A usage event that the ledger has counted is deleted from the stream.
#[tokio::test(flavor = "multi_thread")]
async fn totals_that_are_not_those_of_the_events_are_named() {
    let limit = TOKEN * 2 * 100;
    let mut stage = Stage::with(&ROLES, |provider| config(provider, 4, &strict(limit, "hold"))).await;
    let dir = tempfile::tempdir().unwrap();
    for n in 0..3 {
        let request = request(&format!("r{n}"), 2);
        stage.client.publish(&request).await;
        stage.client.await_response(&request.identity, PATIENCE).await;
    }
    settled(&stage.client, TEAM).await;
    let stream = stage.client.jetstream().get_stream("LLM_USAGE").await.unwrap();
    stream.delete_message(2).await.unwrap();
    let ended = reconcile(&stage, dir.path(), &["--wait", "1s"]).await;
    assert_eq!(ended.code, Some(1), "{} {}", ended.stdout, ended.stderr);
    let totals: Vec<_> = named(&ended, "differences")
        .into_iter()
        .filter(|(what, ..)| what == "totals")
        .map(|(.., amount)| amount)
        .collect();
    assert!(!totals.is_empty() && totals.iter().all(|amount| *amount == 2 * TOKEN), "{}", ended.stdout);
    // No entry puts that right.
    let ended = reconcile(&stage, dir.path(), &["--wait", "1s", "--repair"]).await;
    assert_eq!(ended.code, Some(1), "{} {}", ended.stdout, ended.stderr);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_compared_in_their_units() {
    let limits = format!(
        "[[limits]]\nscope = {{ team = \"{TEAM}\" }}\ntokens_per_minute = 1_000_000\nin_flight = 50\n"
    );
    let budget = strict(TOKEN * 2 * 100, "hold");
    let mut stage = Stage::with(&ROLES, |provider| config(provider, 4, &budget).raw(&limits)).await;
    let dir = tempfile::tempdir().unwrap();
    for n in 0..5 {
        let request = request(&format!("r{n}"), 2);
        stage.client.publish(&request).await;
        stage.client.await_response(&request.identity, PATIENCE).await;
    }
    stage.idle().await;
    let ended = reconcile(&stage, dir.path(), &["--wait", "60s"]).await;
    assert_eq!(ended.code, Some(0), "{} {}", ended.stdout, ended.stderr);
    assert!(ended.json()["counters"].as_u64().unwrap() >= 3, "{}", ended.stdout);

    let mut headers = HeaderMap::new();
    headers.insert("Nats-Incr", "5");
    let entry =
        json!({"kind": "reserve", "unit": "in_flight", "account": "research.budgets.nobody", "attempt": 1});
    headers.insert("Tollgate-Entry", entry.to_string());
    let subject = format!("llm.budget.team-{TEAM}-limit-in-flight.total");
    let published =
        stage.client.jetstream().publish_with_headers(subject.clone(), headers, "".into()).await.unwrap();
    published.await.unwrap();
    let ended = reconcile(&stage, dir.path(), &["--wait", "2s", "--repair"]).await;
    assert_eq!(ended.code, Some(0), "{} {}", ended.stdout, ended.stderr);
    let found = ended.json();
    assert_eq!(found["repaired"][0]["unit"], "in_flight", "{found}");
    assert_eq!(found["repaired"][0]["stands"], 5, "{found}");
    assert_eq!(totals(&stage.client).await[&subject], 0);
    stage.stop().await;
}
