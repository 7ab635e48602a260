//! Every metric has a function, and every function its metric.

use super::*;
use crate::recorder;
use std::collections::BTreeSet;

fn emit_everything() {
    let second = Duration::from_secs(1);
    count_request("succeeded", "high");
    observe_request("succeeded", second);
    observe_queue_wait("high", second);
    count_attempt("sim", "failed", Some("provider_error"));
    observe_provider_call("sim", "failed", second);
    observe_first_token("sim", second);
    count_lost_attempt("sim");
    count_tokens("sim", "demo", Tokens { input: 1, cached_input: 1, output: 1, reasoning: 1 });
    observe_input_estimate("sim", "bytes", 90, 100);
    count_cost("sim", "demo", 1);
    drop(in_flight("sim"));
    drop(in_hand(Role::Worker));
    set_in_hand(Role::Router, 3);
    set_lane_depth("low", 1);
    count_redelivery(Role::Ledger);
    count_record_conflict(Role::Router);
    for next in [Next::Retry, Next::Fallback, Next::Park, Next::Hold] {
        count_handover(next);
    }
    set_held(1);
    set_indexed(1);
    count_express();
    count_cancellation("done");
    count_dead_letter("poison");
    count_bounce("sim");
    count_budget_wait("research");
    count_duplicate();
    count_drained_acknowledgement();
    count_ask(true);
    count_folded("attempt");
    count_skipped("seen");
    set_ledger_lag(2);
    set_nats_connected(true);
    count_nats_disconnections(1);
    count_nats_server_start();
    set_config_version(Role::Router, 3);
    count_config_refused();
    set_build_info("0.0.0");
}

fn rendered(emit: impl FnOnce()) -> String {
    let recorder = recorder::builder().expect("buckets that rise").build_recorder();
    metrics::with_local_recorder(&recorder, || {
        recorder::describe();
        emit();
    });
    recorder.handle().render()
}

#[test]
fn every_metric_is_emitted_with_its_labels() {
    let text = rendered(emit_everything);
    for metric in names::ALL {
        let name = metric.name;
        assert!(text.contains(&format!("# HELP {name} {}", metric.help)), "{name} has no help\n{text}");
        let sample = text
            .lines()
            .find(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| ["{", " ", "_bucket{"].iter().any(|start| rest.starts_with(start)))
            })
            .unwrap_or_else(|| panic!("{name} has no sample\n{text}"));
        for label in metric.labels {
            assert!(sample.contains(&format!("{label}=\"")), "{name} lacks {label}: {sample}");
        }
    }
    let listed: BTreeSet<&str> = names::ALL.iter().map(|metric| metric.name).collect();
    let emitted: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert_eq!(emitted, listed);
}

#[test]
fn what_is_held_is_counted_until_it_is_dropped() {
    let text = rendered(|| {
        let first = in_flight("sim");
        let second = in_flight("sim");
        drop(first);
        set_in_hand(Role::Router, 7);
        std::mem::forget(second);
    });
    assert!(text.contains("tollgate_in_flight{provider=\"sim\"} 1\n"), "{text}");
    assert!(text.contains("tollgate_in_hand{role=\"router\"} 7\n"), "{text}");
}

#[test]
fn money_stays_exact() {
    let text = rendered(|| count_cost("sim", "demo", 9_007_199_254_740_993));
    assert!(text.contains("} 9007199254740993\n"), "{text}");
}

#[test]
fn histograms_have_buckets() {
    let text = rendered(|| observe_provider_call("sim", "succeeded", Duration::from_millis(30)));
    let bucket = |bound: &str| {
        format!(
            "tollgate_provider_call_seconds_bucket{{provider=\"sim\",outcome=\"succeeded\",le=\"{bound}\"}}"
        )
    };
    assert!(text.contains(&format!("{} 0", bucket("0.02"))), "{text}");
    assert!(text.contains(&format!("{} 1", bucket("0.05"))), "{text}");
}
