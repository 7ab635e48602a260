use std::time::{Instant, SystemTime};

use async_nats::HeaderMap;
use serde_json::{Value, json};
use tollgate_tests::check::{Evidence, Expected, Rule, check};
use tollgate_tests::client::Stored;
use tollgate_tests::money::{Price, Tokens, usd};
use tollgate_tests::provider::{Call, End, answer_to};
use tollgate_tests::request::{Identity, Request};

/// Dear enough that a token more or less shows, odd enough that a cost is rounded.
pub(super) const PRICE: Price = Price { input: 150_333_333, cached_input: 75_000_000, output: 600_777_777 };

pub(super) fn request(n: usize) -> Request {
    Request::chat(&Identity::new("research", "g", &n.to_string()), "small", &format!("question number {n}"))
}

fn stored(sequence: usize, subject: &str, ce_id: Option<&str>, value: &Value) -> Stored {
    let mut headers = HeaderMap::new();
    if let Some(id) = ce_id {
        headers.insert("ce-id", id);
    }
    let payload = serde_json::to_vec(value).unwrap().into();
    Stored { sequence: sequence as u64, subject: subject.to_owned(), headers, payload }
}

fn edit(stored: &mut Stored, change: impl FnOnce(&mut Value)) {
    let mut value = stored.value();
    change(&mut value);
    stored.payload = serde_json::to_vec(&value).unwrap().into();
}

fn call(request: &Request, end: End) -> Call {
    let key = tollgate_tests::provider::key_of(request.body());
    let (arrived, arrived_at) = (Instant::now(), SystemTime::now());
    let (headers, body) = (Default::default(), request.body().clone());
    Call { number: 0, key, earlier: 0, arrived, arrived_at, headers, body, ended: Some(arrived), end }
}

/// Three requests, each called, answered and counted once.
pub(super) fn evidence() -> Evidence {
    let mut evidence = Evidence { prices: [("sim/m".to_owned(), PRICE)].into(), ..Evidence::default() };
    let (mut cost, mut input, mut output) = (0, 0, 0);
    for n in 1..=3 {
        let request = request(n);
        let Identity { team, group, id } = &request.identity;
        let answer = answer_to(request.body());
        let paid = PRICE.cost(answer.tokens);
        (cost, input, output) = (cost + paid, input + answer.tokens.input, output + answer.tokens.output);
        let usage = json!({"input_tokens": answer.tokens.input, "cached_input_tokens": 0,
            "output_tokens": answer.tokens.output});
        let response = json!({
            "id": id, "team": team, "group": group, "status": "succeeded",
            "body": {"choices": [{"message": {"role": "assistant", "content": answer.text}}]},
            "usage": usage, "cost_nano_usd": paid as i64,
            "attempts": [{"provider": "sim", "model": "m", "number": 1, "outcome": "succeeded",
                "cost_nano_usd": paid as i64}],
        });
        let event = json!({"kind": "attempt", "final": true, "provider": "sim", "model": "m", "usage": usage,
            "cost_nano_usd": paid as i64});
        let ce_id = format!("{}.1", request.identity);
        evidence.record.push(stored(2 * n - 1, &format!("llm.run.{}", request.identity), None, &json!({})));
        evidence.record.push(stored(2 * n, &request.identity.response_subject(), None, &response));
        evidence.usage.push(stored(n, "llm.usage.research.sim.m", Some(&ce_id), &event));
        evidence.calls.push(call(&request, End::Answered));
        evidence.expected.push(Expected::answered(&request));
    }
    evidence.live = evidence.record.iter().filter(|s| s.subject.starts_with("llm.res.")).cloned().collect();
    let total =
        json!({"requests": 3, "cost_nano_usd": cost as i64, "input_tokens": input, "output_tokens": output});
    evidence.ledger =
        Some(json!({"rows": [{"team": "research", "cost_nano_usd": cost as i64}], "total": total}));
    evidence
}

/// Breaks the sound evidence and says which rules must notice, and no other.
#[track_caller]
fn breaks(expected: &[Rule], change: impl FnOnce(&mut Evidence)) {
    let mut evidence = evidence();
    change(&mut evidence);
    let report = check(&evidence);
    assert_eq!(report.rules(), expected, "{report}");
}

