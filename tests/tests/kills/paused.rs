//! A worker dies in a call, and when another one takes the request over its provider may not be called any more.

use std::time::Duration;

use tollgate_tests::provider::{Behaviour, Provider};
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use crate::stage::{PATIENCE, PRICE, Stage, TARGET, config};

/// A lost call does not tie its request to a target that is down: it goes to another one, or is held for one, and keeps no
/// place of the provider's.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_call_of_a_paused_provider_is_made_elsewhere_or_held() {
    let other = Provider::start().await;
    let mut stage = Stage::with(&[Role::Worker, Role::Router], |provider| {
        config(provider, 4, &["research"])
            .timing(Duration::from_secs(2), Duration::from_secs(1))
            .provider("other", &other.base_url(), 16, &[("o-1", PRICE)])
            .model("pair", &[TARGET, "other/o-1"])
    })
    .await;
    stage.provider.always(Behaviour::Hang);
    let request = |id: &str, model: &str| {
        Request::chat(&Identity::new("research", "lost", id), model, &format!("lost-{id}"))
    };
    let (pair, only) = (request("pair", "pair"), request("only", "small"));
    stage.client.publish_all(&[pair.clone(), only.clone()]).await;
    eventually(PATIENCE, "two calls", async || match stage.provider.in_flight() {
        2 => Ok(()),
        other => Err(other),
    })
    .await;
    stage.running[0].kill9();
    stage.provider.always(Behaviour::Answer);
    let url = stage.nats.url();
    let provider = |what: &str| {
        let output = stage.broker.command(&["provider", what, "sim", "--server", &url]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    provider("pause");
    let before = stage.provider.total();
    stage.running[0].restart().await;
    let response = stage.client.await_response(&pair.identity, PATIENCE).await.value();
    let outcomes: Vec<_> =
        response["attempts"].as_array().unwrap().iter().map(|of| of["outcome"].clone()).collect();
    assert_eq!(outcomes, ["lost", "succeeded"], "{response}");
    assert_eq!(response["provider"], "other");
    eventually(PATIENCE, "nothing in the provider's stream", async || {
        match stage.client.message_count("LLM_DISPATCH_sim").await {
            0 => Ok(()),
            count => Err(count),
        }
    })
    .await;
    assert_eq!(stage.provider.total(), before, "it was called though it is paused");
    provider("resume");
    let response = stage.client.await_response(&only.identity, PATIENCE).await.value();
    assert_eq!(response["status"], "succeeded", "{response}");
    assert_eq!(response["attempts"].as_array().unwrap().len(), 2, "{response}");
}
