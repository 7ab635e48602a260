//! Every way in which a call can fail ends in its documented code.

use serde_json::{Value, json};
use tollgate_tests::check::Expected;
use tollgate_tests::provider::{Behaviour, answer_to};
use tollgate_tests::request::{Encoding, Identity, Request};

use crate::stage::{PATIENCE, PRICE, Stage, config, provider_with};

const TEAM: &str = "research";

/// More than a message may have.
const HUGE: usize = 9_000_000;

/// A failure: its name, what the provider does, the code, and how often it is called for it.
struct Row(&'static str, Behaviour, &'static str, usize);

fn rows() -> Vec<Row> {
    let error = |status, code: &str| Behaviour::error(status, code, None);
    let plain = |status, body: &str| Behaviour::Status { status, headers: Vec::new(), body: body.to_owned() };
    vec![
        Row("400", error(400, "bad_request"), "provider_rejected", 1),
        Row("413", plain(413, ""), "provider_rejected", 1),
        Row("422", error(422, "unprocessable"), "provider_rejected", 1),
        Row("too long", error(400, "context_length_exceeded"), "context_too_long", 1),
        Row("policy", error(400, "content_policy_violation"), "content_policy", 1),
        Row("401", error(401, "invalid_api_key"), "provider_unauthorized", 1),
        Row("403", plain(403, "<html>"), "provider_unauthorized", 1),
        Row("402", error(402, "payment"), "provider_out_of_credit", 1),
        Row("quota", error(429, "insufficient_quota"), "provider_out_of_credit", 1),
        Row("404", error(404, "model_not_found"), "provider_unknown_model", 1),
        Row("429", error(429, "rate_limit_exceeded"), "provider_throttled", 3),
        Row("408", plain(408, ""), "provider_overloaded", 3),
        Row("500", plain(500, "oops"), "provider_overloaded", 3),
        Row("503", error(503, "overloaded"), "provider_overloaded", 3),
        Row("529", plain(529, ""), "provider_overloaded", 3),
        Row("closed", Behaviour::CloseBeforeResponse, "provider_unavailable", 3),
        Row("truncated", Behaviour::TruncatedBody, "provider_truncated", 3),
        Row("half of JSON", Behaviour::MalformedJson, "provider_truncated", 3),
        Row("HTML", Behaviour::WrongContentType, "provider_malformed", 3),
        Row("huge", Behaviour::HugeAnswer(HUGE), "response_too_large", 1),
    ]
}