/// The last stored response.
fn response(evidence: &mut Evidence) -> &mut Stored {
    evidence.record.last_mut().unwrap()
}

#[test]
fn sound_evidence_is_clean() {
    breaks(&[], |_| {});
    check(&evidence()).assert_clean();
}

#[test]
fn a_missing_answer_is_noticed() {
    breaks(&[Rule::Unanswered, Rule::SumsDiffer], |e| {
        e.record.pop();
        e.live.pop();
    });
}

#[test]
fn a_double_answer_is_noticed_in_the_record_and_live() {
    breaks(&[Rule::AnsweredTwice], |e| {
        let again = Stored { sequence: 99, ..response(e).clone() };
        e.record.push(again);
    });
    // Replaced in the stream, which keeps one message of a subject: only who listened has seen both.
    breaks(&[Rule::AnsweredTwice], |e| e.live[0].sequence = 99);
}

#[test]
fn another_requests_answer_is_noticed() {
    breaks(&[Rule::WrongAnswer], |e| {
        edit(response(e), |r| {
            r["body"]["choices"][0]["message"]["content"] = json!("echo:000 something else")
        });
    });
    breaks(&[Rule::WrongAnswer], |e| edit(response(e), |r| r["team"] = json!("sales")));
    breaks(&[Rule::WrongStatus], |e| edit(response(e), |r| r["status"] = json!("failed")));
    breaks(&[Rule::WrongTokens], |e| edit(response(e), |r| r["usage"]["output_tokens"] = json!(1)));
}

#[test]
fn a_response_to_nothing_is_noticed() {
    breaks(&[Rule::UnknownResponse], |e| {
        e.record.push(stored(99, "llm.res.research.g.never", None, &json!({"status": "succeeded"})));
    });
}

#[test]
fn a_nano_dollar_is_noticed_wherever_it_is() {
    breaks(&[Rule::ResponseSum], |e| {
        edit(response(e), |r| r["cost_nano_usd"] = json!(r["cost_nano_usd"].as_i64().unwrap() + 1));
    });
    breaks(&[Rule::WrongCost, Rule::ResponseSum, Rule::UsageContradicts, Rule::SumsDiffer], |e| {
        edit(response(e), |r| {
            let cost = r["attempts"][0]["cost_nano_usd"].as_i64().unwrap();
            r["attempts"][0]["cost_nano_usd"] = json!(cost + 1);
        });
    });
    breaks(&[Rule::WrongCost, Rule::UsageContradicts, Rule::SumsDiffer], |e| {
        edit(&mut e.usage[0], |u| u["cost_nano_usd"] = json!(u["cost_nano_usd"].as_i64().unwrap() - 1));
    });
    breaks(&[Rule::SumsDiffer], |e| {
        let total = &mut e.ledger.as_mut().unwrap()["total"]["cost_nano_usd"];
        *total = json!((total.as_i64().unwrap() + 1).to_string());
    });
}

#[test]
fn a_ledger_that_counts_wrong_is_noticed() {
    breaks(&[Rule::SumsDiffer], |e| e.ledger.as_mut().unwrap()["total"]["requests"] = json!(4));
    breaks(&[Rule::SumsDiffer], |e| e.ledger.as_mut().unwrap()["total"]["output_tokens"] = json!(0));
    breaks(&[Rule::SumsDiffer], |e| e.ledger.as_mut().unwrap()["rows"] = json!([]));
}

#[test]
fn usage_events_and_attempts_belong_together() {
    breaks(&[Rule::UsageMissing, Rule::CountedOnce, Rule::SumsDiffer, Rule::CallNotOnLedger], |e| {
        e.usage.pop();
    });
    breaks(&[Rule::CountedOnce], |e| edit(&mut e.usage[0], |u| u["final"] = json!(false)));
    // A redelivered event is the same event.
    breaks(&[], |e| e.usage.push(Stored { sequence: 99, ..e.usage[0].clone() }));
}

