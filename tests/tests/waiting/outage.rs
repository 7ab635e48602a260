//! An outage of all targets: nothing fails, nothing else waits behind it, and everything is answered after it.

use std::time::{Duration, Instant};

use tollgate_tests::check::{Evidence, Expected, settled};
use tollgate_tests::client::Client;
use tollgate_tests::config::Config;
use tollgate_tests::provider::{Behaviour, Provider};
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use crate::stage::{PATIENCE, PRICE, Stage, TARGET, config, scale};

const TEAMS: [&str; 2] = ["red", "blue"];

fn request(group: &str, n: usize, model: &str) -> Request {
    let identity = Identity::new(TEAMS[n % 2], group, &format!("{group}-{n}"));
    Request::chat(&identity, model, &format!("{group}-{n}"))
}

async fn held(client: &Client) -> usize {
    let stored = client.read_stream("LLM_RETRY").await;
    stored.iter().filter(|message| message.subject.starts_with("llm.retry.hold.")).count()
}

/// `small` is at `sim` only, `other` at a second provider.
fn with_other(config: Config, other: &Provider) -> Config {
    config.provider("other", &other.base_url(), 16, &[("o-1", PRICE)]).model("other", &["other/o-1"])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_fails_nothing_and_holds_nobody_else_up() {
    let other = Provider::start().await;
    let mut stage = Stage::with(&[Role::Ledger, Role::Worker, Role::Router, Role::Router], |provider| {
        with_other(config(provider, 16, &TEAMS), &other)
    })
    .await;
    let mut lives = Vec::new();
    for team in TEAMS {
        lives.push(stage.client.watch(team).await);
    }
    stage.provider.stop().await;
    let count = scale(200, 1_000);
    let waiting: Vec<_> = (0..count).map(|n| request("waiting", n, "small")).collect();
    stage.client.publish_all(&waiting).await;
    eventually(PATIENCE, "the requests to be held", async || {
        let held = held(&stage.client).await;
        // Some are probes, or on their way.
        if held >= count / 2 { Ok(()) } else { Err(held) }
    })
    .await;
    // Whoever wants another provider passes by.
    let passing: Vec<_> = (0..100).map(|n| request("passing", n, "other")).collect();
    stage.client.publish_all(&passing).await;
    for request in &passing {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{response}");
    }
    for request in &waiting {
        assert!(stage.client.response(&request.identity).await.is_none(), "{} is answered", request.identity);
    }
    let kinds = |events: &[tollgate_tests::client::Stored]| {
        let of =
            |kind: &str| events.iter().filter(|event| event.subject == format!("llm.event._.{kind}")).count();
        (of("provider_down"), of("provider_up"))
    };
    let events = stage.client.read_stream("LLM_EVENT").await;
    assert_eq!(kinds(&events), (1, 0), "one outage, told once");
    let down = events.iter().find(|event| event.subject == "llm.event._.provider_down").unwrap().value();
    assert_eq!((&down["provider"], &down["model"]), (&"sim".into(), &"m-1".into()));
    assert_eq!(down["code"], "provider_unavailable");

    stage.provider.restart().await;
    for request in &waiting {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{response}");
    }
    stage.idle().await;
    assert!(stage.provider.peak() <= 16, "{} calls at once", stage.provider.peak());
    let events = stage.client.read_stream("LLM_EVENT").await;
    assert_eq!(kinds(&events), (1, 1), "and it is up again");
    let expected: Vec<_> = waiting.iter().chain(&passing).map(Expected::answered).collect();
    let lives: Vec<_> = lives.iter().collect();
    settled(PATIENCE, async || {
        let prices = [(TARGET, PRICE), ("other/o-1", PRICE)];
        Evidence::gather(&stage.client, &expected, &prices, &lives, &[&stage.provider, &other]).await
    })
    .await
    .assert_clean();
}

/// The first calls after an outage come one, two, four at a time: each stage only after the last was answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_comes_back_is_given_work_step_by_step() {
    let stage = Stage::up(|provider| config(provider, 64, &TEAMS)).await;
    Box::pin(comes_back(stage, async |_| {})).await;
}

