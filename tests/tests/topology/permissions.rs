//! A publish that permissions do not cover is dropped by the server without a reply. Whoever waits for one must say so.

use std::time::Duration;

use tollgate_tests::client::Client;
use tollgate_tests::config::Config;
use tollgate_tests::nats::NatsServer;
use tollgate_tests::process::Process;
use tollgate_tests::provider::Provider;
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::{Broker, Role, Running};
use tollgate_tests::wait::eventually;

use crate::stage::{PATIENCE, config, get};

const TEAM: &str = "research";

/// The operator may do everything; `weak` may not publish to these subjects.
async fn server(denied: &str) -> NatsServer {
    NatsServer::start_with(&format!(
        "accounts {{ APP: {{ jetstream: enabled, users: [\n\
         {{ user: operator, password: right }}\n\
         {{ user: weak, password: weak, permissions: {{ publish: {{ deny: [{denied}] }} }} }}\n\
         ] }} }}\nno_auth_user: operator"
    ))
    .await
}

/// What a killed role had in hand is soon taken up by the next.
fn quick(provider: &Provider) -> Config {
    let second = Duration::from_secs(1);
    config(provider, 8, &[TEAM]).timing(second, second)
}

const WEAK: [&str; 4] = ["--user", "weak", "--password", "weak"];

/// Waits until the role's log has one line with all of these.
async fn said(running: &Running, parts: &[&str]) {
    eventually(PATIENCE, &format!("a line with {parts:?}"), async || {
        let log = running.process().stderr();
        let found = log.lines().any(|line| parts.iter().all(|part| line.contains(part)));
        if found { Ok(()) } else { Err(log) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_may_not_write_the_record_says_so_and_makes_no_call() {
    let (nats, provider) = tokio::join!(server("\"llm.run.>\""), Provider::start());
    let broker = Broker::new(&quick(&provider), &nats.url());
    let client = Client::connect(&nats.url()).await;
    let _router = broker.run(Role::Router).await;
    let worker = broker.run_with(Role::Worker, &WEAK).await;
    let request = Request::chat(&Identity::new(TEAM, "g", "Forbidden"), "small", "forbidden");
    client.publish(&request).await;

    // One line that a person can act on: which request, and which permission.
    said(&worker, &["cannot be written", "no permission", "llm.run.research.g.Forbidden"]).await;
    eventually(PATIENCE, "the violation in /healthz", async || {
        let health = get(&format!("{}/healthz", worker.http())).await;
        let shown = health.contains("Permissions Violation") && health.contains("llm.run.");
        if shown { Ok(()) } else { Err(health) }
    })
    .await;
    assert_eq!(provider.total(), 0, "a call without a claim");
    assert!(client.response(&request.identity).await.is_none());

    // Nothing is lost: a worker that may goes on.
    drop(worker);
    let _worker = broker.run(Role::Worker).await;
    let response = client.await_response(&request.identity, PATIENCE).await.value();
    assert_eq!((response["status"].as_str(), provider.total()), (Some("succeeded"), 1));
}

/// An answer that was paid for is kept until it can be stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_may_not_store_answers_says_so_and_pays_once() {
    let (nats, provider) = tokio::join!(server("\"llm.res.>\""), Provider::start());
    let broker = Broker::new(&quick(&provider), &nats.url());
    let client = Client::connect(&nats.url()).await;
    let _router = broker.run(Role::Router).await;
    let worker = broker.run_with(Role::Worker, &WEAK).await;
    let request = Request::chat(&Identity::new(TEAM, "g", "Paid"), "small", "paid");
    client.publish(&request).await;
    said(&worker, &["may not publish", "llm.res.research.g.Paid"]).await;
    // It says so each time it tries again, so three times are long after the first.
    eventually(PATIENCE, "the third try", async || {
        (worker.process().stderr().matches("may not publish").count() >= 3).then_some(())
    })
    .await;
    assert_eq!(provider.total(), 1, "paid again because the answer could not be stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_may_not_dispatch_or_reject_says_so() {
    let (nats, provider) = tokio::join!(server("\"llm.dispatch.>\", \"llm.res.>\""), Provider::start());
    let broker = Broker::new(&quick(&provider), &nats.url());
    let client = Client::connect(&nats.url()).await;
    let router = broker.run_with(Role::Router, &WEAK).await;
    let good = Request::chat(&Identity::new(TEAM, "g", "good"), "small", "good");
    let bad = Request::chat(&Identity::new(TEAM, "g", "bad"), "no-such-model", "bad");
    client.publish_all(&[good.clone(), bad.clone()]).await;
    said(&router, &["does not take messages", "no permission", "llm.dispatch.sim.normal"]).await;
    said(&router, &["cannot be stored", "no permission", "llm.res.research.g.bad"]).await;

    drop(router);
    let _rest = (broker.run(Role::Router).await, broker.run(Role::Worker).await);
    for (request, status) in [(&good, "succeeded"), (&bad, "rejected")] {
        let response = client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_set_up_streams_does_not_start_and_says_why() {
    let (nats, provider) = tokio::join!(server("\"$JS.API.>\""), Provider::start());
    let broker = Broker::new(&quick(&provider), &nats.url());
    let config = broker.config_path().display().to_string();
    let url = nats.url();
    let arguments = ["run", "router", "--config", &config, "--server", &url, "--listen", "127.0.0.1:0"];
    let arguments: Vec<&str> = arguments.iter().chain(&WEAK).copied().collect();
    let dir = tempfile::tempdir().unwrap();
    let process = Process::spawn("router", broker.command(&arguments), dir.path());
    let code = process.ended(PATIENCE).await;
    let said = process.stderr();
    assert_eq!(code, Some(3), "{said}");
    let last = said.lines().last().unwrap_or_default();
    assert!(last.contains("LLM_REQ") && last.contains("Permissions Violation"), "{said}");
}