#[test]
fn a_second_paid_call_is_noticed_unless_the_first_is_lost() {
    breaks(&[Rule::CallNotOnLedger, Rule::PaidTwice], |e| e.calls.push(call(&request(3), End::Answered)));
    breaks(&[Rule::CallNotOnLedger], |e| e.calls.push(call(&request(9), End::Answered)));
    breaks(&[], |e| lose_first_attempt(e, 500));
    // Its result turned up after all: the event knows better than the response, and the ledger follows it.
    breaks(&[], |e| {
        lose_first_attempt(e, 500);
        let mut late = Stored { sequence: 100, ..e.usage.last().unwrap().clone() };
        let cost = PRICE.cost(Tokens { input: 3, cached_input: 1, output: 4 }) as i64;
        edit(&mut late, |u| {
            *u = json!({"kind": "attempt", "final": false, "provider": "sim", "model": "m", "cost_nano_usd": cost,
                "usage": {"input_tokens": 3, "cached_input_tokens": 1, "output_tokens": 4}});
        });
        e.usage.push(late);
        add_to_ledger(e, "cost_nano_usd", cost - 500);
        add_to_ledger(e, "input_tokens", 3);
        add_to_ledger(e, "output_tokens", 4);
    });
}

/// Request 3 was called a second time: its first attempt is lost, at this estimate, and is named in the response.
fn lose_first_attempt(evidence: &mut Evidence, estimate: i64) {
    let identity = request(3).identity;
    evidence.calls.push(call(&request(3), End::Answered));
    evidence.usage[2].headers.insert("ce-id", format!("{identity}.2").as_str());
    let event = json!({"kind": "lost", "final": false, "provider": "sim", "model": "m", "estimated": true,
        "usage": {}, "cost_nano_usd": estimate});
    evidence.usage.push(stored(99, "llm.usage.research.sim.m", Some(&format!("{identity}.1")), &event));
    edit(response(evidence), |r| {
        let mut good = r["attempts"][0].clone();
        good["number"] = json!(2);
        let lost = json!({"provider": "sim", "model": "m", "number": 1, "outcome": "lost", "cost_nano_usd": estimate});
        r["attempts"] = json!([lost, good]);
        r["cost_nano_usd"] = json!(r["cost_nano_usd"].as_i64().unwrap() + estimate);
    });
    add_to_ledger(evidence, "cost_nano_usd", estimate);
}

fn add_to_ledger(evidence: &mut Evidence, what: &str, amount: i64) {
    let ledger = evidence.ledger.as_mut().unwrap();
    ledger["total"][what] = json!(ledger["total"][what].as_i64().unwrap() + amount);
    if what == "cost_nano_usd" {
        ledger["rows"][0][what] = ledger["total"][what].clone();
    }
}

#[test]
fn corrections_are_signed_and_part_of_the_sum() {
    breaks(&[], |e| {
        let correction = json!({"kind": "correction", "cost_nano_usd": -7, "usage": {}});
        e.usage.push(stored(99, "llm.usage.research.sim.m", Some("c-1"), &correction));
        add_to_ledger(e, "cost_nano_usd", -7);
    });
}

#[test]
fn every_broken_rule_is_in_the_report_with_examples() {
    let mut evidence = evidence();
    evidence.record.clear();
    evidence.ledger = None;
    let report = check(&evidence);
    assert_eq!(report.count(Rule::Unanswered), 3);
    assert_eq!(report.rules(), [Rule::Unanswered, Rule::SumsDiffer]);
    let text = report.to_string();
    assert!(text.contains("Unanswered, 3 times") && text.contains("research.g.2"), "{text}");
}

#[test]
fn costs_are_rounded_once_and_half_up() {
    let cost = |price: Price, input, cached_input, output| price.cost(Tokens { input, cached_input, output });
    assert_eq!(cost(Price::new(500_000, 0), 1, 0, 0), 1);
    assert_eq!(cost(Price::new(499_999, 0), 1, 0, 0), 0);
    // Rounded by kind this would be 2.
    assert_eq!(cost(Price::new(500_000, 500_000), 1, 0, 1), 1);
    assert_eq!(
        cost(PRICE, 10, 4, 2),
        (6 * 150_333_333 + 4 * 75_000_000 + 2 * 600_777_777 + 500_000) / 1_000_000
    );
    assert_eq!(cost(Price::new(u64::MAX, 0), 1_000_000, 0, 0), i128::from(u64::MAX));
    assert_eq!((usd(150_000_000).as_str(), usd(12_000_000_001).as_str()), ("0.150000000", "12.000000001"));
}
