use std::collections::BTreeMap;

use serde_json::Value;
use tollgate_tests::config::Config;
use tollgate_tests::http;
use tollgate_tests::provider::{Behaviour, Provider, answer_to};
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use crate::stage::{PATIENCE, PRICE, Stage, config, get};

const TEAM: &str = "research";

/// The page that operators read.
const PAGE: &str = include_str!("../../../docs/operations.md");

/// Every documented metric and its kind.
fn documented() -> BTreeMap<String, String> {
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| `tollgate_"));
    let cells = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    cells.map(|cells| (format!("tollgate_{}", cells[0].trim_end_matches('`')), cells[1].to_owned())).collect()
}

/// Every metric that is there and its kind.
fn shown(text: &str) -> BTreeMap<String, String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    rows.filter_map(|row| row.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_their_documented_names_and_agree_with_what_was_sent() {
    use Role::{Ask, Ledger, Router, Worker};
    let stage = Stage::with(&[Ledger, Worker, Router, Ask], |provider| config(provider, 8, &[TEAM])).await;
    let live = stage.client.watch(TEAM).await;
    stage.provider.script(|call| match (call.key.starts_with("flaky"), call.earlier) {
        (true, 0) => Behaviour::error(503, "overloaded", None),
        _ if call.key.starts_with("refused") => Behaviour::error(400, "bad_request", None),
        _ => Behaviour::Answer,
    });
    let request = |kind: &str, n: usize, model: &str| {
        Request::chat(&Identity::new(TEAM, kind, &n.to_string()), model, &format!("{kind} {n}"))
    };
    let good: Vec<_> = (0..20).map(|n| request("good", n, "small").priority("high")).collect();
    // One more in a row would be taken for an outage, in whatever order they end.
    let flaky: Vec<_> = (0..4).map(|n| request("flaky", n, "small")).collect();
    let refused: Vec<_> = (0..3).map(|n| request("refused", n, "small")).collect();
    let rejected: Vec<_> = (0..4).map(|n| request("rejected", n, "no-such-model").priority("low")).collect();
    let all = [good.clone(), flaky.clone(), refused, rejected].concat();
    stage.client.publish_all(&all).await;
    live.await_answered(all.len(), PATIENCE).await;
    stage.idle().await;

    let agree = async || {
        let mut wrong = Vec::new();
        let requests = "tollgate_requests_total";
        let attempts = "tollgate_attempts_total";
        let paid: i128 =
            good.iter().chain(&flaky).map(|request| PRICE.cost(answer_to(request.body()).tokens)).sum();
        for (name, labels, expected) in [
            (requests, &[r#"status="succeeded""#, r#"priority="high""#][..], 20.0),
            (requests, &[r#"status="succeeded""#, r#"priority="normal""#], 4.0),
            (requests, &[r#"status="failed""#], 3.0),
            (requests, &[r#"status="rejected""#, r#"priority="low""#], 4.0),
            (requests, &[], 31.0),
            ("tollgate_request_seconds_count", &[], 31.0),
            (attempts, &[r#"outcome="succeeded""#, r#"provider="sim""#], 24.0),
            (attempts, &[r#"code="provider_overloaded""#], 4.0),
            (attempts, &[r#"code="provider_rejected""#], 3.0),
            ("tollgate_provider_call_seconds_count", &[], 31.0),
            ("tollgate_handovers_total", &[r#"next="retry""#], 4.0),
            ("tollgate_input_estimate_ratio_count", &[r#"by="bytes""#, r#"provider="sim""#], 24.0),
            ("tollgate_cost_nano_usd_total", &[r#"model="m-1""#], paid.to_string().parse().unwrap()),
            ("tollgate_ledger_folded_total", &[r#"kind="attempt""#], 31.0),
            ("tollgate_ledger_folded_total", &[r#"kind="unpaid""#], 4.0),
            ("tollgate_in_flight", &[], 0.0),
            ("tollgate_nats_connected", &[], 4.0),
        ] {
            match stage.metric(name, labels).await {
                found if found == expected => {}
                found => wrong.push(format!("{name} {labels:?}: {found}, expected {expected}")),
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    };
    eventually(PATIENCE, "metrics that agree with what was sent", agree).await;

    // Gauges are measured each second.
    eventually(PATIENCE, "the depth of the lanes", async || {
        let router = get(&format!("{}/metrics", stage.running[2].http())).await;
        router.contains("tollgate_lane_depth").then_some(())
    })
    .await;
    let documented = documented();
    assert!(documented.len() >= 20, "{documented:?}");
    let mut seen = BTreeMap::new();
    for running in &stage.running {
        let text = get(&format!("{}/metrics", running.http())).await;
        assert!(!text.contains("good 1") && !text.contains("echo:"), "content in metrics");
        seen.extend(shown(&text));
    }
    for (name, kind) in &seen {
        assert_eq!(documented.get(name), Some(kind), "{name} is not documented as it is");
    }
    for name in [
        "tollgate_requests_total",
        "tollgate_queue_wait_seconds",
        "tollgate_tokens_total",
        "tollgate_lane_depth",
        "tollgate_ledger_lag",
        "tollgate_build_info",
    ] {
        assert!(seen.contains_key(name), "{name} is not there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_good_while_all_is_well_and_says_what_is_not() {
    let mut stage = Stage::with(&[Role::Router, Role::Worker], |provider| config(provider, 8, &[TEAM])).await;
    for (running, role) in stage.running.iter().zip(["router", "worker"]) {
        let health: Value = serde_json::from_str(&get(&format!("{}/healthz", running.http())).await).unwrap();
        assert_eq!((&health["ready"], &health["nats"]["connected"]), (&true.into(), &true.into()));
        assert_eq!(health["roles"][0], serde_json::json!({"role": role, "state": "ready"}));
    }
    stage.nats.kill9();
    let url = format!("{}/healthz", stage.running[0].http());
    eventually(PATIENCE, "503", async || {
        let response = http().get(&url).send().await.map_err(|error| error.to_string())?;
        match response.status().as_u16() {
            503 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
    stage.nats.restart().await;
    eventually(PATIENCE, "200 again", async || {
        let response = http().get(&url).send().await.map_err(|error| error.to_string())?;
        match response.status().as_u16() {
            200 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
    let request = Request::chat(&Identity::new(TEAM, "g", "after"), "small", "after");
    stage.client.publish(&request).await;
    stage.client.await_response(&request.identity, PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_input_of_an_openai_model_is_counted_by_its_tokenizer() {
    use Role::{Router, Worker};
    let openai = |provider: &Provider| {
        Config::new()
            .provider("sim", &provider.base_url(), 8, &[("gpt-4o-mini", PRICE)])
            .model("small", &["sim/gpt-4o-mini"])
            .team(TEAM)
    };
    let stage = Stage::with(&[Worker, Router], openai).await;
    let live = stage.client.watch(TEAM).await;
    let request = Request::chat(&Identity::new(TEAM, "counted", "1"), "small", "hello world");
    let reported = answer_to(request.body()).tokens.input;
    stage.client.publish_all(&[request]).await;
    live.await_answered(1, PATIENCE).await;
    let of = &[r#"by="tokenizer""#, r#"provider="sim""#];
    eventually(PATIENCE, "the estimate beside what was reported", async || {
        (stage.metric("tollgate_input_estimate_ratio_count", of).await == 1.0).then_some(())
    })
    .await;
    // Two tokens of text, one for the role, three around the message and three before the answer.
    let ratio = stage.metric("tollgate_input_estimate_ratio_sum", of).await;
    let estimated = ratio * f64::from(u32::try_from(reported).unwrap());
    assert!((estimated - 9.0).abs() < 1e-6, "{estimated} tokens of {reported}");
}
