//! Teams that share a lane. As in `order`, nothing is timed: everything waits before the first worker starts, and what
//! counts is the place of a call in the provider's log.

use std::time::{Duration, Instant};

use tollgate_tests::provider::{Behaviour, Provider};
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use crate::stage::{PATIENCE, PRICE, Stage, config, scale};

/// The server puts all of these into lane 11: 32-bit FNV-1a of the name, modulo 16.
const ONE_LANE: [&str; 10] = [
    "team-39", "team-66", "team-75", "team-88", "team-97", "team-125", "team-136", "team-150", "team-169",
    "team-183",
];

fn request(team: &str, id: usize) -> Request {
    Request::chat(&Identity::new(team, "express", &id.to_string()), "small", &format!("{team} {id}"))
}

fn requests(team: &str, count: usize) -> Vec<Request> {
    (0..count).map(|id| request(team, id)).collect()
}

/// How long nothing more is taken before everything that can be is: several times as long as a router may take to look.
const STILL: Duration = Duration::from_secs(1);

/// Waits until the routers have taken so many past their lane, and nothing more.
async fn taken(stage: &Stage, least: usize) {
    let (mut last, mut since) = (0.0, Instant::now());
    eventually(PATIENCE, &format!("{least} requests that are taken past their lane"), async || {
        let now = stage.metric("tollgate_express_total", &[]).await;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if now >= least as f64 && since.elapsed() >= STILL { Ok(()) } else { Err(now) }
    })
    .await;
}

/// The place of a request among all calls.
async fn place(stage: &Stage, request: &Request) -> usize {
    let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
    assert_eq!(response["status"], "succeeded", "{response}");
    let key = request.body()["messages"][0]["content"].as_str().unwrap();
    stage.provider.calls_of(key)[0].number
}

