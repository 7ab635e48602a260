use tollgate_protocol::response::Status;

use super::*;
use crate::Caps;
use crate::fold::State;
use crate::ledger::Ledger;
use crate::store::memory::MemoryStore;
use crate::testing::{T0, at, event, ledger, messages, unpaid};

fn sample() -> Ledger {
    let mut events = Vec::new();
    for (number, (team, user, app, hour)) in [
        ("research", Some("alice"), Some("chat"), 0),
        ("research", Some("bob"), None, 1),
        ("research", None, Some("batch"), 25),
        ("sales", Some("alice"), Some("chat"), 25),
    ]
    .into_iter()
    .enumerate()
    {
        let mut event = event(&format!("r{number}"), 1);
        event.team = tollgate_protocol::Team::parse(team).unwrap();
        event.meta.user = user.map(Into::into);
        event.meta.tags = app.map(|app| ("app".to_owned(), app.to_owned())).into_iter().collect();
        event.time = at(hour * 3_600 + 100);
        events.push(event);
    }
    events.push(unpaid("r9", Status::Rejected));
    let ledger = ledger(MemoryStore::default(), Caps::default());
    ledger.fold(&messages(&events)).unwrap();
    ledger
}

/// Each row as `[time ]label,label=requests/cost`, and the total the same way.
fn ask(ledger: &Ledger, question: &str) -> (Vec<String>, String) {
    let (request, query) = parse(question.as_bytes()).unwrap();
    let (sums, state) = ledger.query(&query).unwrap();
    let answer = Answer::new(&request, &query, sums, as_of(&state));
    let numbers = |row: &Row| format!("{}/{}", row.requests, row.cost_nano_usd);
    let rows = answer.rows.iter().map(|row| {
        let time = row.time.map(|time| format!("{} ", time.format("%d %H"))).unwrap_or_default();
        let labels: Vec<_> =
            request.by.iter().map(|name| row.labels[name].as_deref().unwrap_or("-")).collect();
        format!("{time}{}={}", labels.join(","), numbers(&row.sums))
    });
    (rows.collect(), numbers(&answer.total))
}

fn as_of(state: &State) -> AsOf {
    AsOf { sequence: state.cursor, stream_last_sequence: None, lag: None, skipped: 0, missing: 0 }
}

#[track_caller]
fn check(question: &str, rows: &[&str], total: &str) {
    let (found, found_total) = ask(&sample(), question);
    assert_eq!(
        (found, found_total.as_str()),
        (rows.iter().map(|row| (*row).to_owned()).collect(), total),
        "{question}"
    );
}

