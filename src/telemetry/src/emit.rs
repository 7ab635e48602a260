//! One small function for each thing that can be counted. Cheap, never fails, does nothing before a recorder
//! is installed.
//!
//! `&'static str` parameters are texts of closed enums (`status.as_str()`); `provider` and `model` are names
//! out of the configuration.

use std::time::Duration;

use metrics::{Gauge, counter, gauge, histogram};

use crate::health::Role;
use crate::names;

/// Tokens of one call, as its provider reported them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// All of the input.
    pub input: u64,
    /// The part of the input that came from the provider's cache.
    pub cached_input: u64,
    /// All of the output.
    pub output: u64,
    /// The part of the output that is not shown.
    pub reasoning: u64,
}

/// Where a request goes after a call that did not end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The same target again.
    Retry,
    /// The next target.
    Fallback,
    /// A schedule, until a time.
    Park,
    /// Hold, until a condition.
    Hold,
}

/// Counts something for as long as it lives.
#[derive(Debug)]
#[must_use = "dropping it says that the thing is over"]
pub struct Held(Gauge);

impl Held {
    fn new(gauge: Gauge) -> Self {
        gauge.increment(1);
        Self(gauge)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

/// A request ended: its response is stored.
pub fn count_request(status: &'static str, priority: &'static str) {
    counter!(names::REQUESTS, "status" => status, "priority" => priority).increment(1);
}

/// The same request's time from acceptance to the stored response.
pub fn observe_request(status: &'static str, total: Duration) {
    histogram!(names::REQUEST_SECONDS, "status" => status).record(total);
}

/// The first call of a request starts after this wait.
pub fn observe_queue_wait(priority: &'static str, waited: Duration) {
    histogram!(names::QUEUE_WAIT_SECONDS, "priority" => priority).record(waited);
}

/// A call ended. `code` says why it failed, if it did.
pub fn count_attempt(provider: &str, outcome: &'static str, code: Option<&'static str>) {
    let code = code.unwrap_or("none");
    counter!(names::ATTEMPTS, "provider" => provider.to_owned(), "outcome" => outcome, "code" => code)
        .increment(1);
}

/// How long a call took, whatever its end.
pub fn observe_provider_call(provider: &str, outcome: &'static str, took: Duration) {
    histogram!(names::PROVIDER_CALL_SECONDS, "provider" => provider.to_owned(), "outcome" => outcome)
        .record(took);
}

/// How long a streamed call took to its first token.
pub fn observe_first_token(provider: &str, took: Duration) {
    histogram!(names::FIRST_TOKEN_SECONDS, "provider" => provider.to_owned()).record(took);
}

/// A role uses this version of the configuration.
pub fn set_config_version(role: Role, version: u64) {
    gauge!(names::CONFIG_VERSION, "role" => role.as_str()).set(version as f64);
}

/// A version cannot be used here.
pub fn count_config_refused() {
    counter!(names::CONFIG_REFUSED).increment(1);
}

/// A call's worker was lost before its result was stored.
pub fn count_lost_attempt(provider: &str) {
    counter!(names::ATTEMPTS_LOST, "provider" => provider.to_owned()).increment(1);
}

/// Tokens of a call.
pub fn count_tokens(provider: &str, model: &str, tokens: Tokens) {
    let kinds = [
        ("input", tokens.input),
        ("cached_input", tokens.cached_input),
        ("output", tokens.output),
        ("reasoning", tokens.reasoning),
    ];
    for (kind, count) in kinds.into_iter().filter(|(_, count)| *count > 0) {
        let (provider, model) = (provider.to_owned(), model.to_owned());
        counter!(names::TOKENS, "provider" => provider, "model" => model, "kind" => kind).increment(count);
    }
}

/// The input of a call was estimated to have so many tokens, and has so many.
pub fn observe_input_estimate(provider: &str, by: &'static str, estimated: u64, reported: u64) {
    if reported > 0 {
        #[expect(clippy::cast_precision_loss, reason = "a metric is no sum of money")]
        let ratio = estimated as f64 / reported as f64;
        histogram!(names::INPUT_ESTIMATE_RATIO, "provider" => provider.to_owned(), "by" => by).record(ratio);
    }
}

/// What a call cost.
pub fn count_cost(provider: &str, model: &str, nano_usd: u64) {
    counter!(names::COST, "provider" => provider.to_owned(), "model" => model.to_owned()).increment(nano_usd);
}

/// A call is under way until the value is dropped.
pub fn in_flight(provider: &str) -> Held {
    Held::new(gauge!(names::IN_FLIGHT, "provider" => provider.to_owned()))
}

/// A message is in hand until the value is dropped. Not to be mixed with [`set_in_hand`] for the same role.
pub fn in_hand(role: Role) -> Held {
    Held::new(gauge!(names::IN_HAND, "role" => role.as_str()))
}

/// As many messages are in hand now.
pub fn set_in_hand(role: Role, messages: usize) {
    gauge!(names::IN_HAND, "role" => role.as_str()).set(messages as f64);
}

/// As many requests wait in the lanes of this priority now.
pub fn set_lane_depth(priority: &'static str, requests: u64) {
    gauge!(names::LANE_DEPTH, "priority" => priority).set(requests as f64);
}

/// A message came that was handed out before.
pub fn count_redelivery(role: Role) {
    counter!(names::REDELIVERIES, "role" => role.as_str()).increment(1);
}

/// A write to the record lost to another writer.
pub fn count_record_conflict(role: Role) {
    counter!(names::RECORD_CONFLICTS, "role" => role.as_str()).increment(1);
}

/// A request goes on after a call that did not end it.
pub fn count_handover(next: Next) {
    let next = match next {
        Next::Retry => "retry",
        Next::Fallback => "fallback",
        Next::Park => "park",
        Next::Hold => "hold",
    };
    counter!(names::HANDOVERS, "next" => next).increment(1);
}

/// So many requests wait until a target of theirs is up.
pub fn set_held(requests: usize) {
    gauge!(names::HELD).set(requests as f64);
}

/// So many messages are in the index.
pub fn set_indexed(messages: usize) {
    gauge!(names::INDEXED).set(messages as f64);
}

/// A request was taken past a flood.
pub fn count_express() {
    counter!(names::EXPRESS).increment(1);
}

/// A cancellation is done with.
pub fn count_cancellation(outcome: &'static str) {
    counter!(names::CANCELLATIONS, "outcome" => outcome).increment(1);
}

/// A request became a dead letter.
pub fn count_dead_letter(reason: &'static str) {
    counter!(names::DEAD_LETTERS, "reason" => reason).increment(1);
}

/// A dispatch found the provider's stream full.
pub fn count_bounce(provider: &str) {
    counter!(names::BOUNCES, "provider" => provider.to_owned()).increment(1);
}

/// A request waits for room in a budget.
pub fn count_budget_wait(budget: &str) {
    counter!(names::BUDGET_WAITS, "budget" => budget.to_owned()).increment(1);
}

/// An identity came again with another body.
pub fn count_duplicate() {
    counter!(names::DUPLICATES).increment(1);
}

/// A JetStream acknowledgement was found among the requests and removed.
pub fn count_drained_acknowledgement() {
    counter!(names::ACKS_DRAINED).increment(1);
}

/// A request came through ask.
pub fn count_ask(accepted: bool) {
    counter!(names::ASKS, "outcome" => if accepted { "accepted" } else { "refused" }).increment(1);
}

/// A usage event of this kind changed the totals.
pub fn count_folded(kind: &'static str) {
    counter!(names::LEDGER_FOLDED, "kind" => kind).increment(1);
}

/// A usage event changed nothing, for this reason (such as `seen` or `unreadable`).
pub fn count_skipped(reason: &'static str) {
    counter!(names::LEDGER_SKIPPED, "reason" => reason).increment(1);
}

/// As many stored usage events are not in the totals yet.
pub fn set_ledger_lag(events: u64) {
    gauge!(names::LEDGER_LAG).set(events as f64);
}

/// Whether this process is connected to the nats-server now.
pub fn set_nats_connected(connected: bool) {
    gauge!(names::NATS_CONNECTED).set(u8::from(connected));
}

/// The connection to the nats-server was lost so many times more.
pub fn count_nats_disconnections(times: u64) {
    counter!(names::NATS_DISCONNECTIONS).increment(times);
}

/// A nats-server of our own was started.
pub fn count_nats_server_start() {
    counter!(names::NATS_SERVER_STARTS).increment(1);
}

/// Which version runs.
pub fn set_build_info(version: &'static str) {
    gauge!(names::BUILD_INFO, "version" => version).set(1);
}

#[cfg(test)]
mod tests;
