use std::time::Duration;

use serde_json::{Value, json};
use tollgate_tests::check::Expected;
use tollgate_tests::provider::{Behaviour, answer_to};
use tollgate_tests::request::{Encoding, Identity, Request, encode};

use super::{TEAM, ask, chat};
use crate::stage::{PATIENCE, PRICE, Stage, config};

const HIGH: &str = "llm.ask.research.high";

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_body_gets_a_bare_completion_and_an_envelope_an_envelope() {
    let stage = Stage::up(|provider| config(provider, 8, &[TEAM])).await;
    let bare = ask(&stage, HIGH, &[], chat("one two three").to_string()).await;
    let answer = answer_to(&chat("one two three"));
    assert_eq!(bare.text(), answer.text);
    assert_eq!(bare.value["object"], "chat.completion", "nothing of the broker's is around it");
    assert!(bare.value.get("status").is_none());
    assert_eq!(bare.service_error(), (None, None));
    let cost = PRICE.cost(answer.tokens).to_string();
    for (name, expected) in [
        ("Tollgate-Status", "succeeded"),
        ("Tollgate-Group", "_"),
        ("Tollgate-Cost-Nano-Usd", &cost),
        ("Tollgate-Provider", "sim"),
        ("Tollgate-Model", "m-1"),
        ("Content-Type", "application/json"),
    ] {
        assert_eq!(bare.header(name), Some(expected), "{name}");
    }
    // Durable underneath: the same answer is stored as an envelope, under the id of the reply.
    let identity = Identity::new(TEAM, "_", bare.header("Tollgate-Id").unwrap());
    let stored = stage.client.await_response(&identity, PATIENCE).await.value();
    assert_eq!((&stored["body"], &stored["status"]), (&bare.value, &"succeeded".into()));

    for encoding in [Encoding::Json, Encoding::MessagePack] {
        let id = format!("{encoding:?}");
        let request = Request::chat(&Identity::new(TEAM, "asked", &id), "small", &id).encoding(encoding);
        let kind = match encoding {
            Encoding::Json => "application/json",
            Encoding::MessagePack => "application/msgpack",
        };
        let reply = ask(&stage, HIGH, &[("Content-Type", kind)], request.payload()).await;
        assert_eq!(reply.header("Content-Type"), Some(kind));
        assert_eq!((&reply.value["id"], &reply.value["group"]), (&id.clone().into(), &"asked".into()));
        assert_eq!(reply.value["body"]["choices"][0]["message"]["content"], answer_to(request.body()).text);
        let stored = stage.client.await_response(&request.identity, PATIENCE).await;
        assert_eq!(stored.value(), reply.value);
    }
    // And a bare body in MessagePack gets one back.
    let packed = encode(&chat("packed"), Encoding::MessagePack);
    let reply = ask(&stage, HIGH, &[("Content-Type", "application/msgpack")], packed).await;
    assert_eq!(reply.text(), answer_to(&chat("packed")).text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ask_is_counted_and_paid_like_any_request() {
    let stage = Stage::up(|provider| config(provider, 8, &[TEAM])).await;
    let live = stage.client.watch(TEAM).await;
    let mut expected = Vec::new();
    for priority in ["high", "normal", "low"] {
        let request = Request::chat(&Identity::new(TEAM, "_", priority), "small", priority);
        let subject = format!("llm.ask.{TEAM}.{priority}");
        let reply = ask(&stage, &subject, &[("Tollgate-Id", priority)], request.body().to_string()).await;
        assert_eq!(reply.header("Tollgate-Id"), Some(priority));
        expected.push(Expected::answered(&request));
    }
    stage.settled(&expected, &[&live]).await.assert_clean();
    let events = stage.client.read_stream("LLM_USAGE").await;
    let mut priorities: Vec<_> = events.iter().map(|event| event.value()["priority"].clone()).collect();
    priorities.sort_by_key(Value::to_string);
    assert_eq!(priorities, ["high", "low", "normal"]);
    assert_eq!(stage.metric("tollgate_asks_total", &[r#"outcome="accepted""#]).await, 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_so_in_both_forms() {
    let stage = Stage::up(|provider| config(provider, 8, &[TEAM])).await;
    stage.provider.script(|call| match call.key.as_str() {
        "refused" => Behaviour::error(400, "bad_thing", None),
        _ => Behaviour::Answer,
    });
    let unknown_model = json!({"model": "nope", "messages": [{"role": "user", "content": "x"}]});
    let stream = json!({"model": "small", "stream": true, "messages": [{"role": "user"}]});
    // Subject, headers, body → code, HTTP status, and the parameter that a bare caller is told.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Value, &'a str, &'a str, Value);
    let cases: [Case<'_>; 9] = [
        (HIGH, &[], unknown_model, "unknown_model", "404", "model".into()),
        (HIGH, &[], stream, "unsupported_feature", "400", "stream".into()),
        (HIGH, &[], chat("refused"), "provider_rejected", "400", Value::Null),
        ("llm.ask.strangers.high", &[], chat("x"), "unknown_team", "403", "team".into()),
        ("llm.ask.research.urgent", &[], chat("x"), "invalid_field", "400", "priority".into()),
        (HIGH, &[("Tollgate-Timeout", "soon")], chat("x"), "invalid_field", "400", "Tollgate-Timeout".into()),
        (HIGH, &[("Tollgate-Id", "a.b")], chat("x"), "invalid_identity", "400", "id".into()),
        (
            HIGH,
            &[("Content-Type", "text/xml")],
            chat("x"),
            "unsupported_encoding",
            "415",
            "Content-Type".into(),
        ),
        (HIGH, &[("Tollgate-Ttl-Ms", "-1")], chat("x"), "invalid_deadline", "400", "ttl_ms".into()),
    ];
    for (subject, pairs, body, code, status, param) in cases {
        let bare = ask(&stage, subject, pairs, body.to_string()).await;
        assert_eq!(bare.service_error(), (Some(code), Some(status)), "{subject} {pairs:?} {body}");
        let error = &bare.value["error"];
        assert_eq!((&error["code"], &error["param"]), (&code.into(), &param), "{body}");
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{error}");
        assert!(error["type"].is_string(), "{error}");

        if pairs.iter().any(|(name, _)| *name == "Tollgate-Id") {
            continue;
        }
        let envelope = json!({"group": "e", "body": body}).to_string();
        let reply = ask(&stage, subject, pairs, envelope).await;
        assert_eq!(reply.service_error(), (Some(code), Some(status)), "{subject} {pairs:?}");
        assert_eq!(reply.value["error"]["code"], code, "{}", reply.value);
        assert_ne!(reply.value["status"], "succeeded");
        assert_eq!(reply.value["error"]["http_status"].to_string(), status);
    }
    for (payload, code) in [("", "invalid_envelope"), ("{", "invalid_envelope"), ("{}", "missing_field")] {
        let reply = ask(&stage, HIGH, &[], payload).await;
        assert_eq!(reply.service_error().0, Some(code), "{payload:?}");
    }
    let fine = ask(&stage, HIGH, &[], chat("still there?").to_string()).await;
    assert_eq!(fine.service_error(), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_timeout_of_an_ask_is_its_deadline() {
    let stage = Stage::up(|provider| config(provider, 8, &[TEAM])).await;
    stage.provider.script(|call| match call.key.as_str() {
        "hangs" => Behaviour::Hang,
        _ => Behaviour::Answer,
    });
    let pairs = [("Tollgate-Timeout", "300ms"), ("Tollgate-Id", "late")];
    let reply = ask(&stage, HIGH, &pairs, chat("hangs").to_string()).await;
    let (code, status) = reply.service_error();
    assert_eq!((code, status), (Some("deadline_exceeded"), Some("504")));
    assert_eq!(reply.header("Tollgate-Status"), Some("expired"));
    assert_eq!(reply.value["error"]["code"], "deadline_exceeded");
    let identity = Identity::new(TEAM, "_", "late");
    let stored = stage.client.await_response(&identity, PATIENCE).await.value();
    assert_eq!(stored["status"], "expired");
    // The call is cut, its place is free, and the attempt is told of.
    tollgate_tests::wait::eventually(PATIENCE, "the end of the call", async || {
        (stage.provider.in_flight() == 0).then_some(())
    })
    .await;
    assert_eq!(stage.provider.calls_of("hangs").len(), 1);
    assert_eq!(stored["attempts"][0]["code"], "provider_timeout", "{stored}");

    let reply = ask(&stage, HIGH, &[("Tollgate-Timeout", "2m")], chat("fine").to_string()).await;
    assert_eq!(reply.service_error(), (None, None));
    let id = reply.header("Tollgate-Id").unwrap();
    let event = stage.client.read_stream("LLM_USAGE").await;
    assert!(event.iter().any(|event| event.value()["id"] == id));
    assert!(PATIENCE > Duration::from_secs(60), "the longest of these is not cut by the test itself");
}