#[test]
fn rows_are_grouped_filtered_and_divided_by_time() {
    check("", &["=5/4000"], "5/4000");
    check(r#"{"by":["team"]}"#, &["research=4/3000", "sales=1/1000"], "5/4000");
    check(
        r#"{"by":["team","provider"]}"#,
        &["research,-=1/0", "research,openai=3/3000", "sales,openai=1/1000"],
        "5/4000",
    );
    check(r#"{"by":["team"],"where":{"team":"sales"}}"#, &["sales=1/1000"], "1/1000");
    check(r#"{"by":["team"],"where":{"provider":null}}"#, &["research=1/0"], "1/0");
    check(r#"{"where":{"team":"nobody"}}"#, &[], "0/0");
    check(r#"{"bucket":"day"}"#, &["01 00 =3/2000", "02 00 =2/2000"], "5/4000");
    check(
        r#"{"bucket":"hour","by":["team"]}"#,
        &["01 00 research=2/1000", "01 01 research=1/1000", "02 01 research=1/1000", "02 01 sales=1/1000"],
        "5/4000",
    );
    check(
        r#"{"by":["endpoint","priority","requested_model"]}"#,
        &["chat.completions,normal,small=5/4000"],
        "5/4000",
    );
}

#[test]
fn users_and_tags_add_up_to_everything() {
    check(r#"{"by":["user"]}"#, &["-=2/1000", "alice=2/2000", "bob=1/1000"], "5/4000");
    check(
        r#"{"by":["team","user"],"where":{"user":"alice"}}"#,
        &["research,alice=1/1000", "sales,alice=1/1000"],
        "2/2000",
    );
    check(r#"{"by":["tag:app"]}"#, &["-=2/1000", "batch=1/1000", "chat=2/2000"], "5/4000");
    check(r#"{"by":["tag:none"]}"#, &["-=5/4000"], "5/4000");
    check(r#"{"by":["team"],"where":{"tag:app":null}}"#, &["research=2/1000"], "2/1000");
    check(r#"{"where":{"tag:app":"chat","team":"sales"}}"#, &["=1/1000"], "1/1000");
}

#[test]
fn times_are_widened_to_whole_hours() {
    check(r#"{"from":"2026-01-01T01:30:00Z","to":"2026-01-02T01:00:00Z"}"#, &["=1/1000"], "1/1000");
    check(r#"{"from":"2026-01-01T02:30:00+01:00","to":"2026-01-02T01:00:01Z"}"#, &["=3/3000"], "3/3000");
    let (request, query) = parse(br#"{"from":"2026-01-01T01:30:00Z","to":"2026-01-01T02:00:01Z"}"#).unwrap();
    let answer = Answer::new(&request, &query, Sums::default(), as_of(&State::default()));
    assert_eq!((answer.from, answer.to), (Some(at(3_600)), Some(at(3 * 3_600))));
    assert_eq!(query.hours.0, u32::try_from(T0 / 3_600).unwrap() + 1);
}

#[test]
fn wrong_questions_are_told_what_is_wrong() {
    for (question, field, part) in [
        ("{", None, "cannot be read"),
        (r#"{"group":["team"]}"#, None, "unknown field `group`, expected one of `by`"),
        (r#"{"bucket":"week"}"#, None, "unknown variant `week`"),
        (r#"{"by":["colour"]}"#, Some("by"), "expected team, project"),
        (r#"{"by":["hour"]}"#, Some("by"), "use \"bucket\""),
        (r#"{"by":["tag:"]}"#, Some("by"), "tag:NAME"),
        (r#"{"where":{"colour":"x"}}"#, Some("where"), "\"colour\""),
        (r#"{"by":["team","team"]}"#, Some("by"), "twice"),
        (r#"{"by":["user","model"]}"#, Some("by"), "\"user\" and \"model\" cannot be combined"),
        (r#"{"by":["user"],"where":{"tag:app":"x"}}"#, Some("by"), "cannot be combined"),
        (r#"{"by":["tag:a","tag:b"]}"#, Some("by"), "cannot be combined"),
        (r#"{"from":"2026-01-02T00:00:00Z","to":"2026-01-02T00:00:00Z"}"#, Some("to"), "after"),
    ] {
        let problem = parse(question.as_bytes()).unwrap_err();
        assert_eq!(problem.field.as_deref(), field, "{question}");
        assert!(problem.message.contains(part), "{question}: {problem}");
    }
}

#[test]
fn an_answer_with_too_many_rows_keeps_the_first_ones_whole_and_the_total_exact() {
    let ledger = ledger(MemoryStore::default(), Caps::default());
    // The smallest names come last, so that groups are cut that were there first.
    let events: Vec<_> = (0..100)
        .map(|number| {
            let mut event = event(&format!("r{number}"), 1);
            event.meta.user = Some(format!("user-{:02}", (99 - number) / 2));
            event
        })
        .collect();
    ledger.fold(&messages(&events)).unwrap();
    let (request, mut query) = parse(br#"{"by":["user"]}"#).unwrap();
    query.rows_max = 3;
    let (sums, state) = ledger.query(&query).unwrap();
    let answer = Answer::new(&request, &query, sums, as_of(&state));
    assert!(answer.truncated);
    let rows: Vec<_> =
        answer.rows.iter().map(|row| (row.labels["user"].as_deref(), row.sums.requests)).collect();
    assert_eq!(rows, [(Some("user-00"), 2), (Some("user-01"), 2), (Some("user-02"), 2)]);
    assert_eq!(answer.total.requests, 100);
}

#[test]
fn the_answer_has_the_fields_of_the_contract() {
    let (request, query) =
        parse(br#"{"by":["team","user"],"bucket":"day","where":{"team":"sales"}}"#).unwrap();
    let (sums, _) = sample().query(&query).unwrap();
    let as_of = AsOf { sequence: 5, stream_last_sequence: Some(7), lag: Some(2), skipped: 0, missing: 0 };
    let answer = Answer::new(&request, &query, sums, as_of);
    let numbers = serde_json::json!({
        "requests": 1, "succeeded": 1, "failed": 0, "rejected": 0, "expired": 0, "cancelled": 0,
        "attempts": 1, "lost": 0, "errors": 0,
        "input_tokens": 10, "cached_input_tokens": 4, "output_tokens": 3, "reasoning_tokens": 1,
        "cost_nano_usd": 1000, "estimated_cost_nano_usd": 0,
        "latency_ms_sum": 200, "latency_count": 1, "queued_ms_sum": 5,
    });
    let mut row = numbers.clone();
    row["time"] = "2026-01-02T00:00:00Z".into();
    row["team"] = "sales".into();
    row["user"] = "alice".into();
    let expected = serde_json::json!({
        "rows": [row], "total": numbers, "truncated": false,
        "as_of": {"sequence": 5, "stream_last_sequence": 7, "lag": 2, "skipped": 0, "missing": 0},
    });
    let json = answer.clone().encode(100_000).unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&json).unwrap(), expected);
    assert_eq!(
        serde_json::from_slice::<Answer>(&json).unwrap(),
        answer,
        "a client can read it with our types"
    );
}

#[test]
fn an_answer_is_cut_to_what_a_message_may_have() {
    let (request, query) = parse(br#"{"by":["team","user"]}"#).unwrap();
    let (sums, state) = sample().query(&query).unwrap();
    let answer = Answer::new(&request, &query, sums, as_of(&state));
    let whole = answer.clone().encode(usize::MAX).unwrap().unwrap();
    let cut: Answer =
        serde_json::from_slice(&answer.clone().encode(whole.len() - 1).unwrap().unwrap()).unwrap();
    assert!(cut.truncated && cut.rows.len() < answer.rows.len());
    assert_eq!(cut.total, answer.total);
    assert_eq!(answer.encode(10).unwrap(), None);
}

#[test]
fn sums_beyond_64_bits_are_written_in_full() {
    let row = Row { cost_nano_usd: i128::from(i64::MAX) * 3, ..Row::default() };
    assert!(serde_json::to_string(&row).unwrap().contains("27670116110564327421"));
}
