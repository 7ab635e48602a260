//! Dead letters: what kills its workers is buried and takes nothing else along, and a person can send it again.

use std::time::Duration;

use serde_json::Value;
use tollgate_tests::client::Client;
use tollgate_tests::config::Config;
use tollgate_tests::nats::NatsServer;
use tollgate_tests::provider::{Behaviour, Provider};
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::{Role, Server};
use tollgate_tests::wait::eventually;

use crate::stage::{PATIENCE, PRICE, Stage, config};

const TEAM: &str = "research";

fn request(id: &str) -> Request {
    Request::chat(&Identity::new(TEAM, "dead", id), "small", id)
}

fn run(stage: &Stage, arguments: &[&str]) -> (i32, Value) {
    let url = stage.nats.url();
    let arguments: Vec<&str> =
        arguments.iter().copied().chain(["--json", "--server", url.as_str()]).collect();
    let output = stage.broker.command(&arguments).output().unwrap();
    let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap_or(-1), value)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kills_its_workers_is_buried_alone() {
    let second = Duration::from_secs(1);
    let mut stage = Stage::with(&[Role::Ledger, Role::Router, Role::Worker], |provider| {
        config(provider, 8, &[TEAM]).timing(second, second)
    })
    .await;
    // Whoever calls with it dies; all that is in the same hands dies with it.
    stage.provider.script(|call| match call.key.as_str() {
        "poison" => Behaviour::Hang,
        _ => Behaviour::Delay(Duration::from_millis(300)),
    });
    let poison = request("poison");
    stage.client.publish(&poison).await;
    let mut innocent = Vec::new();
    for death in 0..5 {
        let more: Vec<_> = (0..6).map(|n| request(&format!("innocent-{death}-{n}"))).collect();
        eventually(PATIENCE, "a call that kills", async || match stage.provider.calls_of("poison").len() {
            calls if calls > death => Ok(()),
            calls => Err(calls),
        })
        .await;
        stage.client.publish_all(&more).await;
        eventually(PATIENCE, "others in the same hands", async || {
            (stage.provider.in_flight() > 1).then_some(())
        })
        .await;
        stage.running[2].kill9();
        stage.running[2].restart().await;
        innocent.extend(more);
    }
    let response = stage.client.await_response(&poison.identity, PATIENCE).await.value();
    assert_eq!((&response["status"], &response["error"]["code"]), (&"failed".into(), &"attempt_lost".into()));
    assert_eq!(response["attempts"].as_array().unwrap().len(), 5);
    for request in &innocent {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{response}");
    }
    stage.idle().await;

    let id = poison.identity.to_string();
    let list = eventually(PATIENCE, "one dead letter", async || {
        let (_, list) = run(&stage, &["dlq", "list"]);
        if list["letters"] == 1 { Ok(list) } else { Err(list.to_string()) }
    })
    .await;
    let cluster = &list["clusters"][0];
    assert_eq!((&cluster["code"], &cluster["reason"]), (&"attempt_lost".into(), &"poison".into()), "{list}");
    let (_, letter) = run(&stage, &["dlq", "show", &id]);
    assert_eq!(letter["attempts"].as_array().unwrap().len(), 5, "with its whole history: {letter}");
    assert!(!letter.to_string().contains("messages"), "without its content");

    // A canary that fails leaves the letter's successor as it is; one that succeeds is through.
    stage.provider.always(Behaviour::Answer);
    let (code, replayed) = run(&stage, &["dlq", "replay", "--canary", "1"]);
    assert_eq!((code, &replayed["failed_canaries"]), (0, &0.into()), "{replayed}");
    let again = replayed["sent"][0]["request"].as_str().unwrap();
    assert_ne!(again, id);
    let (code, shown) = run(&stage, &["show", again]);
    assert_eq!((code, &shown["status"]), (0, &"succeeded".into()), "{shown}");
    assert_eq!(run(&stage, &["dlq", "list"]).1["letters"], 0);
}

