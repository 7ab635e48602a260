//! A request that was answered before a limit concerned it is published once more.

use tollgate_tests::config::Config;
use tollgate_tests::provider::Provider;
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use super::apply;
use crate::budgets::counter::{entries, totals};
use crate::budgets::hard::{PRICE, TEAM, request};
use crate::stage::{PATIENCE, Stage};

/// Its place under the limit comes free again, though no event says any more that it is over.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_before_a_limit_was_there_keeps_no_place_in_it() {
    // One of somebody else is there from the beginning: the ledger reads the events, and skips those of this team.
    let limited = |provider: &Provider, team: &str| {
        let config = Config::new().provider("sim", &provider.base_url(), 16, &[("m-1", PRICE)]);
        let limit = format!("[[limits]]\nscope = {{ team = \"{team}\" }}\nin_flight = 1\n");
        config.model("small", &["sim/m-1"]).team(TEAM).team("other").raw(&limit)
    };
    let roles = [Role::Router, Role::Worker, Role::Ledger];
    let mut stage = Stage::with(&roles, |provider| limited(provider, "other")).await;
    let before = request("before", 2);
    stage.client.publish(&before).await;
    stage.client.await_response(&before.identity, PATIENCE).await;
    stage.idle().await;
    apply(&stage, &limited(&stage.provider, TEAM)).await;
    stage.client.publish(&before).await;
    eventually(PATIENCE, "its reservation", async || {
        (!entries(&stage.client).await.is_empty()
            && totals(&stage.client).await.values().any(|total| *total == 1))
        .then_some(())
    })
    .await;
    let after = request("after", 2);
    stage.client.publish(&after).await;
    let response = stage.client.await_response(&after.identity, PATIENCE).await.value();
    assert_eq!(response["status"], "succeeded", "{response}");
    assert_eq!(stage.provider.total(), 2, "what was answered is not called again");
    eventually(PATIENCE, "nothing in flight", async || {
        let totals = totals(&stage.client).await;
        if totals.values().all(|total| *total == 0) { Ok(()) } else { Err(totals) }
    })
    .await;
    stage.idle().await;
    stage.stop().await;
}