/// The steps are of the target, not of each process; what was known is still known after the server was killed, and to
/// those who start later.
#[tokio::test(flavor = "multi_thread")]
async fn many_processes_and_a_killed_server_take_the_same_steps() {
    let roles = [Role::Worker, Role::Worker, Role::Router, Role::Router];
    let stage = Stage::with(&roles, |provider| config(provider, 64, &TEAMS)).await;
    Box::pin(comes_back(stage, async |stage| {
        stage.nats.kill9();
        stage.nats.restart().await;
        stage.start(Role::Worker).await;
        stage.start(Role::Router).await;
    }))
    .await;
}

async fn comes_back(mut stage: Stage, meanwhile: impl AsyncFnOnce(&mut Stage)) {
    stage.provider.stop().await;
    let requests: Vec<_> = (0..200).map(|n| request("ramp", n, "small")).collect();
    stage.client.publish_all(&requests).await;
    eventually(PATIENCE, "the requests to be held", async || {
        let held = held(&stage.client).await;
        if held >= 190 { Ok(()) } else { Err(held) }
    })
    .await;
    meanwhile(&mut stage).await;
    // Long enough that calls of one stage are all under way together.
    stage.provider.latency(Duration::from_millis(300));
    stage.provider.restart().await;
    for request in &requests {
        stage.client.await_response(&request.identity, PATIENCE).await;
    }
    let calls = stage.provider.calls();
    let mut under_way = Vec::new();
    for (index, call) in calls.iter().enumerate() {
        let others =
            calls[..index].iter().filter(|earlier| earlier.ended.is_none_or(|end| end > call.arrived));
        under_way.push(others.count() + 1);
    }
    assert_eq!(under_way[0], 1, "{under_way:?}");
    // One, two, four, eight, sixteen, thirty-two; then it is closed.
    for (first, most) in [(1, 2), (3, 4), (7, 8), (15, 16), (31, 32)] {
        let seen = under_way[first..first + most].iter().max().unwrap();
        assert!(*seen <= most, "{seen} at once where {most} were allowed: {under_way:?}");
    }
}

/// Whatever else is asked of the provider is answered meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_few_requests_that_always_fail_do_not_keep_a_provider_down() {
    let stage = Stage::up(|provider| config(provider, 16, &TEAMS)).await;
    stage.provider.script(|call| match call.key.starts_with("bad") {
        true => Behaviour::error(500, "broken", None),
        false => Behaviour::Answer,
    });
    let bad: Vec<_> = (0..5).map(|n| request("bad", 2 * n, "small")).collect();
    stage.client.publish_all(&bad).await;
    let good = async {
        for n in 0..100 {
            let all: Vec<_> = (0..4).map(|lane| request("good", 2 * (4 * n + lane) + 1, "small")).collect();
            stage.client.publish_all(&all).await;
            for request in &all {
                let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
                assert_eq!(response["status"], "succeeded", "{response}");
            }
        }
    };
    tokio::time::timeout(PATIENCE, good).await.expect("400 good requests are answered");
}

