use serde_json::json;
use tollgate_tests::provider::answer_to;

use super::run;
use crate::stage::{Stage, TARGET, config};

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_answered_on_standard_output() {
    let stage = Stage::up(|provider| config(provider, 8, &["default"]).model("demo", &[TARGET])).await;
    let dir = tempfile::tempdir().unwrap();
    let text = |question: &str| answer_to(&json!({"messages": [{"role": "user", "content": question}]})).text;
    let plain = run(&stage, dir.path(), &["ask", "why is it so?", "--id", "q-1"]).await;
    assert_eq!(plain.code, Some(0), "{}", plain.stderr);
    assert_eq!(plain.stdout.trim_end(), text("why is it so?"), "only the answer, for pipes");
    let again = run(&stage, dir.path(), &["ask", "why is it so?", "--id", "q-1", "--json"]).await;
    assert_eq!(again.json()["choices"][0]["message"]["content"], text("why is it so?"));
    assert_eq!(stage.provider.total(), 1, "the same id is the same question");

    let refused = run(&stage, dir.path(), &["ask", "hello", "--model", "no-such-model"]).await;
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
    assert!(refused.stderr.contains("unknown_model"), "{}", refused.stderr);
    let stranger = run(&stage, dir.path(), &["ask", "hello", "--team", "strangers"]).await;
    assert_eq!(stranger.code, Some(1));
    assert!(stranger.stderr.contains("unknown_team"), "{}", stranger.stderr);

    let shown = run(&stage, dir.path(), &["show", "q-1", "--json"]).await;
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    assert!(shown.stdout.contains("succeeded") && shown.stdout.contains("q-1"), "{}", shown.stdout);
    let unknown = run(&stage, dir.path(), &["show", "no-such-id"]).await;
    assert_eq!(unknown.code, Some(1), "{}", unknown.stderr);
}
