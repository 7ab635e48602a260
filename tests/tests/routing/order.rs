//! Who comes first. Nothing is timed: everything waits before the first worker starts, and what counts is the place
//! of a call in the provider's log.

use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use crate::stage::{PATIENCE, Stage, config, scale};

fn request(team: &str, id: &str) -> Request {
    Request::chat(&Identity::new(team, "order", id), "small", &format!("{team} {id}"))
}

fn requests(team: &str, count: usize, priority: &str) -> Vec<Request> {
    (0..count).map(|n| request(team, &format!("{priority}-{n}")).priority(priority)).collect()
}

/// Waits until a router has the only request of a priority and team in its hands, so that it can order it.
async fn in_hand(stage: &Stage, priority: &str, team: &str) {
    let waiting = stage.client.read_stream("LLM_REQ").await;
    let subject = waiting.iter().map(|stored| stored.subject.as_str()).find(|subject| {
        subject.starts_with(&format!("llm.lane.{priority}.")) && subject.ends_with(&format!(".{team}"))
    });
    let lane = subject.and_then(|subject| subject.split('.').nth(3)).expect("the request waits in a lane");
    let name = format!("lane-{priority}-{lane}");
    eventually(PATIENCE, &format!("{name} in a router's hands"), async || {
        let lanes = stage.client.consumers("LLM_REQ").await;
        let lane = lanes.into_iter().find(|lane| lane.name == name).unwrap();
        match (lane.num_ack_pending, lane.num_pending) {
            (1, 0) => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

/// Waits until a router has as much of two lanes in its hands as it takes.
async fn full_prefetch(stage: &Stage) {
    eventually(PATIENCE, "a full prefetch of two lanes", async || {
        let lanes = stage.client.consumers("LLM_REQ").await;
        (lanes.iter().filter(|lane| lane.num_ack_pending >= 24).count() == 2).then_some(())
    })
    .await;
}

/// The place of a request among all calls.
async fn place(stage: &Stage, request: &Request) -> usize {
    stage.client.await_response(&request.identity, PATIENCE).await;
    let key = request.body()["messages"][0]["content"].as_str().unwrap();
    stage.provider.calls_of(key)[0].number
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_team_hardly_delays_another() {
    let flood_size = scale(1_000, 3_000);
    // In lanes of their own, which their names decide.
    let teams = ["flood", "quiet"];
    let mut stage = Stage::with(&[Role::Router], |provider| config(provider, 4, &teams)).await;
    let live = stage.client.watch("flood").await;
    stage.client.publish_all(&requests("flood", flood_size, "normal")).await;
    let quiet = request("quiet", "one");
    stage.client.publish(&quiet).await;
    in_hand(&stage, "normal", "quiet").await;

    stage.start(Role::Worker).await;
    let place = place(&stage, &quiet).await;
    assert!(place < 100, "at place {place} of a flood of {flood_size}");
    live.await_answered(flood_size, PATIENCE).await;
    assert_eq!(stage.provider.total(), flood_size + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_urgent_overtakes_and_what_is_not_is_never_starved() {
    let team = "research";
    let mut stage = Stage::with(&[Role::Router], |provider| config(provider, 4, &[team])).await;
    stage.client.publish_all(&requests(team, 300, "low")).await;
    eventually(PATIENCE, "low requests with a worker's stream", async || {
        (stage.client.message_count("LLM_DISPATCH_sim").await == 5).then_some(())
    })
    .await;
    // Its priority has places of its own there.
    let urgent = request(team, "urgent").priority("high");
    stage.client.publish(&urgent).await;
    eventually(PATIENCE, "the urgent one behind them", async || {
        (stage.client.message_count("LLM_DISPATCH_sim").await == 6).then_some(())
    })
    .await;
    let worker = stage.start(Role::Worker).await;
    let urgent = place(&stage, &urgent).await;
    assert!(urgent < 25, "the urgent one is called at place {urgent} of 300");
    stage.idle().await;
    stage.running.remove(worker);

    // Both wait all the time. By their shares of 16 and 1 it is every 17th call.
    let before = stage.provider.total();
    stage.client.publish_all(&requests(team, 300, "high")).await;
    let patient: Vec<_> = requests(team, 100, "low").into_iter().map(renamed).collect();
    stage.client.publish_all(&patient).await;
    full_prefetch(&stage).await;
    stage.start(Role::Worker).await;
    stage.idle().await;
    let calls = stage.provider.calls().split_off(before);
    let early = calls.iter().take(200).filter(|call| call.key.contains("patient")).count();
    assert!((5..=50).contains(&early), "{early} patient ones among the first 200 calls");
    assert_eq!(calls.len(), 400);
}

/// The same under another identity.
fn renamed(request: Request) -> Request {
    let id = format!("patient-{}", request.identity.id);
    self::request(&request.identity.team, &id).priority(&request.priority)
}

/// A team with twice the weight gets twice as much while both wait.
#[tokio::test(flavor = "multi_thread")]
async fn weights_are_kept() {
    let mut stage =
        Stage::with(&[Role::Router], |provider| config(provider, 4, &["flood"]).weighted_team("quiet", 3))
            .await;
    let all = [requests("flood", 400, "normal"), requests("quiet", 400, "normal")].concat();
    stage.client.publish_all(&all).await;
    full_prefetch(&stage).await;
    stage.start(Role::Worker).await;
    stage.idle().await;

    // The first half of one team's work is done while the other has done a third of that.
    let calls = stage.provider.calls();
    let heavy = calls.iter().take(400).filter(|call| call.key.starts_with("quiet")).count();
    assert!((240..=360).contains(&heavy), "{heavy} of the first 400 calls are of the team of weight 3");
}

/// It may publish there, and is served at what it may have.
#[tokio::test(flavor = "multi_thread")]
async fn a_team_is_not_served_above_its_priority() {
    let stage = Stage::with(&[Role::Router], |provider| {
        config(provider, 4, &[]).raw("[teams.capped]\npriority_max = \"normal\"\n")
    })
    .await;
    for priority in ["high", "normal", "low"] {
        stage.client.publish(&request("capped", priority).priority(priority)).await;
    }
    let dispatched = eventually(PATIENCE, "three dispatched requests", async || {
        let dispatched = stage.client.read_stream("LLM_DISPATCH_sim").await;
        if dispatched.len() == 3 { Ok(dispatched) } else { Err(dispatched.len()) }
    })
    .await;
    let mut served: Vec<_> =
        dispatched.iter().filter_map(|stored| stored.subject.rsplit('.').next()).collect();
    served.sort_unstable();
    assert_eq!(served, ["low", "normal", "normal"]);
}