/// Who waits for a budget, or is rejected because of it, makes no call that shows whether a target is up. Who waits for its turn does,
/// when that comes.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_budget_left_does_not_keep_a_provider_down() {
    const ALL: [&str; 4] = ["red", "green", "blue", "paced"];
    const PACED: &str = "[[limits]]\nscope = { team = \"paced\" }\nrequests_per_minute = 600\n";
    let mut stage = Stage::with(&[Role::Ledger, Role::Worker, Role::Router], |provider| {
        let config = config(provider, 16, &ALL);
        let config = config.team_budget("red", 1, "total", "hold").raw(PACED);
        config.team_budget("green", 1, "total", "reject")
    })
    .await;
    let request = |team: &str, n: usize| {
        let identity = Identity::new(team, "spent", &format!("{team}-{n}"));
        Request::chat(&identity, "small", &format!("{team}-{n}"))
    };
    for team in ["red", "green"] {
        let first = request(team, 0);
        stage.client.publish_all(std::slice::from_ref(&first)).await;
        let response = stage.client.await_response(&first.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{response}");
    }
    stage.provider.stop().await;
    let requests = ALL.map(|team| (1..=30).map(|n| request(team, n)).collect::<Vec<_>>());
    stage.client.publish_all(&requests.concat()).await;
    eventually(PATIENCE, "the requests to be held", async || {
        let held = held(&stage.client).await;
        if held >= 110 { Ok(()) } else { Err(held) }
    })
    .await;
    stage.provider.restart().await;
    for request in requests[2].iter().chain(&requests[3]) {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{response}");
    }
    for request in &requests[1] {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["error"]["code"], "budget_exceeded", "{response}");
    }
    let calls = stage.provider.calls();
    let times: Vec<_> =
        calls.iter().filter(|call| !call.key.ends_with("-0")).map(|call| call.arrived_at).collect();
    let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    // A stage whose permits are lost takes half a minute.
    let took = last.duration_since(*first).unwrap();
    assert!(took < Duration::from_secs(25), "the recovery took {took:?}");
    assert_eq!(calls.iter().filter(|call| call.key.starts_with("red")).count(), 1);
}

