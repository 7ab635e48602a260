//! A queue that is full, and a store that is: both are said, nothing that was accepted is lost, and all goes on when there
//! is room again.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::Config as Stream;
use serde_json::json;
use tollgate_tests::client::Client;
use tollgate_tests::nats::NatsServer;
use tollgate_tests::provider::{Behaviour, Provider};
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::{Broker, Role};
use tollgate_tests::wait::eventually;

use crate::cli::{end, run, start};
use crate::stage::{PATIENCE, Stage, config};

const TEAM: &str = "alpha";
const JUNK: &str = "JUNK";

fn request(team: &str, id: &str) -> Request {
    Request::chat(&Identity::new(team, "full", id), "small", &format!("full {team} {id}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_team_with_a_full_queue_is_refused_at_once_and_no_other_is() {
    let mut stage = Stage::with(&[Role::Ask, Role::Worker], |provider| {
        config(provider, 8, &[TEAM, "beta"]).raw("[queue]\nteam_requests_max = 5")
    })
    .await;
    for n in 0..5 {
        stage.client.publish(&request(TEAM, &n.to_string())).await;
    }
    let refused = stage.client.try_publish(&request(TEAM, "more")).await.expect_err("a full queue");
    assert!(format!("{refused:?}").contains("10077"), "{refused:?}");
    stage.client.publish(&request("beta", "one")).await;
    let body = json!({"model": "small", "messages": [{"role": "user", "content": "full"}]});
    let asked =
        stage.client.request("llm.ask.alpha.normal", HeaderMap::new(), &body, PATIENCE).await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&asked.payload).unwrap();
    assert_eq!(answer["error"]["code"], "queue_full", "{answer}");

    // A batch waits for room, and goes on when there is.
    let dir = tempfile::tempdir().unwrap();
    let line = json!({"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": body});
    std::fs::write(dir.path().join("in.jsonl"), format!("{line}\n")).unwrap();
    let file = dir.path().join("in.jsonl");
    let submit = start(&stage, dir.path(), &["submit", file.to_str().unwrap(), "--team", TEAM]);
    stage.start(Role::Router).await;
    let ended = end(&submit).await;
    assert_eq!(ended.code, Some(0), "{} {}", ended.stdout, ended.stderr);
    for n in 0..5 {
        stage.client.await_response(&request(TEAM, &n.to_string()).identity, PATIENCE).await;
    }
    stage.idle().await;
    stage.stop().await;
}

/// Fills the server's store until it takes nothing more.
async fn fill(jetstream: &Context) {
    jetstream
        .create_stream(Stream { name: JUNK.into(), subjects: vec!["junk".into()], ..Stream::default() })
        .await
        .unwrap();
    for size in [512 * 1024, 1024, 0] {
        eventually(PATIENCE, "a full store", async || {
            let payload = bytes::Bytes::from(vec![b'x'; size]);
            let stored = jetstream.publish("junk", payload).await.unwrap().await;
            if stored.is_err() { Ok(()) } else { Err(size) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_refuses_what_is_new_and_keeps_what_was_accepted() {
    let (nats, provider) =
        tokio::join!(NatsServer::start_sized("max_file_store: 48MB", ""), Provider::start());
    let broker = Broker::new(&config(&provider, 4, &[TEAM]), &nats.url());
    let client = Client::connect(&nats.url()).await;
    let mut stage = Stage { running: Vec::new(), broker, client, provider, nats };
    for role in [Role::Ledger, Role::Worker, Role::Router, Role::Ask] {
        stage.start(role).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["doctor", "--json"];
    let doctor = run(&stage, dir.path(), &arguments).await;
    assert_eq!(doctor.code, Some(0), "{} {}", doctor.stdout, doctor.stderr);

    stage.provider.always(Behaviour::Delay(Duration::from_millis(200)));
    let accepted: Vec<_> = (0..30).map(|n| request(TEAM, &n.to_string())).collect();
    stage.client.publish_all(&accepted).await;
    eventually(PATIENCE, "calls under way", async || {
        let calls = stage.provider.total();
        if calls >= 4 { Ok(()) } else { Err(calls) }
    })
    .await;
    fill(stage.client.jetstream()).await;

    let refused = stage.client.try_publish(&request(TEAM, "more")).await.expect_err("a full store");
    assert!(format!("{refused:?}").contains("insufficient"), "{refused:?}");
    let body = json!({"model": "small", "messages": [{"role": "user", "content": "full"}]});
    let asked =
        stage.client.request("llm.ask.alpha.normal", HeaderMap::new(), &body, PATIENCE).await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&asked.payload).unwrap();
    assert_eq!(answer["error"]["code"], "broker_unavailable", "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("store is full"), "{answer}");
    let doctor = run(&stage, dir.path(), &arguments).await;
    assert_eq!(doctor.code, Some(1), "{} {}", doctor.stdout, doctor.stderr);
    assert!(doctor.stdout.contains("it is full, and nothing is accepted"), "{}", doctor.stdout);
    let line = json!({"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": body});
    let file = dir.path().join("in.jsonl");
    std::fs::write(&file, format!("{line}\n")).unwrap();
    let submit = start(&stage, dir.path(), &["submit", file.to_str().unwrap(), "--team", TEAM]);
    eventually(PATIENCE, "the batch to say what it waits for", async || {
        let said = submit.stderr();
        if said.contains("store is full") { Ok(()) } else { Err(said) }
    })
    .await;
    assert!(submit.is_alive());
    assert!(stage.running.iter().all(tollgate_tests::roles::Running::is_alive));

    stage.client.jetstream().delete_stream(JUNK).await.unwrap();
    let ended = end(&submit).await;
    assert_eq!(ended.code, Some(0), "{} {}", ended.stdout, ended.stderr);
    for request in &accepted {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{response}");
    }
    stage.idle().await;
    assert!(
        stage.client.response(&request(TEAM, "more").identity).await.is_none(),
        "what was refused was not accepted"
    );
    let counted = eventually(PATIENCE, "the ledger's numbers", async || {
        let total = stage.client.usage_by_team().await["total"].clone();
        if total["requests"] == 31 { Ok(total) } else { Err(total) }
    })
    .await;
    assert_eq!(counted["succeeded"], 31, "{counted}");
    assert_eq!(run(&stage, dir.path(), &arguments).await.code, Some(0));
    // Nobody wrote more than a few lines about it.
    for running in &stage.running {
        let lines = running.process().stderr().lines().count();
        assert!(lines < 2_000, "{lines} lines: {}", running.process().logs());
    }
    stage.stop().await;
}

/// All requests together have a bound of their own, so that the store has room for answers.
#[tokio::test(flavor = "multi_thread")]
async fn all_queues_together_are_refused_what_the_store_is_not_to_hold() {
    let mut stage = Stage::with(&[Role::Worker], |provider| {
        config(provider, 8, &[TEAM, "beta"]).raw("[queue]\ntotal_bytes_max = 1_048_576")
    })
    .await;
    let large = |team: &str, n: usize| {
        let identity = Identity::new(team, "full", &n.to_string());
        Request::chat(&identity, "small", &format!("{n} {}", "x".repeat(300_000)))
    };
    let mut accepted = Vec::new();
    let refused = loop {
        let request = large([TEAM, "beta"][accepted.len() % 2], accepted.len());
        match stage.client.try_publish(&request).await {
            Ok(_) => accepted.push(request),
            Err(refused) => break refused,
        }
        assert!(accepted.len() < 10);
    };
    assert!(format!("{refused:?}").contains("10077"), "{refused:?}");
    assert!(accepted.len() >= 2);
    stage.start(Role::Router).await;
    for request in &accepted {
        stage.client.await_response(&request.identity, PATIENCE).await;
    }
    let more = large(TEAM, 99);
    stage.client.publish(&more).await;
    stage.client.await_response(&more.identity, PATIENCE).await;
    stage.idle().await;
    stage.stop().await;
}
