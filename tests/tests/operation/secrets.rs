//! No prompt, no answer and no key is in any log or metric, however bad things go.

use tollgate_tests::provider::Behaviour;
use tollgate_tests::request::{Encoding, Identity, Request};
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use crate::stage::{PATIENCE, Stage, config, get, provider_with};

const TEAM: &str = "research";
const PROMPT: &str = "MARKER-PROMPT-31a7";
const ANSWER: &str = "MARKER-ANSWER-77c2";
const KEY: &str = "MARKER-KEY-5d90";
const PASSWORD: &str = "MARKER-PASSWORD-c41e";

fn completion(text: &str) -> String {
    format!(
        r#"{{"choices":[{{"message":{{"role":"assistant","content":"{text}"}}}}],"usage":{{"prompt_tokens":1,"completion_tokens":1}}}}"#
    )
}

/// Good answers and bad ones, all with the marker in them.
fn behaviour(key: &str) -> Behaviour {
    let status = |status, body: String| Behaviour::Status { status, headers: Vec::new(), body };
    match key.rsplit(' ').next().unwrap_or_default() {
        "refused" => status(400, format!(r#"{{"error":{{"message":"{ANSWER} {KEY}","code":"{ANSWER}"}}}}"#)),
        "overloaded" => status(503, ANSWER.to_owned()),
        "malformed" => status(200, format!(r#"{{"choices":"{ANSWER}"}}"#)),
        "truncated" => status(200, format!(r#"{{"choices":[{{"message":"{ANSWER}"#)),
        "closed" => Behaviour::CloseBeforeResponse,
        _ => status(200, completion(ANSWER)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_confidential_is_in_logs_or_metrics() {
    let mut stage = Stage::empty(|provider| {
        config(provider, 8, &[TEAM]).raw(&provider_with(
            "keyed",
            &provider.base_url(),
            &format!("api_key = {KEY:?}"),
        ))
    })
    .await;
    stage.provider.script(|call| behaviour(&call.key));
    let loud = ["--log", "trace", "--user", "nobody", "--password", PASSWORD];
    for role in [Role::Ledger, Role::Worker, Role::Router, Role::Ask] {
        stage.running.push(stage.broker.run_with(role, &loud).await);
    }
    let kinds = ["good", "refused", "overloaded", "malformed", "truncated", "closed"];
    let mut answers = Vec::new();
    for (n, kind) in kinds.iter().cycle().take(12).enumerate() {
        let encoding = if n < 6 { Encoding::Json } else { Encoding::MessagePack };
        let identity = Identity::new(TEAM, "secrets", &n.to_string());
        let request = Request::chat(&identity, "keyed/m-1", &format!("{PROMPT} {n} {kind}"));
        // What only ever fails waits until its deadline.
        let request = request.encoding(encoding).field("ttl_ms", 4_000);
        stage.client.publish(&request).await;
        answers.push(identity);
    }
    // What is rejected is quoted by nobody either.
    for (n, field) in ["deadline", "max_cost_usd", "reply_to", "tags", "endpoint"].iter().enumerate() {
        let identity = Identity::new(TEAM, "rejected", &n.to_string());
        let request = Request::chat(&identity, "small", PROMPT).field(field, PROMPT);
        stage.client.publish(&request).await;
        answers.push(identity);
    }
    let ack =
        stage.client.try_publish_raw("llm.req.research.low", Default::default(), format!("{{{PROMPT}")).await;
    answers.push(Identity::new(TEAM, "_", &format!("seq-{}", ack.unwrap().sequence)));
    let body = format!(r#"{{"model":"keyed/m-1","messages":[{{"role":"user","content":"{PROMPT} ask"}}]}}"#);
    let asked = stage.client.nats().request("llm.ask.research.high", body.into()).await.unwrap();
    assert!(String::from_utf8_lossy(&asked.payload).contains(ANSWER), "the caller gets it");
    let mut quoted = 0;
    for identity in &answers {
        let response = stage.client.await_response(identity, PATIENCE).await.value().to_string();
        assert!(!response.contains(KEY), "a refusal that quotes our key: {response}");
        quoted += usize::from(response.contains("[api key]"));
    }
    assert_eq!(quoted, 2);
    stage.idle().await;
    let authorization = &stage.provider.calls()[0].headers["authorization"];
    assert_eq!(authorization, &format!("Bearer {KEY}"), "the provider gets it");

    let mut texts = vec![("nats-server", stage.nats.log())];
    for running in &stage.running {
        texts.push(("metrics", get(&format!("{}/metrics", running.http())).await));
        texts.push(("health", get(&format!("{}/healthz", running.http())).await));
        running.term();
    }
    for running in &stage.running {
        running.process().ended(PATIENCE).await;
        let log = running.process().stderr();
        eventually(PATIENCE, "a log that is loud", async || log.contains("DEBUG").then_some(())).await;
        texts.push(("stdout", running.process().stdout()));
        texts.push(("log", log));
    }
    // Usage and lifecycle events are for reports, which have no content either.
    for stream in ["LLM_USAGE", "LLM_EVENT"] {
        for stored in stage.client.read_stream(stream).await {
            texts
                .push((stream, format!("{:?} {}", stored.headers, String::from_utf8_lossy(&stored.payload))));
        }
    }
    for (what, text) in texts {
        for marker in [PROMPT, ANSWER, KEY, PASSWORD] {
            let line = text.lines().find(|line| line.contains(marker));
            assert!(line.is_none(), "{what} has {marker}: {}", line.unwrap_or_default());
        }
    }
}
