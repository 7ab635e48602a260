use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};
use tollgate_tests::http;
use tollgate_tests::money::Tokens;
use tollgate_tests::provider::{Behaviour, End, Provider, answer_to, key_of};
use tollgate_tests::wait::eventually;

const SOON: Duration = Duration::from_secs(10);

fn chat(text: &str) -> Value {
    json!({"model": "m", "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": text}]})
}

fn send(provider: &Provider, body: &Value) -> reqwest::RequestBuilder {
    http()
        .post(format!("{}/chat/completions", provider.base_url()))
        .header("content-type", "application/json")
        .header("authorization", "Bearer test-key")
        .body(body.to_string())
}

async fn answer(provider: &Provider, body: &Value) -> Value {
    let response = send(provider, body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

async fn end_of(provider: &Provider, key: &str) -> End {
    eventually(SOON, "the end of the call", async || {
        let call = provider.calls_of(key).pop()?;
        call.ended.map(|_| call.end)
    })
    .await
}

#[test]
fn the_answer_and_its_tokens_follow_from_the_request() {
    let answer = answer_to(&chat("one two three"));
    assert!(answer.text.starts_with("echo:") && answer.text.ends_with(" one two three"));
    assert_eq!(answer.tokens, Tokens { input: 5, cached_input: 0, output: 4 });
    let mut short = chat("one two three");
    short["max_tokens"] = json!(2);
    let short = answer_to(&short);
    assert_eq!((short.tokens.output, short.finish_reason), (2, "length"));
    assert!(short.text.ends_with(" one"));
    assert_ne!(answer_to(&chat("a")).text, answer_to(&chat("b")).text);
    assert_eq!(key_of(&chat("a")), "a");
    assert_eq!(
        key_of(&json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "p"}]}]})),
        "p"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_answered_and_logged() {
    let provider = Provider::start().await;
    let body = chat("hello");
    let got = answer(&provider, &body).await;

    assert_eq!(got["choices"][0]["message"]["content"], answer_to(&body).text);
    assert_eq!(got["usage"]["prompt_tokens"], 3);
    assert_eq!(got["usage"]["completion_tokens"], 2);
    let calls = provider.calls();
    assert_eq!((calls.len(), provider.total(), provider.in_flight(), provider.peak()), (1, 1, 0, 1));
    assert_eq!((calls[0].key.as_str(), calls[0].earlier, &calls[0].body), ("hello", 0, &body));
    assert_eq!(calls[0].headers["authorization"], "Bearer test-key");
    assert_eq!(end_of(&provider, "hello").await, End::Answered);
    let models = http().get(format!("{}/models", provider.base_url())).send().await.unwrap();
    assert_eq!(models.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_carries_the_same_answer() {
    let provider = Provider::start().await;
    let mut body = chat("one two three");
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let response = send(&provider, &body).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = response.text().await.unwrap();
    let events: Vec<&str> =
        text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap()).collect();
    let (done, chunks) = events.split_last().unwrap();
    let chunks: Vec<Value> = chunks.iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect();
    let content =
        |chunk: &Value| chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned();
    assert_eq!(*done, "[DONE]");
    assert_eq!(chunks.iter().map(content).collect::<String>(), answer_to(&body).text);
    assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_may_look_at_each_call() {
    let provider = Provider::start().await;
    provider.script(|call| match (call.key.as_str(), call.earlier) {
        ("flaky", 0) => Behaviour::error(503, "overloaded", Some(7)),
        _ => Behaviour::Answer,
    });
    let refused = send(&provider, &chat("flaky")).send().await.unwrap();
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (503, &"7".parse().unwrap()));
    let error: Value = serde_json::from_str(&refused.text().await.unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "overloaded");
    assert_eq!(end_of(&provider, "flaky").await, End::Refused(503));

    answer(&provider, &chat("flaky")).await;
    answer(&provider, &chat("sound")).await;
    assert_eq!(provider.calls_of("flaky")[1].earlier, 1);
    assert_eq!(provider.call_counts(), [("flaky".to_owned(), 2), ("sound".to_owned(), 1)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn latency_and_delay_add_up() {
    let provider = Provider::start().await;
    provider.latency(Duration::from_millis(60));
    provider.always(Behaviour::Delay(Duration::from_millis(60)));
    let start = Instant::now();
    answer(&provider, &chat("slow")).await;
    assert!(start.elapsed() >= Duration::from_millis(120));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_call_ends_when_the_client_leaves() {
    let provider = Provider::start().await;
    provider.always(Behaviour::Hang);
    let call = tokio::spawn(send(&provider, &chat("forever")).send());
    eventually(SOON, "the call", async || (provider.in_flight() == 1).then_some(())).await;
    assert_eq!(provider.calls()[0].end, End::Open);
    call.abort();
    assert_eq!(end_of(&provider, "forever").await, End::ClientLeft);
    assert_eq!(provider.in_flight(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_can_be_spoiled_in_many_ways() {
    let provider = Provider::start().await;

    provider.always(Behaviour::CloseBeforeResponse);
    assert!(send(&provider, &chat("closed")).send().await.is_err());
    assert_eq!(end_of(&provider, "closed").await, End::Spoiled);

    provider.always(Behaviour::TruncatedBody);
    let response = send(&provider, &chat("truncated")).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.bytes().await.is_err());

    provider.always(Behaviour::MalformedJson);
    let text = send(&provider, &chat("malformed")).send().await.unwrap().text().await.unwrap();
    assert!(serde_json::from_str::<Value>(&text).is_err());

    provider.always(Behaviour::WrongContentType);
    let response = send(&provider, &chat("html")).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/html");
    assert_eq!(end_of(&provider, "html").await, End::Spoiled);

    provider.always(Behaviour::HugeAnswer(9_000_000));
    let huge = answer(&provider, &chat("huge")).await;
    assert_eq!(huge["choices"][0]["message"]["content"].as_str().unwrap().len(), 9_000_000);
    assert_eq!(huge["usage"]["completion_tokens"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_provider_cuts_its_calls_and_comes_back_with_its_log() {
    let mut provider = Provider::start().await;
    provider.always(Behaviour::Hang);
    let call = tokio::spawn(send(&provider, &chat("cut")).send());
    eventually(SOON, "the call", async || (provider.in_flight() == 1).then_some(())).await;

    provider.stop().await;
    assert!(call.await.unwrap().is_err());
    assert!(send(&provider, &chat("refused")).send().await.unwrap_err().is_connect());

    provider.restart().await;
    provider.always(Behaviour::Answer);
    answer(&provider, &chat("back")).await;
    assert_eq!(provider.call_counts().into_keys().collect::<Vec<_>>(), ["back", "cut"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_at_once_are_each_logged_once() {
    const CALLS: usize = 5_000;
    let provider = Provider::start().await;
    let client = http();
    let url = format!("{}/chat/completions", provider.base_url());
    let start = Instant::now();
    let calls = (0..CALLS).map(|n| {
        let call = client.post(&url).body(chat(&format!("call {n}")).to_string()).send();
        async move { call.await.unwrap().bytes().await.unwrap() }
    });
    let answers = futures_util::stream::iter(calls).buffer_unordered(64).count().await;
    println!("{CALLS} calls in {:?}, {} at once", start.elapsed(), provider.peak());
    assert_eq!((answers, provider.total(), provider.in_flight()), (CALLS, CALLS, 0));
    assert!(provider.call_counts().values().all(|&count| count == 1));
    assert!(provider.peak() <= 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_peak_is_the_most_calls_at_once() {
    let provider = Provider::start().await;
    provider.always(Behaviour::Hang);
    let hanging: Vec<_> =
        (0..10).map(|n| tokio::spawn(send(&provider, &chat(&n.to_string())).send())).collect();
    eventually(SOON, "ten calls in flight", async || (provider.in_flight() == 10).then_some(())).await;
    hanging.iter().for_each(|call| call.abort());
    eventually(SOON, "none in flight", async || (provider.in_flight() == 0).then_some(())).await;
    assert_eq!((provider.peak(), provider.total()), (10, 10));
}
