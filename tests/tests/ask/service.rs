use std::time::Duration;

use futures_util::StreamExt;
use serde_json::Value;
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use super::{TEAM, ask, ask_within, chat};
use crate::stage::{PATIENCE, Stage, config};

const HIGH: &str = "llm.ask.research.high";

/// What every service of a name says about itself.
async fn infos(stage: &Stage, name: &str) -> Vec<Value> {
    let nats = stage.client.nats();
    let inbox = nats.new_inbox();
    let mut replies = nats.subscribe(inbox.clone()).await.unwrap();
    nats.publish_with_reply(format!("$SRV.INFO.{name}"), inbox, "".into()).await.unwrap();
    nats.flush().await.unwrap();
    let mut infos = Vec::new();
    // Nobody says how many there are: those that answer before the others have had their time.
    while let Ok(Some(reply)) = tokio::time::timeout(Duration::from_millis(500), replies.next()).await {
        infos.extend(serde_json::from_slice::<Value>(&reply.payload).ok());
    }
    infos
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_the_asks_and_either_may_go() {
    use Role::{Ask, Router, Worker};
    let roles = [Ask, Ask, Worker, Router];
    let stage = Stage::with(&roles, |provider| config(provider, 8, &[TEAM])).await;
    let services = eventually(PATIENCE, "two services", async || match infos(&stage, "tollgate-ask").await {
        infos if infos.len() == 2 => Ok(infos),
        infos => Err(infos),
    })
    .await;
    for info in &services {
        assert_eq!(info["name"], "tollgate-ask");
        let subjects: Vec<_> =
            info["endpoints"].as_array().unwrap().iter().map(|end| &end["subject"]).collect();
        assert_eq!(subjects, ["llm.ask.*.*"], "{info}");
    }

    for n in 0..60 {
        ask(&stage, HIGH, &[], chat(&format!("shared {n}")).to_string()).await;
    }
    let accepted = r#"tollgate_asks_total{outcome="accepted"}"#;
    for index in [0, 1] {
        let metrics = crate::stage::get(&format!("{}/metrics", stage.running[index].http())).await;
        let count = metrics.lines().find_map(|line| line.strip_prefix(accepted)).unwrap_or_default();
        assert!(count.trim().parse::<u32>().is_ok_and(|count| count > 0), "ask {index} took nothing");
    }
    assert_eq!(stage.metric("tollgate_asks_total", &[r#"outcome="accepted""#]).await, 60.0);
    assert_eq!(stage.provider.total(), 60, "each is taken by one of them");

    stage.running[0].term();
    assert_eq!(stage.running[0].process().ended(PATIENCE).await, Some(0));
    for n in 0..10 {
        ask(&stage, HIGH, &[], chat(&format!("after {n}")).to_string()).await;
    }
    stage.running[1].term();
    assert_eq!(stage.running[1].process().ended(PATIENCE).await, Some(0));
    let alone = ask_within(&stage, HIGH, &[], chat("nobody").to_string(), PATIENCE).await;
    assert_eq!(alone.err(), Some(async_nats::RequestErrorKind::NoResponders), "the caller is told at once");
}

/// Stateless: an ask whose process died after the publish is answered all the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_comes_although_the_ask_process_is_gone() {
    use Role::{Ask, Router, Worker};
    let mut stage = Stage::with(&[Ask], |provider| config(provider, 8, &[TEAM])).await;
    let asking = ask(&stage, HIGH, &[("Tollgate-Timeout", "5m")], chat("orphan").to_string());
    let rest = async {
        eventually(PATIENCE, "the request", async || {
            (stage.client.message_count("LLM_REQ").await == 1).then_some(())
        })
        .await;
        stage.running[0].kill9();
        (stage.broker.run(Worker).await, stage.broker.run(Router).await)
    };
    let (reply, (worker, router)) = tokio::join!(asking, rest);
    assert_eq!(reply.service_error(), (None, None));
    assert_eq!(reply.header("Tollgate-Status"), Some("succeeded"));
    stage.running.extend([worker, router]);
}
