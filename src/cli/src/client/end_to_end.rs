//! The batch commands against a real nats-server and a broker that only pretends: it answers what the model's
//! name says. What the real broker does with requests is tested elsewhere; here it is what the client does
//! with answers, with none, and with a full queue.

mod broker;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::run;
use crate::args::{Cli, Command};
use crate::failure::{Exit, Failure};
use broker::Broker;

/// Runs a command line in this process.
async fn tollgate(line: &str) -> Result<ExitCode, Failure> {
    let cli = Cli::read(std::iter::once("tollgate").chain(line.split_whitespace())).expect("a command line");
    let Command::Client(command) = cli.command else { panic!("{line} is no command of the client") };
    run(command, &cli.global).await
}

fn batch(models: &[&str]) -> String {
    let line = |(index, model): (usize, &&str)| {
        let body = serde_json::json!({"model": model, "messages": [{"role": "user", "content": index}]});
        serde_json::json!({"custom_id": format!("c-{index}"), "method": "POST", "url": "/v1/chat/completions", "body": body})
    };
    models.iter().enumerate().map(|line_of| format!("{}\n", line(line_of))).collect()
}

/// The lines of a result file by `custom_id`, none of which may stand twice.
fn lines(text: Option<String>) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for line in text.unwrap_or_default().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let before = found.insert(line["custom_id"].as_str().unwrap().to_owned(), line.clone());
        assert_eq!(before, None, "twice: {line}");
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_ends_up_in_one_of_the_files() {
    let broker = Broker::start(1_000_000).await;
    let models: Vec<&str> = ["ok", "ok", "ok", "bad", "late"].into_iter().cycle().take(1_500).collect();
    broker.write("in.jsonl", &batch(&models));
    let command = broker.line("submit {}/in.jsonl --tag application=test");
    assert_eq!(tollgate(&command).await, Ok(ExitCode::from(1)));
    let (out, errors) = (lines(broker.read("in.out.jsonl")), lines(broker.read("in.errors.jsonl")));
    assert_eq!((out.len(), errors.len()), (900, 600));
    assert_eq!(out["c-0"]["response"]["body"]["echo"], "ok");
    assert_eq!(errors["c-3"]["response"]["status_code"], 404);
    assert_eq!(errors["c-4"]["error"]["code"], "batch_expired");
    assert!((0..1_500).all(|index| {
        let id = format!("c-{index}");
        out.contains_key(&id) != errors.contains_key(&id)
    }));

    let sent = broker.seen();
    assert_eq!(sent, 1_500);
    assert_eq!(tollgate(&command).await, Ok(ExitCode::from(1)));
    assert_eq!(broker.seen(), sent, "a second run sends nothing");
    assert_eq!(lines(broker.read("in.out.jsonl")), out);
    assert_eq!(lines(broker.read("in.errors.jsonl")), errors);

    assert_eq!(tollgate(&broker.line("wait --file {}/in.jsonl")).await, Ok(ExitCode::SUCCESS));
    let collect = broker.line("collect --file {}/in.jsonl --out {}/o --errors {}/e --wait");
    assert_eq!(tollgate(&collect).await, Ok(ExitCode::from(1)));
    assert_eq!(lines(broker.read("o")), out);
    assert_eq!(lines(broker.read("e")), errors);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_was_killed_is_completed_by_the_next() {
    let broker = Broker::start(1_000_000).await;
    let models: Vec<&str> = ["ok", "stuck"].into_iter().cycle().take(200).collect();
    broker.write("in.jsonl", &batch(&models));
    let command = broker.line("submit {}/in.jsonl");
    let killed = tokio::time::timeout(Duration::from_secs(4), tollgate(&command)).await;
    assert!(killed.is_err(), "half of the requests have no answer");
    assert_eq!(broker.read("in.out.jsonl"), None);
    let partial = broker.read("in.out.jsonl.partial").unwrap();
    assert_eq!(partial.lines().count(), 100);
    // As a kill in the middle of a write leaves it.
    broker.write("in.out.jsonl.partial", &partial[..partial.len() - 30]);
    broker.release();
    assert_eq!(tollgate(&command).await, Ok(ExitCode::SUCCESS));
    assert_eq!(lines(broker.read("in.out.jsonl")).len(), 200);
    assert_eq!((broker.read("in.errors.jsonl"), broker.read("in.out.jsonl.partial")), (None, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_slows_down_and_fails_nothing() {
    let broker = Broker::start(10).await;
    broker.write("in.jsonl", &batch(&["ok"; 60]));
    let drained = broker.drain_every(Duration::from_millis(300));
    assert_eq!(tollgate(&broker.line("submit {}/in.jsonl --in-flight 16")).await, Ok(ExitCode::SUCCESS));
    drained.abort();
    assert_eq!(lines(broker.read("in.out.jsonl")).len(), 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_can_be_sent_now_and_collected_later() {
    let broker = Broker::start(1_000_000).await;
    broker.write("in.jsonl", &batch(&["ok", "bad", "ok"]));
    assert_eq!(
        tollgate(&broker.line("submit {}/in.jsonl --group night --detach")).await,
        Ok(ExitCode::SUCCESS)
    );
    assert_eq!(tollgate(&broker.line("wait night --count 3")).await, Ok(ExitCode::SUCCESS));
    assert_eq!(tollgate(&broker.line("collect night --out {}/o --errors {}/e")).await, Ok(ExitCode::from(1)));
    assert_eq!((lines(broker.read("o")).len(), lines(broker.read("e")).len()), (2, 1));
    assert_eq!(tollgate(&broker.line("show c-0 --team default --group night")).await, Ok(ExitCode::SUCCESS));
    assert_eq!(tollgate(&broker.line("status --json")).await, Ok(ExitCode::SUCCESS));
    let missing = tollgate(&broker.line("show nothing")).await.unwrap_err();
    assert_eq!(missing.exit, Exit::Failed);

    // The same names for other requests: an answer to another question is not passed off as the answer.
    broker.write("in.jsonl", &batch(&["ok", "ok", "ok"]));
    assert_eq!(tollgate(&broker.line("submit {}/in.jsonl --group night")).await, Ok(ExitCode::from(1)));
    let errors = lines(broker.read("in.errors.jsonl"));
    assert_eq!(errors.keys().collect::<Vec<_>>(), ["c-1"]);
    assert_eq!(errors["c-1"]["error"]["code"], "duplicate_id");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_not_there_is_told_apart_from_a_wrong_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("in.jsonl");
    std::fs::write(&file, batch(&["ok"])).unwrap();
    let submit = |server: &str| format!("submit {} --server {server}", file.display());
    let away = tollgate(&submit("nats://127.0.0.1:1")).await.unwrap_err();
    assert_eq!(away.exit, Exit::Unreachable, "{}", away.message);
    let ask = tollgate("ask hello --server nats://127.0.0.1:1").await.unwrap_err();
    assert_eq!(ask.exit, Exit::Unreachable);
    std::fs::write(&file, "{}").unwrap();
    let wrong = tollgate(&submit("nats://127.0.0.1:1")).await.unwrap_err();
    assert_eq!(wrong.exit, Exit::Usage);

    let broker = Broker::bare().await;
    std::fs::write(&file, batch(&["ok"])).unwrap();
    let empty = tollgate(&submit(&broker.url)).await.unwrap_err();
    assert_eq!(empty.exit, Exit::Unreachable);
    assert!(empty.message.contains("tollgate up"), "{}", empty.message);
    let nobody = tollgate(&broker.line("ask hello --team default")).await.unwrap_err();
    assert_eq!((nobody.exit, nobody.message.contains("tollgate run ask")), (Exit::Unreachable, true));
    let ledger = tollgate(&broker.line("usage")).await.unwrap_err();
    assert_eq!(ledger.exit, Exit::Unreachable);
}