/// The letter of a worker that died before it wrote it is written by the router that removes the message, with its body.
#[tokio::test(flavor = "multi_thread")]
async fn a_letter_with_a_large_body_is_stored_although_its_worker_died() {
    let second = Duration::from_secs(1);
    let other = Provider::start().await;
    let teams = |config: Config| {
        config
            .timing(second, second)
            .provider("other", &other.base_url(), 16, &[("o-1", PRICE)])
            .model("other", &["other/o-1"])
    };
    let mut stage = Stage::with(&[Role::Ledger, Role::Router, Role::Worker], |provider| {
        teams(config(provider, 8, &[TEAM]))
    })
    .await;
    stage.provider.always(Behaviour::Hang);
    let text = format!("large {}", "x".repeat(1_000_000));
    let poison = Request::chat(&Identity::new(TEAM, "dead", "large"), "small", &text);
    stage.client.publish(&poison).await;
    for death in 0..5 {
        eventually(PATIENCE, "a call that kills", async || match stage.provider.total() {
            calls if calls > death => Ok(()),
            calls => Err(calls),
        })
        .await;
        stage.running[2].kill9();
        stage.running[2].restart_at(Some("worker.answered:1:kill"));
    }
    stage.client.await_response(&poison.identity, PATIENCE).await;
    eventually(PATIENCE, "the death of the worker that would bury it", async || {
        (!stage.running[2].is_alive()).then_some(())
    })
    .await;
    assert_eq!(stage.client.message_count("LLM_DEAD").await, 0);
    // Its provider is taken out of the configuration: no worker gets the message again.
    stage.broker.configure(&teams(Config::new().team(TEAM)));
    stage.running[1].term();
    stage.running[1].process().ended(PATIENCE).await;
    stage.running[1].restart().await;
    eventually(PATIENCE, "a dead letter", async || {
        (stage.client.message_count("LLM_DEAD").await == 1).then_some(())
    })
    .await;
    eventually(PATIENCE, "and it is told, once", async || {
        let events = stage.client.read_stream("LLM_EVENT").await;
        match events.iter().filter(|event| event.subject == format!("llm.event.{TEAM}.dead")).count() {
            1 => Ok(()),
            count => Err(count),
        }
    })
    .await;
    // What was put aside is no longer needed.
    stage.client.jetstream().delete_stream("OBJ_llm_blobs").await.unwrap();
    stage.provider.always(Behaviour::Answer);
    stage.broker.configure(&teams(config(&stage.provider, 8, &[TEAM])));
    stage.running[1].kill9();
    stage.running[1].restart().await;
    stage.running[2].restart_at(None);
    let (code, replayed) = run(&stage, &["dlq", "replay"]);
    assert_eq!(code, 0, "{replayed}");
    eventually(PATIENCE, "the whole request at the provider", async || {
        let calls = stage.provider.calls();
        calls.iter().skip(5).any(|call| call.body["messages"][0]["content"] == text.as_str()).then_some(())
    })
    .await;
}

/// Has others answered for ever: what fails meanwhile is not the provider's fault.
async fn others(client: &Client, lane: usize) {
    for n in 0.. {
        let other = request(&format!("fine-{lane}-{n}"));
        client.publish(&other).await;
        client.await_response(&other.identity, PATIENCE).await;
    }
}

/// A request that just fits into a message does not any more with the history of its calls.
#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_is_too_large_is_stored_without_its_body() {
    const PAYLOAD_MAX: usize = 1024 * 1024;
    let nats = NatsServer::start_with(&format!("max_payload: {PAYLOAD_MAX}")).await;
    let config = |provider: &Provider| config(provider, 16, &[TEAM]).raw("[retry]\nbackoff_max_ms = 100\n");
    let mut stage = Stage::empty_on(nats, config).await;
    stage.running.push(stage.broker.up(Server::Given, &[]).await);
    let text = "x".repeat(PAYLOAD_MAX - 600);
    let key = text.clone();
    stage.provider.script(move |call| match call.key == key {
        true => Behaviour::error(500, "server_error", None),
        false => Behaviour::Answer,
    });
    let fails = Request::chat(&Identity::new(TEAM, "dead", "large"), "small", &text);
    stage.client.publish(&fails).await;
    let letter = async {
        let response = stage.client.await_response(&fails.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "failed", "{response}");
        eventually(PATIENCE, "a dead letter", async || {
            stage.client.read_stream("LLM_DEAD").await.into_iter().next()
        })
        .await
    };
    let others = futures_util::future::join_all((0..3).map(|lane| others(&stage.client, lane)));
    let letter = tokio::select! {
        _ = others => unreachable!("they go on for ever"),
        letter = letter => letter,
    };
    assert!(letter.payload.len() < 100_000, "{} bytes, without its body", letter.payload.len());
    let (code, shown) = run(&stage, &["dlq", "show", &fails.identity.to_string()]);
    assert_eq!(
        (code, shown["attempts"].as_array().map(Vec::len).unwrap_or_default() > 1),
        (0, true),
        "{shown}"
    );
    // Its body is where it was put aside, and it can be sent again.
    let before = stage.provider.calls_of(&text).len();
    stage.provider.always(Behaviour::Answer);
    let (code, replayed) = run(&stage, &["dlq", "replay"]);
    assert_eq!(code, 0, "{replayed}");
    eventually(PATIENCE, "the whole request at the provider", async || {
        (stage.provider.calls_of(&text).len() > before).then_some(())
    })
    .await;
    stage.stop().await;
}
