//! A client takes a request back: wherever it is, it ends once.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use tollgate_tests::check::{Evidence, Expected, settled};
use tollgate_tests::client::Client;
use tollgate_tests::provider::{Behaviour, End};
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use crate::stage::{PATIENCE, PRICE, Stage, TARGET, config};

const TEAM: &str = "research";

fn request(id: &str) -> Request {
    Request::chat(&Identity::new(TEAM, "cancel", id), "small", id)
}

async fn cancel(client: &Client, request: &Request) {
    let subject = request.identity.cancel_subject();
    eventually(PATIENCE, "an acknowledged cancellation", async || {
        let ack = client.try_publish_raw(&subject, Default::default(), "").await;
        ack.map(|_| ()).map_err(|error| error.to_string())
    })
    .await;
}

async fn cancelled(client: &Client, request: &Request) -> Value {
    let response = client.await_response(&request.identity, PATIENCE).await.value();
    assert_eq!(response["status"], "cancelled", "{response}");
    assert_eq!(response["error"]["code"], "cancelled");
    response
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_a_request_waits_it_can_be_taken_back() {
    let mut stage = Stage::with(&[Role::Router, Role::Router], |provider| config(provider, 1, &[TEAM])).await;
    // Nobody works: two have a place at the provider, some are in a router's hands, the rest is in its lane.
    let queued: Vec<_> = (0..100).map(|n| request(&format!("queued-{n}"))).collect();
    stage.client.publish_all(&queued).await;
    let at = (chrono::Utc::now() + chrono::TimeDelta::minutes(10)).to_rfc3339();
    let parked = request("parked").field("not_before", at);
    stage.client.publish(&parked).await;
    for request in queued.iter().chain([&parked]) {
        cancel(&stage.client, request).await;
    }
    for request in queued.iter().chain([&parked]) {
        let response = cancelled(&stage.client, request).await;
        assert_eq!(response["attempts"].as_array().unwrap().len(), 0);
    }
    // Twice is once, and what is over stays as it is.
    cancel(&stage.client, &queued[0]).await;
    // The same request again has the same answer.
    stage.start(Role::Worker).await;
    stage.client.publish(&queued[1]).await;
    stage.idle().await;
    eventually(PATIENCE, "cancellations that are done with", async || {
        match stage.client.message_count("LLM_CANCEL").await {
            0 => Ok(()),
            count => Err(count),
        }
    })
    .await;
    cancelled(&stage.client, &queued[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_request_can_be_taken_back() {
    let mut stage = Stage::up(|provider| config(provider, 8, &[TEAM])).await;
    stage.provider.stop().await;
    let requests: Vec<_> = (0..20).map(|n| request(&format!("held-{n}"))).collect();
    stage.client.publish_all(&requests).await;
    eventually(PATIENCE, "held requests", async || {
        let held = stage.client.message_count("LLM_RETRY").await;
        if held >= 10 { Ok(()) } else { Err(held) }
    })
    .await;
    for request in &requests {
        cancel(&stage.client, request).await;
    }
    for request in &requests {
        cancelled(&stage.client, request).await;
    }
    stage.idle().await;
}

/// The call is broken off, its place is free again, and what it may have cost is on the ledger.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_call_is_broken_off() {
    let stage = Stage::up(|provider| config(provider, 2, &[TEAM])).await;
    stage.provider.script(|call| match call.key.as_str() {
        "running" => Behaviour::Hang,
        _ => Behaviour::Answer,
    });
    let running = request("running");
    stage.client.publish(&running).await;
    eventually(PATIENCE, "a call", async || (stage.provider.in_flight() == 1).then_some(())).await;
    cancel(&stage.client, &running).await;
    let response = cancelled(&stage.client, &running).await;
    let attempt = &response["attempts"][0];
    assert_eq!((&attempt["code"], &attempt["estimated"]), (&"cancelled".into(), &true.into()), "{response}");
    assert!(response["cost_nano_usd"].as_i64().unwrap() > 0, "it may have been charged: {response}");
    eventually(PATIENCE, "the end of the call", async || {
        (stage.provider.calls()[0].end == End::ClientLeft).then_some(())
    })
    .await;
    let after: Vec<_> = (0..10).map(|n| request(&format!("after-{n}"))).collect();
    stage.client.publish_all(&after).await;
    for request in &after {
        assert_eq!(
            stage.client.await_response(&request.identity, PATIENCE).await.value()["status"],
            "succeeded"
        );
    }
    stage.idle().await;
}

/// A copy is accepted at a time of its own. What is said about a call has the time of the copy that was called, or it
/// would be counted twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_in_hand_changes_nothing_about_the_call_of_another() {
    let lease = Duration::from_secs(2);
    let mut stage = Stage::with(&[Role::Ledger, Role::Router, Role::Worker], |provider| {
        config(provider, 16, &[TEAM]).timing(Duration::from_secs(120), lease)
    })
    .await;
    stage.provider.always(Behaviour::Hang);
    let requests: Vec<_> = (0..8).map(|n| request(&format!("copied-{n}"))).collect();
    stage.client.publish_all(&requests).await;
    eventually(PATIENCE, "all calls", async || (stage.provider.total() == 8).then_some(())).await;
    stage.running[2].kill9();
    let originals = stage.client.read_stream("LLM_DISPATCH_sim").await;
    let copied_at = chrono::Utc::now();
    stage.client.publish_all(&requests).await;
    eventually(PATIENCE, "copies beside the messages of the dead worker", async || {
        (stage.client.message_count("LLM_DISPATCH_sim").await == 16).then_some(())
    })
    .await;
    // So that it is a copy which is in hand when the request ends.
    let dispatch = stage.client.jetstream().get_stream("LLM_DISPATCH_sim").await.unwrap();
    for original in &originals {
        dispatch.delete_message(original.sequence).await.unwrap();
    }
    for request in &requests {
        cancel(&stage.client, request).await;
    }
    let mut accepted = BTreeSet::new();
    for request in &requests {
        let response = cancelled(&stage.client, request).await;
        assert_eq!(response["attempts"][0]["outcome"], "lost", "{response}");
        let accepted_at = response["timing"]["accepted_at"].as_str().unwrap();
        assert!(chrono::DateTime::parse_from_rfc3339(accepted_at).unwrap() < copied_at, "{response}");
        accepted.insert(accepted_at.to_owned());
    }
    let events = eventually(PATIENCE, "the usage of all", async || {
        let events = stage.client.read_stream("LLM_USAGE").await;
        if events.len() >= 16 { Ok(events) } else { Err(events.len()) }
    })
    .await;
    for event in events.iter().map(|event| event.value()) {
        assert!(accepted.contains(event["accepted_at"].as_str().unwrap()), "{event} of another copy");
    }
    stage.running.truncate(2);
}

/// Whoever is faster wins, and there is one winner.
#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_races_with_completion_have_one_winner_each() {
    let roles = [Role::Ledger, Role::Worker, Role::Worker, Role::Router, Role::Router];
    let stage = Stage::with(&roles, |provider| config(provider, 32, &[TEAM])).await;
    let live = stage.client.watch(TEAM).await;
    stage.provider.script(|call| Behaviour::Delay(Duration::from_millis(call.number as u64 * 37 % 60)));
    let requests: Vec<_> = (0..500).map(|n| request(&format!("race-{n}"))).collect();
    let racing = requests.iter().enumerate().map(|(n, request)| {
        let client = &stage.client;
        async move {
            client.publish(request).await;
            // Some at once, some when it may be running, some when it may be over.
            tokio::time::sleep(Duration::from_millis(n as u64 * 13 % 120)).await;
            cancel(client, request).await;
        }
    });
    let racing: Vec<_> = racing.collect();
    futures_util::StreamExt::collect::<Vec<()>>(futures_util::StreamExt::buffer_unordered(
        futures_util::stream::iter(racing),
        64,
    ))
    .await;
    let mut expected = Vec::new();
    let mut statuses = BTreeSet::new();
    for request in &requests {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        let status = response["status"].as_str().unwrap().to_owned();
        expected.push(match status.as_str() {
            "succeeded" => Expected::answered(request),
            status => Expected::ended(request, status),
        });
        statuses.insert(status);
    }
    let both = BTreeSet::from(["cancelled".to_owned(), "succeeded".to_owned()]);
    assert!(statuses.is_subset(&both), "{statuses:?}");
    stage.idle().await;
    assert_eq!(live.duplicates(), 0);
    eventually(PATIENCE, "every call to end", async || match stage.provider.in_flight() {
        0 => Ok(()),
        open => Err(open),
    })
    .await;
    // No place is lost: as many as ever fit in at once.
    stage.provider.always(Behaviour::Delay(Duration::from_millis(200)));
    let after: Vec<_> = (0..64).map(|n| request(&format!("after-{n}"))).collect();
    stage.client.publish_all(&after).await;
    eventually(PATIENCE, "all places taken", async || match stage.provider.in_flight() {
        32 => Ok(()),
        taken => Err(taken),
    })
    .await;
    for request in &after {
        stage.client.await_response(&request.identity, PATIENCE).await;
    }
    expected.extend(after.iter().map(Expected::answered));
    settled(PATIENCE, async || {
        Evidence::gather(&stage.client, &expected, &[(TARGET, PRICE)], &[&live], &[&stage.provider]).await
    })
    .await
    .assert_clean();
}