/// What the scripted provider counts as good, since it is not refused, and nobody can use.
fn unusable() -> Vec<Row> {
    let plain = |status, body: &str| Behaviour::Status { status, headers: Vec::new(), body: body.to_owned() };
    vec![
        Row("302", plain(302, ""), "provider_malformed", 3),
        Row("no choices", plain(200, r#"{"choices":[]}"#), "provider_malformed", 3),
        Row("an array", plain(200, "[1]"), "provider_malformed", 3),
        Row("nothing", plain(200, ""), "provider_truncated", 3),
    ]
}

fn request(name: &str) -> Request {
    let id: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    Request::chat(&Identity::new(TEAM, "terminal", &id), "small", name)
}

/// What a failed response must say, whatever the code.
fn check(name: &str, response: &Value, code: &str, calls: usize) {
    let error = &response["error"];
    assert_eq!((&response["status"], &error["code"]), (&"failed".into(), &code.into()), "{name}: {response}");
    assert!(response.get("body").is_none_or(Value::is_null), "{name}");
    assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{name}");
    let attempts = response["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), calls, "{name}: {response}");
    for (index, attempt) in attempts.iter().enumerate() {
        assert_eq!((&attempt["number"], &attempt["outcome"]), (&(index + 1).into(), &"failed".into()));
        assert_eq!(attempt["code"], code, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_ends_in_its_code() {
    let stage = Stage::up(|provider| config(provider, 16, &[TEAM])).await;
    let live = stage.client.watch(TEAM).await;
    stage.provider.script(|call| {
        let row = rows().into_iter().find(|row| row.0 == call.key);
        row.map_or(Behaviour::Answer, |row| row.1)
    });
    let requests: Vec<_> = rows().iter().map(|row| request(row.0)).collect();
    stage.client.publish_all(&requests).await;

    for (Row(name, _, code, calls), request) in rows().into_iter().zip(&requests) {
        let stored = stage.client.await_response(&request.identity, PATIENCE).await;
        let response = stored.value();
        check(name, &response, code, calls);
        assert_eq!(stored.header("Tollgate-Error-Code"), Some(code));
        assert_eq!(stage.provider.calls_of(name).len(), calls, "{name}");
        let cost = response["cost_nano_usd"].as_i64().map(i128::from).unwrap();
        if name == "huge" {
            // It was paid for, and the ledger must know it: one word of output.
            let mut tokens = answer_to(request.body()).tokens;
            tokens.output = 1;
            assert_eq!(cost, PRICE.cost(tokens));
        } else {
            // What was refused costs nothing. What broke may have been charged: that is an estimate, and says so.
            let may_be_paid =
                ["provider_unavailable", "provider_malformed", "provider_truncated"].contains(&code);
            let attempts = response["attempts"].as_array().unwrap();
            assert!(attempts.iter().all(|attempt| attempt["estimated"] == may_be_paid), "{name}: {response}");
            assert_eq!(cost > 0, may_be_paid, "{name}: {response}");
        }
    }
    let expected: Vec<_> = requests.iter().map(|request| Expected::ended(request, "failed")).collect();
    stage.settled(&expected, &[&live]).await.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_can_use_is_a_failure() {
    let stage = Stage::up(|provider| config(provider, 16, &[TEAM])).await;
    stage.provider.script(|call| unusable().into_iter().find(|row| row.0 == call.key).unwrap().1);
    let requests: Vec<_> = unusable().iter().map(|row| request(row.0)).collect();
    stage.client.publish_all(&requests).await;
    for (Row(name, _, code, calls), request) in unusable().into_iter().zip(&requests) {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        check(name, &response, code, calls);
        assert_eq!(stage.provider.calls_of(name).len(), calls, "{name}");
    }
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
        let request = request(&format!("{encoding:?}")).encoding(encoding);
        stage.client.publish(&request).await;
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!((&response["status"], &response["body"]), (&"succeeded".into(), &body));
        // 2 · $0.15 and 1 · $0.60 per million.
        assert_eq!(response["cost_nano_usd"], 900);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_and_nobody_at_all_have_codes_too() {
    let nobody = format!("http://127.0.0.1:{}/v1", tollgate_tests::port::free_port());
    let stage = Stage::up(|provider| {
        let timeouts = "timeouts = { connect_ms = 300, total_ms = 300 }";
        config(provider, 16, &[TEAM])
            .raw(&provider_with("silent", &provider.base_url(), timeouts))
            .raw(&provider_with("nobody", &nobody, ""))
    })
    .await;
    stage.provider.always(Behaviour::Hang);
    for (model, code, calls) in
        [("silent/m-1", "provider_timeout", 3), ("nobody/m-1", "provider_unavailable", 0)]
    {
        let id = model.replace('/', "-");
        let request = Request::chat(&Identity::new(TEAM, "terminal", &id), model, model);
        stage.client.publish(&request).await;
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        check(model, &response, code, 3);
        assert_eq!(stage.provider.calls_of(model).len(), calls);
        assert_eq!(response["error"]["retryable"], true);
    }
    // A deadline cuts a call that its provider would have been given more time for.
    let request = Request::chat(&Identity::new(TEAM, "terminal", "late"), "small", "late");
    stage.client.publish(&request.clone().field("ttl_ms", 400)).await;
    let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
    assert_eq!(
        (&response["status"], &response["error"]["code"]),
        (&"expired".into(), &"deadline_exceeded".into()),
        "{response}"
    );
}
