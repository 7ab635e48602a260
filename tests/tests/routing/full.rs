use tollgate_tests::client::Client;
use tollgate_tests::config::Config;
use tollgate_tests::provider::{Behaviour, Provider};
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use crate::stage::{PATIENCE, PRICE, Stage, TARGET, config};

const TEAM: &str = "research";

fn with_backup(config: Config, backup: &Provider) -> Config {
    config.provider("backup", &backup.base_url(), 1, &[("b-1", PRICE)]).model("pair", &[TARGET, "backup/b-1"])
}

/// How many messages a stream ever held.
async fn ever_stored(client: &Client, stream: &str) -> u64 {
    let stream = client.jetstream().get_stream(stream).await.unwrap();
    let (config, state) = (&stream.cached_info().config, &stream.cached_info().state);
    (state.last_sequence + 1).saturating_sub(config.first_sequence.unwrap_or(1))
}

/// A worker never waits for a place while it holds one: the request goes back to the routers, who find it one.
#[tokio::test(flavor = "multi_thread")]
async fn a_fallback_that_finds_no_place_waits_with_the_routers() {
    let backup = Provider::start().await;
    let mut stage =
        Stage::with(&[Role::Router], |provider| with_backup(config(provider, 8, &[TEAM]), &backup)).await;
    stage.provider.always(Behaviour::error(401, "invalid_api_key", None));
    let request = |id: &str, model: &str| Request::chat(&Identity::new(TEAM, "full", id), model, id);

    // Nobody works for `backup` yet: its two places per priority are taken, and the rest waits.
    let blocking: Vec<_> = (0..5).map(|n| request(&format!("blocking-{n}"), "backup/b-1")).collect();
    stage.client.publish_all(&blocking).await;
    eventually(PATIENCE, "a full stream", async || {
        match stage.client.message_count("LLM_DISPATCH_backup").await {
            2 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    stage.broker.configure(&config(&stage.provider, 8, &[TEAM]));
    stage.start(Role::Worker).await;
    let falling: Vec<_> = (0..5).map(|n| request(&format!("falling-{n}"), "pair")).collect();
    stage.client.publish_all(&falling).await;
    eventually(PATIENCE, "five requests back with the routers", async || {
        match ever_stored(&stage.client, "LLM_RETRY").await {
            5 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert_eq!((stage.provider.total(), backup.total()), (5, 0));
    assert_eq!(stage.client.message_count("LLM_DISPATCH_sim").await, 0, "the places at `sim` are free again");

    stage.broker.configure(&with_backup(config(&stage.provider, 8, &[TEAM]), &backup));
    stage.start(Role::Worker).await;
    for request in blocking.iter().chain(&falling) {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{response}");
        assert_eq!(response["provider"], "backup");
    }
    stage.idle().await;
    assert_eq!((stage.provider.total(), backup.total()), (5, 10), "each is called once by each");
    assert_eq!(backup.peak(), 1);
}
