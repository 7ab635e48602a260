use serde_json::Value;
use tollgate_tests::check::{Evidence, Expected, settled};
use tollgate_tests::money::Price;
use tollgate_tests::provider::{Behaviour, Provider};
use tollgate_tests::request::{Identity, Request};

use crate::stage::{PATIENCE, PRICE, Stage, TARGET, config};

const TEAM: &str = "research";

/// The second provider costs something else, so that a cost says who was paid.
const BACKUP_PRICE: Price = Price { input: 1_000_000_000, cached_input: 500_000_000, output: 3_000_000_000 };

/// `pair` is tried at `sim`, then at `backup`.
async fn stage_with(backup: &Provider) -> Stage {
    Stage::up(|provider| {
        config(provider, 16, &[TEAM])
            .provider("backup", &backup.base_url(), 16, &[("b-1", BACKUP_PRICE)])
            .model("pair", &[TARGET, "backup/b-1"])
    })
    .await
}

fn request(id: &str, model: &str) -> Request {
    Request::chat(&Identity::new(TEAM, "fallback", id), model, id)
}

/// Who was called for a response: provider, model, outcome.
fn route(response: &Value) -> Vec<String> {
    let attempts = response["attempts"].as_array().unwrap().iter();
    let part = |attempt: &Value, name: &str| attempt[name].as_str().unwrap_or_default().to_owned();
    attempts.map(|a| format!("{}/{} {}", part(a, "provider"), part(a, "model"), part(a, "outcome"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_target_is_called_when_another_may_help() {
    let backup = Provider::start().await;
    let stage = stage_with(&backup).await;
    let live = stage.client.watch(TEAM).await;
    stage.provider.script(|call| match call.key.as_str() {
        "401" => Behaviour::error(401, "invalid_api_key", None),
        "404" => Behaviour::error(404, "model_not_found", None),
        "503" => Behaviour::error(503, "overloaded", None),
        "quota" => Behaviour::error(429, "insufficient_quota", None),
        "closed" => Behaviour::CloseBeforeResponse,
        // Longer than a message keeps its place: nobody waits while another target is there.
        "pause" => Behaviour::error(429, "rate_limit_exceeded", Some(3_600)),
        _ => Behaviour::Answer,
    });
    // One after the other and with good answers between them: nothing here says that `sim` is down.
    let tries = [
        ("fine-1", 0),
        ("401", 1),
        ("404", 1),
        ("503", 3),
        ("fine-2", 0),
        ("quota", 1),
        ("fine-3", 0),
        ("closed", 3),
        ("fine-4", 0),
        ("pause", 1),
    ];
    let requests: Vec<_> = tries.iter().map(|(id, _)| request(id, "pair")).collect();
    for ((id, failed), request) in tries.iter().zip(&requests) {
        stage.client.publish(request).await;
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        let mut expected = vec!["sim/m-1 failed"; *failed];
        expected.push(if *failed == 0 { "sim/m-1 succeeded" } else { "backup/b-1 succeeded" });
        assert_eq!(route(&response), expected, "{id}");
        let (provider, model) = if *failed == 0 { ("sim", "m-1") } else { ("backup", "b-1") };
        assert_eq!((&response["provider"], &response["model"]), (&provider.into(), &model.into()), "{id}");
        assert_eq!(response["requested_model"], "pair");
        assert_eq!(backup.calls_of(id).len(), usize::from(*failed > 0), "{id}");
    }
    // `sim` asked for a pause: for as long as that is kept, it is passed over.
    let after = request("after", "pair");
    stage.client.publish(&after).await;
    let response = stage.client.await_response(&after.identity, PATIENCE).await.value();
    assert_eq!(route(&response), ["backup/b-1 succeeded"]);
    let requests: Vec<_> = requests.into_iter().chain([after]).collect();
    // The model is written as each provider knows it, and the ledger has the price of the one that was paid.
    assert!(backup.calls().iter().all(|call| call.body["model"] == "b-1"));
    let expected: Vec<_> = requests.iter().map(Expected::answered).collect();
    let prices = [(TARGET, PRICE), ("backup/b-1", BACKUP_PRICE)];
    settled(PATIENCE, async || {
        Evidence::gather(&stage.client, &expected, &prices, &[&live], &[&stage.provider, &backup]).await
    })
    .await
    .assert_clean();
    let events = stage.client.read_stream("LLM_EVENT").await;
    let fell = events.iter().filter(|event| event.subject == "llm.event.research.fell_back").count();
    assert_eq!(fell, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_itself_wrong_is_not_tried_elsewhere() {
    let backup = Provider::start().await;
    let stage = stage_with(&backup).await;
    stage.provider.always(Behaviour::error(400, "bad_request", None));
    let request = request("wrong", "pair");
    stage.client.publish(&request).await;
    let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
    assert_eq!(
        (&response["status"], &response["error"]["code"]),
        (&"failed".into(), &"provider_rejected".into())
    );
    assert_eq!((stage.provider.total(), backup.total()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_may_name_its_own_fallbacks() {
    let backup = Provider::start().await;
    let stage = stage_with(&backup).await;
    stage.provider.always(Behaviour::error(401, "invalid_api_key", None));
    let with = request("named", "small").field("fallbacks", vec!["small", "backup/b-1"]);
    stage.client.publish(&with).await;
    let response = stage.client.await_response(&with.identity, PATIENCE).await.value();
    assert_eq!(route(&response), ["sim/m-1 failed", "backup/b-1 succeeded"]);

    // When all of them fail, it waits for better times until its deadline, and says what it waited for.
    backup.always(Behaviour::error(402, "no_credit", None));
    let without = request("all-fail", "pair").field("ttl_ms", 2_000);
    stage.client.publish(&without).await;
    let response = stage.client.await_response(&without.identity, PATIENCE).await.value();
    assert_eq!(response["status"], "expired", "{response}");
    assert_eq!(route(&response)[..2], ["sim/m-1 failed", "backup/b-1 failed"]);
    let message = response["error"]["message"].as_str().unwrap();
    // By its code if it waited, in the failure's own words if the deadline came with the failure.
    let said = ["provider_out_of_credit", "provider_unauthorized", "credit", "credentials"];
    assert!(said.iter().any(|said| message.contains(said)), "{message}");
    assert!(response["timing"]["total_ms"].as_u64().unwrap() >= 2_000, "not before its deadline: {response}");
}
