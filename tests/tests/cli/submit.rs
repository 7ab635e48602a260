use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tollgate_tests::check::{Evidence, Expected, settled};
use tollgate_tests::provider::{Behaviour, answer_to};
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::wait::eventually;

use super::{end, results, run, start, text};
use crate::stage::{PATIENCE, PRICE, Stage, TARGET, config};

/// The batch that is shown to everybody who tries the program.
const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/demo_prompts.jsonl");

/// A broker that serves the sample's model and team.
async fn stage() -> Stage {
    Stage::up(|provider| config(provider, 8, &["default"]).model("demo", &[TARGET])).await
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A batch of so many requests.
fn batch(dir: &Path, name: &str, count: usize) -> PathBuf {
    let path = dir.join(name);
    let line = |n: usize| {
        let body = json!({"model": "demo", "messages": [{"role": "user", "content": format!("{name} {n}")}]});
        json!({"custom_id": format!("c-{n}"), "method": "POST", "url": "/v1/chat/completions", "body": body})
    };
    let text: String = (0..count).map(|n| format!("{}\n", line(n))).collect();
    std::fs::write(&path, text).unwrap();
    path
}

/// The evidence over everything that was asked of the broker; identities are taken from its own record, since a batch
/// makes them itself, and what they must have been answered with from the provider's log.
async fn agrees(stage: &Stage, count: usize) {
    let record = stage.client.read_stream("LLM_RECORD").await;
    let identities: Vec<_> =
        record.iter().filter_map(|stored| Identity::of_response(&stored.subject)).collect();
    assert_eq!(identities.len(), count);
    let expected: Vec<_> = identities
        .iter()
        .map(|identity| {
            let response = record.iter().find(|stored| stored.subject == identity.response_subject());
            let answer = response.unwrap().value()["body"]["choices"][0]["message"]["content"].clone();
            let calls = stage.provider.calls();
            let call = calls.into_iter().find(|call| answer_to(&call.body).text == answer);
            let call = call.unwrap_or_else(|| panic!("{identity} has somebody else's answer: {answer}"));
            Expected::answered(&Request::with_body(identity, call.body))
        })
        .collect();
    settled(PATIENCE, async || {
        Evidence::gather(&stage.client, &expected, &[(TARGET, PRICE)], &[], &[&stage.provider]).await
    })
    .await
    .assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_answered_line_by_line_and_never_run_twice() {
    let stage = stage().await;
    let dir = tempfile::tempdir().unwrap();
    let (out, errors) = (dir.path().join("out.jsonl"), dir.path().join("errors.jsonl"));
    let arguments = ["submit", SAMPLE, "--out", text(&out), "--errors", text(&errors), "--json"];
    let first = run(&stage, dir.path(), &arguments).await;
    assert_eq!(first.code, Some(0), "{}", first.stderr);

    let sample = lines(Path::new(SAMPLE));
    let answers = results(&out);
    assert_eq!(answers.len(), sample.len());
    let mut cost = 0;
    for line in &sample {
        let custom_id = line["custom_id"].as_str().unwrap();
        let answer = &answers[custom_id];
        assert_eq!(answer["response"]["status_code"], 200);
        let expected = answer_to(&line["body"]);
        assert_eq!(
            answer["response"]["body"]["choices"][0]["message"]["content"], expected.text,
            "{custom_id}"
        );
        assert!(answer["error"].is_null());
        let own = answer["tollgate"]["cost_nano_usd"].as_i64().unwrap();
        assert_eq!(i128::from(own), PRICE.cost(expected.tokens), "{custom_id}");
        cost += own;
    }
    assert!(!errors.exists(), "nothing failed");
    let summary = first.json();
    assert_eq!((&summary["succeeded"], &summary["failed"]), (&sample.len().into(), &0.into()));
    assert_eq!(summary["cost_nano_usd"], cost);
    agrees(&stage, sample.len()).await;
    assert_eq!(stage.client.usage_by_team().await["total"]["cost_nano_usd"], cost);

    // Again: with the files there, with the files gone, and from another copy of the same file.
    let text_before = std::fs::read_to_string(&out).unwrap();
    assert_eq!(run(&stage, dir.path(), &arguments).await.code, Some(0));
    assert_eq!(std::fs::read_to_string(&out).unwrap(), text_before);
    std::fs::remove_file(&out).unwrap();
    let copy = dir.path().join("copy.jsonl");
    std::fs::copy(SAMPLE, &copy).unwrap();
    let again = run(&stage, dir.path(), &["submit", text(&copy), "--out", text(&out), "--json"]).await;
    assert_eq!((again.code, &again.json()["answered_earlier"]), (Some(0), &sample.len().into()));
    assert_eq!(results(&out).len(), sample.len());
    stage.idle().await;
    assert_eq!(stage.provider.total(), sample.len(), "a repeated batch was run again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_in_the_error_file_and_exit_code_1() {
    let stage = stage().await;
    stage.provider.script(|call| match call.key.rsplit(' ').next() {
        Some("3" | "7") => Behaviour::error(400, "bad_request", None),
        _ => Behaviour::Answer,
    });
    let dir = tempfile::tempdir().unwrap();
    let file = batch(dir.path(), "some-fail.jsonl", 20);
    let ended = run(&stage, dir.path(), &["submit", text(&file), "--json"]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let (out, errors) = (
        results(&dir.path().join("some-fail.out.jsonl")),
        results(&dir.path().join("some-fail.errors.jsonl")),
    );
    assert_eq!((out.len(), errors.len()), (18, 2));
    for custom_id in ["c-3", "c-7"] {
        assert!(!out.contains_key(custom_id));
        let response = &errors[custom_id]["response"];
        assert_eq!(response["status_code"], 400, "{}", errors[custom_id]);
        assert_eq!(response["body"]["error"]["code"], "provider_rejected");
    }
    let summary = ended.json();
    assert_eq!(
        (&summary["succeeded"], &summary["failed"], &summary["missing"]),
        (&18.into(), &2.into(), &0.into())
    );
    // A failure is an answer: it is not run again either.
    let again = run(&stage, dir.path(), &["submit", text(&file)]).await;
    assert_eq!((again.code, stage.provider.total()), (Some(1), 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submit_that_is_killed_goes_on_where_it_was() {
    const COUNT: usize = 600;
    let stage = stage().await;
    stage.provider.latency(Duration::from_millis(10));
    let dir = tempfile::tempdir().unwrap();
    let file = batch(dir.path(), "killed.jsonl", COUNT);
    let out = dir.path().join("killed.out.jsonl");
    let arguments = ["submit", text(&file), "--in-flight", "64"];
    for share in [50, 250] {
        let submit = start(&stage, dir.path(), &arguments);
        eventually(PATIENCE, "a part of the answers", async || {
            let done = std::fs::read_to_string(&out).unwrap_or_default().lines().count();
            if done >= share || !submit.is_alive() { Ok(()) } else { Err(done) }
        })
        .await;
        submit.kill9();
    }
    let ended = run(&stage, dir.path(), &arguments).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let answers = results(&out);
    assert_eq!(answers.len(), COUNT);
    for (n, line) in lines(&file).iter().enumerate() {
        let answer = &answers[&format!("c-{n}")]["response"]["body"]["choices"][0]["message"]["content"];
        assert_eq!(*answer, answer_to(&line["body"]).text, "c-{n}");
    }
    stage.idle().await;
    assert_eq!(stage.provider.total(), COUNT, "something was run twice");
    let counts = stage.provider.call_counts();
    assert!(counts.values().all(|&count| count == 1));
    let cost: i64 = answers.values().map(|line| line["tollgate"]["cost_nano_usd"].as_i64().unwrap()).sum();
    eventually(PATIENCE, "the ledger's sum", async || {
        let total = stage.client.usage_by_team().await["total"].clone();
        if total["cost_nano_usd"] == cost && total["requests"] == COUNT { Ok(()) } else { Err(total) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_can_be_collected_later() {
    let stage = stage().await;
    let dir = tempfile::tempdir().unwrap();
    let file = batch(dir.path(), "later.jsonl", 30);
    let detached =
        run(&stage, dir.path(), &["submit", text(&file), "--group", "later", "--detach", "--json"]).await;
    assert_eq!((detached.code, &detached.json()["sent"]), (Some(0), &30.into()), "{}", detached.stderr);

    let waiting = start(&stage, dir.path(), &["wait", "later", "--count", "30"]);
    let waited = end(&waiting).await;
    assert_eq!(waited.code, Some(0), "{}", waited.stderr);
    let out = dir.path().join("collected.jsonl");
    let collect = ["collect", "later", "--file", text(&file), "--out", text(&out), "--wait", "--json"];
    let collected = run(&stage, dir.path(), &collect).await;
    assert_eq!(collected.code, Some(0), "{}", collected.stderr);
    assert_eq!(results(&out).len(), 30);
    // Without the file nobody knows its custom_ids, but the answers are there all the same.
    let whole = dir.path().join("whole.jsonl");
    let collected = run(&stage, dir.path(), &["collect", "later", "--out", text(&whole)]).await;
    assert_eq!(collected.code, Some(0), "{}", collected.stderr);
    assert_eq!(std::fs::read_to_string(&whole).unwrap().lines().count(), 30);
    assert_eq!(stage.provider.total(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_broken_off_is_not_said_to_have_never_run() {
    let stage = stage().await;
    stage.provider.script(|call| match call.key.rsplit(' ').next() {
        Some("0") => Behaviour::Hang,
        _ => Behaviour::Answer,
    });
    let dir = tempfile::tempdir().unwrap();
    let file = batch(dir.path(), "taken-back.jsonl", 2);
    let submit = start(&stage, dir.path(), &["submit", text(&file)]);
    eventually(PATIENCE, "one call that is left", async || {
        let calls = (stage.provider.total(), stage.provider.in_flight());
        if calls == (2, 1) { Ok(()) } else { Err(calls) }
    })
    .await;
    let cancelled = run(&stage, dir.path(), &["cancel", "--file", text(&file)]).await;
    assert_eq!(cancelled.code, Some(0), "{}{}", cancelled.stdout, cancelled.stderr);
    let ended = end(&submit).await;
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let errors = results(&dir.path().join("taken-back.errors.jsonl"));
    let line = &errors["c-0"];
    assert_eq!((errors.len(), &line["response"]), (1, &Value::Null), "{line}");
    assert_eq!(line["error"]["code"], "batch_cancelled");
    let message = line["error"]["message"].as_str().unwrap();
    assert!(message.contains("cancelled while it was executed"), "{message}");
    assert_eq!(line["tollgate"]["attempts"], 1, "{line}");
}