/// Three floods lie before the only request of a quiet team, in one lane.
async fn behind_three_floods(routers: usize, place_max: usize) {
    let size = scale(300, 1_000);
    let (floods, quiet) = (&ONE_LANE[..3], ONE_LANE[3]);
    let roles = vec![Role::Router; routers];
    let mut stage = Stage::with(&roles, |provider| config(provider, 4, &ONE_LANE[..4])).await;
    for flood in floods {
        stage.client.publish_all(&requests(flood, size)).await;
    }
    let quiet = request(quiet, 0);
    stage.client.publish(&quiet).await;
    taken(&stage, 2 * 16 * routers).await;
    // What is taken past the lane is looked for every few hundredths of a second.
    stage.provider.latency(Duration::from_millis(20));
    stage.start(Role::Worker).await;
    let place = place(&stage, &quiet).await;
    assert!(place < place_max, "at place {place} behind {} others", 3 * size);
    stage.idle().await;
    assert_eq!(stage.provider.total(), 3 * size + 1, "each is called once");
    let first = &stage.provider.calls()[..300];
    for flood in floods {
        let count = first.iter().filter(|call| call.key.starts_with(&format!("{flood} "))).count();
        assert!((60..=140).contains(&count), "{flood} has {count} of the first 300 calls");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_team_behind_floods_in_its_lane_is_hardly_delayed() {
    behind_three_floods(1, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_with_four_routers() {
    behind_three_floods(4, 90).await;
}

/// So few wait that their lane would be about to deliver what is behind them, if it came on at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_team_behind_few_that_wait_for_a_gate_is_read_past_them() {
    let (waits, quiet) = (ONE_LANE[0], ONE_LANE[1]);
    let stuck = Provider::start().await;
    stuck.always(Behaviour::Hang);
    let mut stage = Stage::with(&[Role::Router, Role::Worker], |provider| {
        config(provider, 4, &[waits, quiet])
            .provider("stuck", &stuck.base_url(), 1, &[("m-1", PRICE)])
            .model("stuck", &["stuck/m-1"])
    })
    .await;
    // Two find a place at the provider, and a router has 32 in hand.
    let waiting: Vec<_> = (0..45)
        .map(|id| Request::chat(&Identity::new(waits, "express", &id.to_string()), "stuck", "hangs"))
        .collect();
    stage.client.publish_all(&waiting).await;
    let quiet = request(quiet, 0);
    stage.client.publish(&quiet).await;
    place(&stage, &quiet).await;
    assert_eq!(stuck.total(), 1, "the others wait");
    stage.stop().await;
}

/// Filled one after another, the lightest first: the lane's order is the worst there is.
#[tokio::test(flavor = "multi_thread")]
async fn ten_teams_of_one_lane_get_by_their_weights() {
    let mut stage = Stage::with(&[Role::Router], |provider| {
        let with = |config, (team, weight): (&&str, u32)| -> tollgate_tests::config::Config {
            tollgate_tests::config::Config::weighted_team(config, team, weight)
        };
        ONE_LANE.iter().zip(1..).fold(config(provider, 4, &[]), with)
    })
    .await;
    for team in ONE_LANE {
        stage.client.publish_all(&requests(team, 250)).await;
    }
    taken(&stage, 9 * 12).await;
    stage.provider.latency(Duration::from_millis(10));
    stage.start(Role::Worker).await;
    stage.idle().await;
    let calls = stage.provider.calls();
    assert_eq!(calls.len(), 2_500);
    // As long as all of them wait: the heaviest is the first whose requests are all done, after 55 for each of its ten.
    for (team, weight) in ONE_LANE.iter().zip(1..) {
        let count = calls[..1_100].iter().filter(|call| call.key.starts_with(&format!("{team} "))).count();
        let share: usize = 20 * weight;
        assert!(count.abs_diff(share) <= 3 + share / 20, "{team}: {count} calls for a share of {share}");
    }
}

/// What comes back after a pause waits in lanes too.
#[tokio::test(flavor = "multi_thread")]
async fn the_lanes_of_what_is_due_are_no_different() {
    let size = scale(200, 500);
    let (flood, quiet) = (ONE_LANE[0], ONE_LANE[1]);
    let mut stage = Stage::with(&[Role::Router], |provider| config(provider, 4, &[flood, quiet])).await;
    let start = chrono::Utc::now();
    let soon = (start + Duration::from_secs(3)).to_rfc3339();
    let flooding: Vec<_> =
        requests(flood, size).into_iter().map(|request| request.field("not_before", soon.clone())).collect();
    stage.client.publish_all(&flooding).await;
    let later = (start + Duration::from_secs(4)).to_rfc3339();
    let quiet = request(quiet, 0).field("not_before", later);
    stage.client.publish(&quiet).await;
    eventually(PATIENCE, "all of them parked", async || match stage.client.message_count("LLM_REQ").await {
        0 => Ok(()),
        count => Err(count),
    })
    .await;
    // On their way there some were taken past their first lane.
    let before = stage.metric("tollgate_express_total", &[]).await as usize;
    taken(&stage, before + 1).await;
    stage.start(Role::Worker).await;
    let place = place(&stage, &quiet).await;
    assert!(place < 30, "at place {place} behind {size} others");
    stage.idle().await;
    assert_eq!(stage.provider.total(), size + 1);
}

/// Who asks for much and gets little pays for little.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_were_not_used_are_not_paid_for() {
    let (modest, greedy) = ("flood", "quiet");
    let mut stage = Stage::with(&[Role::Router], |provider| config(provider, 4, &[modest, greedy])).await;
    let with = |team: &str, tokens: u64| -> Vec<Request> {
        requests(team, 400)
            .into_iter()
            .map(|request| {
                let mut body = request.body().clone();
                body["max_tokens"] = tokens.into();
                Request::with_body(&request.identity, body)
            })
            .collect()
    };
    stage.client.publish_all(&[with(greedy, 16_000), with(modest, 20)].concat()).await;
    stage.start(Role::Worker).await;
    stage.idle().await;
    let calls = stage.provider.calls();
    assert_eq!(calls.len(), 800);
    let count = calls[..400].iter().filter(|call| call.key.starts_with(greedy)).count();
    assert!((100..=300).contains(&count), "{count} of the first 400 calls");
}