/// What was dispatched before the outage, or is delivered to a worker during it, waits as well: a worker keeps no place
/// for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_provider_is_not_called_and_goes_on_when_it_is_resumed() {
    let stage = Stage::up(|provider| config(provider, 4, &TEAMS)).await;
    let run = |arguments: &[&str]| {
        let url = stage.nats.url();
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--server", url.as_str()]).collect();
        let output = stage.broker.command(&arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let output = stage.broker.command(&["provider", "pause", "sims", "--server", &stage.nats.url()]).output();
    assert_eq!(output.unwrap().status.code(), Some(1), "a misspelt name is no success");
    run(&["provider", "pause", "sim"]);
    let requests: Vec<_> = (0..20).map(|n| request("paused", n, "small")).collect();
    stage.client.publish_all(&requests).await;
    eventually(PATIENCE, "twenty held requests", async || match held(&stage.client).await {
        20 => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(stage.provider.total(), 0);
    let list: serde_json::Value = serde_json::from_str(&run(&["provider", "list", "--json"])).unwrap();
    assert_eq!(list["providers"][0]["provider"], "sim");
    assert!(list["providers"][0]["paused_since"].is_string(), "{list}");
    run(&["provider", "resume", "sim"]);
    // Whoever deletes the document lets the provider be known as new, and it can be paused again.
    let health = stage.client.jetstream().get_key_value("llm_health").await.unwrap();
    health.delete("provider.sim").await.unwrap();
    run(&["provider", "pause", "sim"]);
    run(&["provider", "resume", "sim"]);
    for request in &requests {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!(response["status"], "succeeded", "{response}");
    }
    assert_eq!(stage.provider.total(), 20);
}

/// A provider that is taken out of the configuration strands nothing: its requests go to another target of their model,
/// or end with a clear word.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_taken_out_strands_nothing() {
    let other = Provider::start().await;
    let short = |config: Config| config.timing(Duration::from_secs(2), Duration::from_secs(1));
    let mut stage = Stage::with(&[Role::Router], |provider| {
        short(with_other(config(provider, 8, &TEAMS), &other)).model("pair", &[TARGET, "other/o-1"])
    })
    .await;
    // No worker yet: they lie in the stream of `sim`.
    let both: Vec<_> = (0..4).map(|n| request("both", n, "pair")).collect();
    let only: Vec<_> = (0..4).map(|n| request("only", n, "small")).collect();
    let all: Vec<_> = both.iter().chain(&only).cloned().collect();
    stage.client.publish_all(&all).await;
    eventually(PATIENCE, "eight requests at sim", async || {
        match stage.client.message_count("LLM_DISPATCH_sim").await {
            8 => Ok(()),
            count => Err(count),
        }
    })
    .await;
    let without = Config::new().provider("other", &other.base_url(), 16, &[("o-1", PRICE)]);
    let without = TEAMS.iter().fold(without.model("other", &["other/o-1"]), |config, team| config.team(team));
    stage.broker.configure(&short(without).model("pair", &["other/o-1"]));
    stage.running[0].term();
    stage.running[0].process().ended(PATIENCE).await;
    stage.running.clear();
    let begun = Instant::now();
    for role in [Role::Router, Role::Worker] {
        stage.start(role).await;
    }
    for request in &both {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        assert_eq!((&response["status"], &response["provider"]), (&"succeeded".into(), &"other".into()));
    }
    for request in &only {
        let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
        let error = &response["error"]["code"];
        assert_eq!((&response["status"], error), (&"failed".into(), &"unknown_model".into()), "{response}");
    }
    assert!(begun.elapsed() >= Duration::from_secs(5), "others may still know the provider");
    stage.idle().await;
    assert_eq!(stage.provider.total(), 0);

    // And it can come back.
    let with = with_other(config(&stage.provider, 8, &TEAMS), &other);
    stage.broker.configure(&short(with).model("pair", &[TARGET, "other/o-1"]));
    for running in &mut stage.running {
        running.term();
        running.process().ended(PATIENCE).await;
        running.restart().await;
    }
    let again = request("again", 0, "small");
    stage.client.publish(&again).await;
    let response = stage.client.await_response(&again.identity, PATIENCE).await.value();
    assert_eq!((&response["status"], &response["provider"]), (&"succeeded".into(), &"sim".into()));
}

/// The message of a call that failed rests at a provider which is taken out then. What moves it says so in the record first:
/// a worker of before may be about to claim it.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_call_of_a_provider_that_is_taken_out_goes_on_elsewhere() {
    let other = Provider::start().await;
    let short = |config: Config| config.timing(Duration::from_secs(2), Duration::from_secs(1));
    let mut stage = Stage::with(&[Role::Router, Role::Worker], |provider| {
        short(with_other(config(provider, 8, &TEAMS), &other)).model("pair", &[TARGET, "other/o-1"])
    })
    .await;
    stage.running[1].restart_at(Some("worker.ended:1:kill"));
    stage.provider.always(Behaviour::error(500, "server_error", None));
    let request = request("rests", 0, "pair");
    stage.client.publish(&request).await;
    eventually(PATIENCE, "the death of the worker", async || (!stage.running[1].is_alive()).then_some(()))
        .await;
    let record = async |stage: &Stage| {
        let stored = stage.client.read_stream("LLM_RECORD").await;
        let ours = format!("llm.run.{}", request.identity);
        stored.iter().rfind(|message| message.subject == ours).expect("a record").value()
    };
    let ended = record(&stage).await;
    assert_eq!((&ended["state"], &ended["next"]["to"]), (&"ended".into(), &"retry".into()), "{ended}");

    let without = Config::new().provider("other", &other.base_url(), 16, &[("o-1", PRICE)]);
    let without = TEAMS.iter().fold(without.model("other", &["other/o-1"]), |config, team| config.team(team));
    stage.broker.configure(&short(without).model("pair", &["other/o-1"]));
    stage.running[0].term();
    stage.running[0].process().ended(PATIENCE).await;
    stage.running[0].restart().await;
    eventually(PATIENCE, "the message to be moved", async || {
        match (
            stage.client.message_count("LLM_DISPATCH_sim").await,
            stage.client.message_count("LLM_DISPATCH_other").await,
        ) {
            (0, 1) => Ok(()),
            counts => Err(counts),
        }
    })
    .await;
    let moved = record(&stage).await;
    assert_eq!((&moved["state"], &moved["next"]["to"]), (&"ended".into(), &"later".into()), "{moved}");
    assert_eq!((&moved["from"], &moved["history"]), (&ended["from"], &ended["history"]), "{moved}");
    stage.running[1].restart_at(None);
    let response = stage.client.await_response(&request.identity, PATIENCE).await.value();
    assert_eq!((&response["status"], &response["provider"]), (&"succeeded".into(), &"other".into()));
    assert_eq!(response["attempts"].as_array().map(Vec::len), Some(2), "{response}");
    assert_eq!((stage.provider.total(), other.total()), (1, 1));
    stage.idle().await;
}
