use async_nats::HeaderMap;
use serde_json::Value;
use tollgate_tests::check::Expected;
use tollgate_tests::client::Client;
use tollgate_tests::request::{Encoding, Identity, Request};

use super::rows::{self, At, Row};
use crate::stage::{PATIENCE, Stage, config};

/// Publishes the `n`-th row and returns where its answer will be.
async fn publish(client: &Client, n: usize, row: &Row) -> Identity {
    let mut headers = HeaderMap::new();
    for (name, value) in &row.headers {
        headers.insert(*name, value.as_str());
    }
    let subject = format!("llm.req.{}.normal", row.team);
    let ack = client.try_publish_raw(&subject, headers, row.payload.clone()).await;
    let ack = ack.unwrap_or_else(|error| panic!("{}: {error}", row.name));
    match row.at {
        At::Named => Identity::new(row.team, "g", &rows::id(n)),
        At::Sequence => Identity::new(row.team, "_", &format!("seq-{}", ack.sequence)),
    }
}

/// What is wrong with the answer to a row.
fn complaints(row: &Row, identity: &Identity, headers: &HeaderMap, response: &Value) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut same = |what: &str, found: &Value, expected: Value| {
        if *found != expected {
            complaints.push(format!("{}: {what} is {found}, expected {expected}", row.name));
        }
    };
    let error = &response["error"];
    same("status", &response["status"], "rejected".into());
    same("code", &error["code"], row.code.into());
    let field = if row.field.is_empty() { Value::Null } else { row.field.into() };
    same("field", &error["field"], field);
    same("id", &response["id"], identity.id.as_str().into());
    same("group", &response["group"], identity.group.as_str().into());
    same("cost", &response["cost_nano_usd"], 0.into());
    let status_codes = 400..=415;
    let in_range = error["http_status"].as_i64().is_some_and(|status| status_codes.contains(&status));
    same("http status is a 4xx", &in_range.into(), true.into());
    let says = error["message"].as_str().is_some_and(|message| (1..400).contains(&message.len()));
    same("message is one sentence", &says.into(), true.into());
    let header = headers.get("Tollgate-Error-Code").map_or("", |code| code.as_str());
    same("Tollgate-Error-Code", &header.into(), row.code.into());
    complaints
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_input_is_answered_with_its_code_and_field() {
    let stage = Stage::up(|provider| {
        config(provider, 8, &["research"]).raw("[teams.narrow]\nmodels = [\"sim/other*\"]")
    })
    .await;
    let rows = rows::all();
    assert!(rows.len() >= 40, "{} rows", rows.len());
    let mut answers = Vec::new();
    for (n, row) in rows.iter().enumerate() {
        answers.push(publish(&stage.client, n, row).await);
    }

    let (mut wrong, mut expected) = (Vec::new(), Vec::new());
    for (row, identity) in rows.iter().zip(&answers) {
        let stored = stage.client.await_response(identity, PATIENCE).await;
        wrong.extend(complaints(row, identity, &stored.headers, &stored.value()));
        let (identity, key) = (identity.clone(), format!("never called: {}", row.name));
        expected.push(Expected { identity, key, status: "rejected".into(), answer: None });
    }
    assert!(wrong.is_empty(), "{} complaints:\n{}", wrong.len(), wrong.join("\n"));

    // Nothing of it has blocked anything, in either encoding.
    for encoding in [Encoding::Json, Encoding::MessagePack] {
        let identity = Identity::new("research", "good", &format!("{encoding:?}"));
        let good = Request::chat(&identity, "small", &format!("good {encoding:?}")).encoding(encoding);
        stage.client.publish(&good).await;
        stage.client.await_response(&identity, PATIENCE).await;
        expected.push(Expected::answered(&good));
    }
    stage.idle().await;
    assert_eq!(stage.provider.total(), 2, "only what is good was run");
    // Each has its event and is counted once, at no cost.
    stage.settled(&expected, &[]).await.assert_clean();
    let usage = stage.client.read_stream("LLM_USAGE").await;
    for (row, identity) in rows.iter().zip(&answers) {
        let id = format!("{identity}.0");
        let event = usage.iter().find(|stored| stored.header("ce-id") == Some(id.as_str()));
        let event = event.unwrap_or_else(|| panic!("{}: no event {id}", row.name)).value();
        assert_eq!(
            (&event["kind"], &event["status"]),
            (&"unpaid".into(), &"rejected".into()),
            "{}",
            row.name
        );
    }
    let total = &stage.client.usage_by_team().await["total"];
    assert_eq!((&total["rejected"], &total["succeeded"]), (&rows.len().into(), &2.into()), "{total}");
    assert!(stage.running[0].is_alive());
    assert!(!stage.running[0].process().stderr().contains("panicked"), "a task panicked");
}
