//! Every way in which a call can fail, through the real path: what is tried again, how often, and what the client learns.

use serde_json::{Value, json};
use tollgate_tests::check::Expected;
use tollgate_tests::client::Client;
use tollgate_tests::config::Config;
use tollgate_tests::provider::{Behaviour, Provider, answer_to};
use tollgate_tests::request::{Encoding, Identity, Request};
use tollgate_tests::wait::eventually;

use crate::stage::{PATIENCE, PRICE, Stage, TARGET, config, provider_with};

const TEAM: &str = "research";

/// More than a message may have.
const HUGE: usize = 9_000_000;

/// A failure: its name, what the provider does, the code, and how many calls are made for it while others are answered.
struct Row(&'static str, Behaviour, &'static str, usize);

fn rows() -> Vec<Row> {
    let error = |status, code: &str| Behaviour::error(status, code, None);
    let plain = |status, body: &str| Behaviour::Status { status, headers: Vec::new(), body: body.to_owned() };
    vec![
        Row("400", error(400, "bad_request"), "provider_rejected", 1),
        Row("413", plain(413, ""), "provider_rejected", 1),
        Row("422", error(422, "unprocessable"), "provider_rejected", 1),
        Row("too-long", error(400, "context_length_exceeded"), "context_too_long", 1),
        Row("policy", error(400, "content_policy_violation"), "content_policy", 1),
        Row("401", error(401, "invalid_api_key"), "provider_unauthorized", 3),
        Row("403", plain(403, "<html>"), "provider_unauthorized", 3),
        Row("402", error(402, "payment"), "provider_out_of_credit", 3),
        Row("quota", error(429, "insufficient_quota"), "provider_out_of_credit", 3),
        Row("404", error(404, "model_not_found"), "provider_unknown_model", 1),
        Row("408", plain(408, ""), "provider_overloaded", 8),
        Row("500", plain(500, "oops"), "provider_overloaded", 8),
        Row("503", error(503, "overloaded"), "provider_overloaded", 8),
        Row("529", plain(529, ""), "provider_overloaded", 8),
        Row("closed", Behaviour::CloseBeforeResponse, "provider_unavailable", 5),
        Row("truncated", Behaviour::TruncatedBody, "provider_truncated", 3),
        Row("half-of-JSON", Behaviour::MalformedJson, "provider_truncated", 3),
        Row("HTML", Behaviour::WrongContentType, "provider_malformed", 3),
        Row("302", plain(302, ""), "provider_malformed", 3),
        Row("no-choices", plain(200, r#"{"choices":[]}"#), "provider_malformed", 3),
        Row("an-array", plain(200, "[1]"), "provider_malformed", 3),
        Row("nothing", plain(200, ""), "provider_truncated", 3),
        Row("silence", Behaviour::Hang, "provider_timeout", 3),
        Row("huge", Behaviour::HugeAnswer(HUGE), "response_too_large", 1),
    ]
}

/// Each row has a model of its own, so that no row takes the target of another one down.
fn model_of(name: &str) -> String {
    format!("m-{name}")
}

fn request(name: &str) -> Request {
    let model = format!("sim/{}", model_of(name));
    Request::chat(&Identity::new(TEAM, "terminal", name), &model, name)
}

fn with_models(provider: &Provider) -> Config {
    let names: Vec<String> = rows().iter().map(|row| model_of(row.0)).collect();
    let mut models: Vec<_> = names.iter().map(|name| (name.as_str(), PRICE)).collect();
    models.push(("m-1", PRICE));
    Config::new()
        .provider("sim", &provider.base_url(), 200, &models)
        .raw("[providers.sim.timeouts]\nconnect_ms = 1000\ntotal_ms = 1000\n")
        .raw("[retry]\nbackoff_max_ms = 100\n")
        .model("small", &[TARGET])
        .team(TEAM)
}

/// Has others answered by this model, for ever: what fails meanwhile is not the provider's fault.
async fn others(client: &Client, name: &str, lane: usize) {
    for n in 0.. {
        let identity = Identity::new(TEAM, "others", &format!("{name}-{lane}-{n}"));
        let model = format!("sim/{}", model_of(name));
        client.publish(&Request::chat(&identity, &model, "fine")).await;
        client.await_response(&identity, PATIENCE).await;
    }
}

/// What a failed response must say, whatever the code.
fn check(name: &str, response: &Value, code: &str, calls: usize) {
    let error = &response["error"];
    assert_eq!((&response["status"], &error["code"]), (&"failed".into(), &code.into()), "{name}: {response}");
    assert!(response.get("body").is_none_or(Value::is_null), "{name}");
    assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{name}");
    let attempts = response["attempts"].as_array().unwrap();
    for (index, attempt) in attempts.iter().enumerate() {
        assert_eq!((&attempt["number"], &attempt["outcome"]), (&(index + 1).into(), &"failed".into()));
        assert_eq!(attempt["code"], code, "{name}");
    }
    // A call during which nobody else was answered is not held against the request.
    let counted = attempts.iter().filter(|attempt| attempt["excused"] != true).count();
    assert_eq!(counted, calls, "{name}: {response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_ends_in_its_code() {
    let stage = Stage::up(with_models).await;
    stage.provider.script(|call| {
        let row = rows().into_iter().find(|row| row.0 == call.key);
        row.map_or(Behaviour::Answer, |row| row.1)
    });
    let lanes = rows().into_iter().flat_map(|row| (0..3).map(move |lane| (row.0, lane)));
    let answered = lanes.map(|(name, lane)| others(&stage.client, name, lane));
    tokio::select! {
        _ = futures_util::future::join_all(answered) => unreachable!("they go on for ever"),
        () = failures_end(&stage) => {}
    }
}

async fn failures_end(stage: &Stage) {
    let requests: Vec<_> = rows().iter().map(|row| request(row.0)).collect();
    stage.client.publish_all(&requests).await;
    for (Row(name, _, code, calls), request) in rows().into_iter().zip(&requests) {
        let stored = stage.client.await_response(&request.identity, PATIENCE).await;
        let response = stored.value();
        check(name, &response, code, calls);
        assert_eq!(stored.header("Tollgate-Error-Code"), Some(code));
        let attempts = response["attempts"].as_array().unwrap();
        assert_eq!(stage.provider.calls_of(name).len(), attempts.len(), "{name}");
        let cost = response["cost_nano_usd"].as_i64().map(i128::from).unwrap();
        if name == "huge" {
            // It was paid for, and the ledger must know it: one word of output.
            let mut tokens = answer_to(request.body()).tokens;
            tokens.output = 1;
            assert_eq!(cost, PRICE.cost(tokens));
        } else {
            // What was refused costs nothing. What broke may have been charged: that is an estimate, and says so.
            let may_be_paid =
                ["provider_unavailable", "provider_malformed", "provider_truncated", "provider_timeout"]
                    .contains(&code);
            assert!(attempts.iter().all(|attempt| attempt["estimated"] == may_be_paid), "{name}: {response}");
            assert_eq!(cost > 0, may_be_paid, "{name}: {response}");
        }
        // A dead letter is what failed again and again while others were answered.
        let subject = format!("llm.dead.{}", request.identity);
        eventually(PATIENCE, &format!("{name}: a dead letter, or none"), async || {
            let dead = stage.client.read_stream("LLM_DEAD").await;
            let is_dead = dead.iter().any(|letter| letter.subject == subject);
            (is_dead == (calls > 1)).then_some(())
        })
        .await;
    }
}

/// A 429 is flow control: it never fails a request, and only its deadline ends the wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_only_throttles_is_waited_for() {
    let stage = Stage::up(|provider| config(provider, 16, &[TEAM])).await;
    let live = stage.client.watch(TEAM).await;
    stage.provider.script(|call| match call.earlier {
        0..12 => Behaviour::error(429, "rate_limit_exceeded", None),
        _ => Behaviour::Answer,
    });
    let request = Request::chat(&Identity::new(TEAM, "terminal", "429"), "small", "429");
    stage.client.publish(&request).await;
    let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
    assert_eq!(response["status"], "succeeded", "{response}");
    assert_eq!(response["attempts"].as_array().unwrap().len(), 13);
    stage.settled(&[Expected::answered(&request)], &[&live]).await.assert_clean();
}

/// JSON is JSON, whatever a proxy calls it.
#[tokio::test(flavor = "multi_thread")]
async fn a_completion_with_another_content_type_is_an_answer() {
    let stage = Stage::up(|provider| config(provider, 16, &[TEAM])).await;
    let body = json!({"model": "m-1", "choices": [{"message": {"role": "assistant", "content": "fine"}}],
                      "usage": {"prompt_tokens": 2, "completion_tokens": 1}});
    stage.provider.always(Behaviour::Status {
        status: 200,
        headers: vec![("content-type".to_owned(), "text/plain".to_owned())],
        body: body.to_string(),
    });
    for encoding in [Encoding::Json, Encoding::MessagePack] {
        let identity = Identity::new(TEAM, "terminal", &format!("{encoding:?}"));
        let request = Request::chat(&identity, "small", "text").encoding(encoding);
        stage.client.publish(&request).await;
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!((&response["status"], &response["body"]), (&"succeeded".into(), &body));
        // 2 · $0.15 and 1 · $0.60 per million.
        assert_eq!(response["cost_nano_usd"], 900);
    }
}

/// What no call can have used is not believed: it would outweigh everybody else's in every sum.
#[tokio::test(flavor = "multi_thread")]
async fn absurd_counts_are_estimated_instead() {
    let stage = Stage::up(|provider| config(provider, 16, &[TEAM])).await;
    let body = json!({"model": "m-1", "choices": [{"message": {"role": "assistant", "content": "fine"}}],
                      "usage": {"prompt_tokens": 2, "completion_tokens": 18_000_000_000_000_000_000_u64}});
    stage.provider.always(Behaviour::Status { status: 200, headers: Vec::new(), body: body.to_string() });
    let request = Request::chat(&Identity::new(TEAM, "terminal", "absurd"), "small", "text");
    stage.client.publish(&request).await;
    let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
    assert_eq!((&response["status"], &response["body"]), (&"succeeded".into(), &body));
    assert_eq!(response["attempts"][0]["estimated"], true);
    assert!((1..1_000).contains(&response["usage"]["output_tokens"].as_u64().unwrap()), "{response}");
    assert!((1..1_000_000).contains(&response["cost_nano_usd"].as_i64().unwrap()), "{response}");
}

/// A provider that is not there fails nothing before its deadline, and the answer says what was waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_down_is_waited_for_until_the_deadline() {
    let nobody = format!("http://127.0.0.1:{}/v1", tollgate_tests::port::free_port());
    let stage = Stage::up(|provider| {
        config(provider, 16, &[TEAM])
            .raw(&provider_with("nobody", &nobody, ""))
            .raw("[retry]\nbackoff_max_ms = 100\n")
    })
    .await;
    let request = |id: &str, model| {
        Request::chat(&Identity::new(TEAM, "terminal", id), model, id).field("ttl_ms", 3_000)
    };
    let requests: Vec<_> = (0..8).map(|n| request(&format!("nobody-{n}"), "nobody/m-1")).collect();
    stage.client.publish_all(&requests).await;
    for request in &requests {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        let error = &response["error"];
        assert_eq!((&response["status"], &error["code"]), (&"expired".into(), &"deadline_exceeded".into()));
        assert_eq!(error["retryable"], true);
        assert!(response["timing"]["total_ms"].as_u64().unwrap() >= 3_000, "{response}");
        let attempts = response["attempts"].as_array().unwrap();
        assert!(attempts.iter().all(|attempt| attempt["code"] == "provider_unavailable"), "{response}");
        assert!(attempts.iter().all(|attempt| attempt["cost_nano_usd"] == 0), "nothing was sent: {response}");
        if !attempts.is_empty() {
            assert!(error["message"].as_str().unwrap().contains("provider_unavailable"), "{response}");
        }
    }
    // A deadline cuts a call that its provider would have been given more time for.
    stage.provider.always(Behaviour::Hang);
    let late = request("late", "small").field("ttl_ms", 400);
    stage.client.publish(&late).await;
    let response = stage.client.await_response(&late.identity, PATIENCE).await.value();
    assert_eq!(
        (&response["status"], &response["error"]["code"]),
        (&"expired".into(), &"deadline_exceeded".into()),
        "{response}"
    );
}
