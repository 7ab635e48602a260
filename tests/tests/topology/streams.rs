use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use futures_util::TryStreamExt;
use tollgate_tests::process::Process;
use tollgate_tests::roles::Role;
use tollgate_tests::wait::eventually;

use crate::stage::{PATIENCE, Stage, config};

const TEAM: &str = "research";

async fn stream(stage: &Stage, name: &str) -> Config {
    stage.client.jetstream().get_stream(name).await.unwrap().cached_info().config.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stream_has_its_settings_and_a_second_start_changes_nothing() {
    let mut stage = Stage::with(&[Role::Router], |provider| config(provider, 64, &[TEAM])).await;
    let request = stream(&stage, "LLM_REQ").await;
    assert_eq!(request.retention, RetentionPolicy::WorkQueue);
    assert_eq!((request.discard, request.discard_new_per_subject), (DiscardPolicy::New, true));
    assert_eq!((request.max_messages_per_subject, request.max_messages), (1_000_000, -1));
    assert_eq!((request.max_age, request.duplicate_window), (Duration::ZERO, Duration::from_millis(100)));
    let mut subjects = request.subjects.clone();
    subjects.sort();
    assert_eq!(subjects, ["llm.req.*.high", "llm.req.*.low", "llm.req.*.normal"]);
    let lanes = request.subject_transform.clone().unwrap();
    assert_eq!(lanes.destination, "llm.lane.{{wildcard(2)}}.{{partition(16,1)}}.{{wildcard(1)}}");

    let retry = stream(&stage, "LLM_RETRY").await;
    assert_eq!(retry.retention, RetentionPolicy::WorkQueue);
    assert!(retry.allow_message_schedules && retry.allow_message_ttl);
    // Discarding anything would drop accepted requests without a word.
    assert_eq!((retry.max_messages, retry.max_messages_per_subject, retry.max_bytes), (-1, -1, -1));
    assert_eq!(retry.max_age, Duration::ZERO);

    let dispatch = stream(&stage, "LLM_DISPATCH_sim").await;
    assert_eq!(dispatch.retention, RetentionPolicy::WorkQueue);
    assert_eq!((dispatch.discard, dispatch.discard_new_per_subject), (DiscardPolicy::New, true));
    assert_eq!((dispatch.max_messages_per_subject, dispatch.max_messages), (72, 88));

    let record = stream(&stage, "LLM_RECORD").await;
    assert_eq!((record.retention, record.max_messages_per_subject), (RetentionPolicy::Limits, 1));
    assert!(record.allow_direct && record.allow_message_ttl);
    let republish = record.republish.clone().unwrap();
    assert_eq!((republish.source.as_str(), republish.destination.as_str()), ("llm.res.>", "llm.live.res.>"));
    let usage = stream(&stage, "LLM_USAGE").await;
    assert_eq!(usage.max_age, Duration::from_secs(400 * 24 * 60 * 60));

    let cancel = stream(&stage, "LLM_CANCEL").await;
    assert_eq!((cancel.retention, cancel.max_messages_per_subject), (RetentionPolicy::WorkQueue, 1));
    let dead = stream(&stage, "LLM_DEAD").await;
    assert_eq!((dead.retention, dead.max_messages_per_subject), (RetentionPolicy::Limits, 1));
    assert_eq!(dead.max_age, Duration::from_secs(30 * 24 * 60 * 60));

    let budget = stream(&stage, "LLM_BUDGET").await;
    assert!(budget.allow_message_counter && budget.allow_direct);
    assert_eq!((budget.max_messages_per_subject, budget.max_age), (1_000_000, Duration::ZERO));
    assert_eq!(
        (budget.retention, budget.duplicate_window),
        (RetentionPolicy::Limits, Duration::from_secs(120))
    );

    let pace = stream(&stage, "LLM_PACE").await;
    assert!(pace.allow_message_counter);
    assert_eq!((pace.max_messages_per_subject, pace.max_age), (1, Duration::from_secs(600)));

    let names = [
        "LLM_BUDGET",
        "LLM_PACE",
        "LLM_REQ",
        "LLM_RETRY",
        "LLM_RECORD",
        "LLM_USAGE",
        "LLM_EVENT",
        "LLM_CANCEL",
        "LLM_DEAD",
        "LLM_DISPATCH_sim",
    ];
    let mut before = Vec::new();
    for name in names {
        let config = stream(&stage, name).await;
        assert_eq!((config.storage, config.max_consumers), (StorageType::File, 1_000), "{name}");
        before.push(config);
    }
    let mut found: Vec<String> =
        stage.client.jetstream().stream_names().try_collect::<Vec<_>>().await.unwrap();
    found.sort();
    // And the buckets: the targets' health, what is spent and told, who settles it, what is applied, and large bodies.
    let buckets =
        ["KV_llm_health", "KV_llm_spent", "KV_llm_alerts", "KV_llm_lease", "KV_llm_config", "OBJ_llm_blobs"];
    assert_eq!(found.len(), names.len() + buckets.len(), "{found:?}");
    for bucket in buckets {
        assert!(found.contains(&bucket.to_owned()), "{found:?}");
    }

    // The lanes are durable consumers that never give a message up.
    let lanes = stage.client.consumers("LLM_REQ").await;
    assert_eq!(lanes.len(), 48, "one for each priority and lane");
    for lane in &lanes {
        assert_eq!(lane.config.max_deliver, -1, "{}", lane.name);
        assert!(lane.config.durable_name.is_some() && lane.config.max_ack_pending == 65_536, "{}", lane.name);
    }

    // As an older version left it.
    let mut older = lanes[0].config.clone();
    older.max_ack_pending = 4_096;
    stage.client.jetstream().create_consumer_on_stream(older, "LLM_REQ").await.unwrap();
    for role in [Role::Worker, Role::Router] {
        stage.start(role).await;
    }
    stage.running[0].restart().await;
    eventually(PATIENCE, "all lanes to be as they must be", async || {
        let lanes = stage.client.consumers("LLM_REQ").await;
        let most: Vec<_> = lanes.iter().map(|lane| lane.config.max_ack_pending).collect();
        if most.iter().all(|most| *most == 65_536) { Ok(()) } else { Err(most) }
    })
    .await;
    for (name, before) in names.iter().zip(before) {
        assert_eq!(stream(&stage, name).await, before, "{name} was changed by a start");
    }
    assert_eq!(stage.client.consumers("LLM_REQ").await.len(), 48);
}

/// Runs a role that cannot start to its end: its exit code and what it said.
async fn start_in_vain(stage: &Stage, role: &str) -> (Option<i32>, String) {
    let config = stage.broker.config_path().display().to_string();
    let url = stage.nats.url();
    let arguments = ["run", role, "--config", &config, "--server", &url, "--listen", "127.0.0.1:0"];
    let dir = tempfile::tempdir().unwrap();
    let process = Process::spawn(role, stage.broker.command(&arguments), dir.path());
    (process.ended(PATIENCE).await, process.stderr())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_stream_is_refused_with_what_differs_and_left_alone() {
    let stage = Stage::empty(|provider| config(provider, 8, &[TEAM])).await;
    let foreign = Config {
        name: "LLM_RETRY".into(),
        subjects: vec!["somebody.elses.>".into()],
        retention: RetentionPolicy::Limits,
        max_messages: 10,
        ..Config::default()
    };
    stage.client.jetstream().create_stream(foreign).await.unwrap();
    let before = stream(&stage, "LLM_RETRY").await;

    for role in ["router", "worker", "ledger", "ask"] {
        let (code, said) = start_in_vain(&stage, role).await;
        assert_eq!(code, Some(2), "{said}");
        for part in
            ["LLM_RETRY", "subjects is", "somebody.elses.>", "retention is", "allow_msg_schedules is false"]
        {
            assert!(said.contains(part), "{role} does not name {part}:\n{said}");
        }
    }
    assert_eq!(stream(&stage, "LLM_RETRY").await, before);
}

/// Subjects of another stream that cover ours: the server would not let us create our own.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_covers_our_subjects_is_named() {
    let stage = Stage::empty(|provider| config(provider, 8, &[TEAM])).await;
    let foreign = Config { name: "AUDIT".into(), subjects: vec!["llm.>".into()], ..Config::default() };
    stage.client.jetstream().create_stream(foreign).await.unwrap();
    let (code, said) = start_in_vain(&stage, "router").await;
    assert!(matches!(code, Some(2 | 3)), "{code:?} {said}");
    assert!(said.contains("LLM_REQ") && said.contains("overlap"), "{said}");
}
