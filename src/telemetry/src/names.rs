//! Every metric there is: its name, kind, labels, help and buckets, in one closed list.
//!
//! Names follow Prometheus: base units (seconds, bytes), counters end in `_total`. Money is the one exception:
//! it is counted in nano-dollars, because those are integers and a counter of dollars would round.

use metrics::Unit;

/// What a metric does over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the process starts anew.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values in buckets.
    Histogram(&'static Buckets),
}

/// Upper bounds of a histogram.
#[derive(Debug, PartialEq)]
pub struct Buckets(pub [f64; 14]);

impl Eq for Buckets {}

/// A metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its full name.
    pub name: &'static str,
    /// What it does over time.
    pub kind: Kind,
    /// What its numbers count.
    pub unit: Unit,
    /// Its labels, in order.
    pub labels: &'static [&'static str],
    /// What it says, in a sentence.
    pub help: &'static str,
}

/// Waits: from "nothing waited" to the default deadline of a request of low priority.
pub const WAIT_SECONDS: Buckets =
    Buckets([0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0]);

/// Calls of a model: some milliseconds for a simulator or an embedding, minutes for a long answer.
pub const CALL_SECONDS: Buckets =
    Buckets([0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0]);

macro_rules! metrics {
    ($( $id:ident = $name:literal, $kind:expr, $unit:ident, [$($label:literal),*], $help:literal; )*) => {
        $(
            #[doc = $help]
            pub(crate) const $id: &str = $name;
        )*

        /// All metrics, in the order of the documentation.
        pub const ALL: &[Metric] = &[$(
            Metric { name: $id, kind: $kind, unit: Unit::$unit, labels: &[$($label),*], help: $help },
        )*];
    };
}

/// Estimates, as parts of what they were estimates of.
pub const RATIO: Buckets =
    Buckets([0.1, 0.25, 0.5, 0.65, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 5.0]);

metrics! {
    REQUESTS = "tollgate_requests_total", Kind::Counter, Count, ["status", "priority"],
        "Requests that ended, by how they ended.";
    REQUEST_SECONDS = "tollgate_request_seconds", Kind::Histogram(&WAIT_SECONDS), Seconds, ["status"],
        "From the acceptance of a request to its stored response.";
    QUEUE_WAIT_SECONDS = "tollgate_queue_wait_seconds", Kind::Histogram(&WAIT_SECONDS), Seconds, ["priority"],
        "From the acceptance of a request to the start of its first call.";
    PROVIDER_CALL_SECONDS = "tollgate_provider_call_seconds", Kind::Histogram(&CALL_SECONDS), Seconds,
        ["provider", "outcome"],
        "From the start of a call to its last byte or its failure.";
    FIRST_TOKEN_SECONDS = "tollgate_first_token_seconds", Kind::Histogram(&CALL_SECONDS), Seconds, ["provider"],
        "From the start of a streamed call to its first token.";
    ATTEMPTS = "tollgate_attempts_total", Kind::Counter, Count, ["provider", "outcome", "code"],
        "Calls that ended, by how; code is none unless they failed.";
    ATTEMPTS_LOST = "tollgate_attempts_lost_total", Kind::Counter, Count, ["provider"],
        "Calls whose worker was lost before their result was stored.";
    TOKENS = "tollgate_tokens_total", Kind::Counter, Count, ["provider", "model", "kind"],
        "Tokens that providers reported; cached_input is part of input, reasoning is part of output.";
    INPUT_ESTIMATE_RATIO = "tollgate_input_estimate_ratio", Kind::Histogram(&RATIO), Count, ["provider", "by"],
        "Estimated input tokens of a call as a part of the reported ones, by what they were estimated by.";
    COST = "tollgate_cost_nano_usd_total", Kind::Counter, Count, ["provider", "model"],
        "What calls cost, in billionths of a US dollar.";
    IN_FLIGHT = "tollgate_in_flight", Kind::Gauge, Count, ["provider"],
        "Calls that this process has under way.";
    IN_HAND = "tollgate_in_hand", Kind::Gauge, Count, ["role"],
        "Messages that this process has taken and not yet acknowledged.";
    LANE_DEPTH = "tollgate_lane_depth", Kind::Gauge, Count, ["priority"],
        "Requests that wait in the lanes.";
    REDELIVERIES = "tollgate_redeliveries_total", Kind::Counter, Count, ["role"],
        "Messages that were handed out before.";
    RECORD_CONFLICTS = "tollgate_record_conflicts_total", Kind::Counter, Count, ["role"],
        "Writes to the record that lost to another writer, as they should.";
    HANDOVERS = "tollgate_handovers_total", Kind::Counter, Count, ["next"],
        "Requests that went on after a failed call, by where to.";
    HELD = "tollgate_held", Kind::Gauge, Count, [],
        "Requests that wait until a target of theirs is up, as the router that looks after them counts.";
    INDEXED = "tollgate_indexed", Kind::Gauge, Count, [],
        "Messages that this router's index knows.";
    EXPRESS = "tollgate_express_total", Kind::Counter, Count, [],
        "Requests that were taken past another team's flood in their lane.";
    CANCELLATIONS = "tollgate_cancellations_total", Kind::Counter, Count, ["outcome"],
        "Requests that clients took back, by whether they were known.";
    DEAD_LETTERS = "tollgate_dead_letters_total", Kind::Counter, Count, ["reason"],
        "Requests that became dead letters, by why.";
    BOUNCES = "tollgate_dispatch_bounces_total", Kind::Counter, Count, ["provider"],
        "Dispatches that found the provider's stream full, and were tried again later.";
    BUDGET_WAITS = "tollgate_budget_waits_total", Kind::Counter, Count, ["budget"],
        "Tries to reserve in a budget or a limit that had no room, and were made again later.";
    DUPLICATES = "tollgate_duplicates_total", Kind::Counter, Count, [],
        "Requests that were not run because their identity was used for another body.";
    ACKS_DRAINED = "tollgate_acknowledgements_drained_total", Kind::Counter, Count, [],
        "JetStream acknowledgements that were found among the requests and removed.";
    ASKS = "tollgate_asks_total", Kind::Counter, Count, ["outcome"],
        "Requests that came through ask, by whether they were accepted.";
    LEDGER_FOLDED = "tollgate_ledger_folded_total", Kind::Counter, Count, ["kind"],
        "Usage events that changed the totals.";
    LEDGER_SKIPPED = "tollgate_ledger_skipped_total", Kind::Counter, Count, ["reason"],
        "Usage events that changed nothing, by why.";
    LEDGER_LAG = "tollgate_ledger_lag", Kind::Gauge, Count, [],
        "Stored usage events that are not in the totals yet.";
    NATS_CONNECTED = "tollgate_nats_connected", Kind::Gauge, Count, [],
        "1 while this process is connected to the nats-server, else 0.";
    NATS_DISCONNECTIONS = "tollgate_nats_disconnections_total", Kind::Counter, Count, [],
        "How often the connection to the nats-server was lost.";
    NATS_SERVER_STARTS = "tollgate_nats_server_starts_total", Kind::Counter, Count, [],
        "How often up started a nats-server of its own.";
    CONFIG_VERSION = "tollgate_config_version", Kind::Gauge, Count, ["role"],
        "The applied version of teams, budgets, models and prices that is in use; 0 if the own file's are.";
    CONFIG_REFUSED = "tollgate_config_refused_total", Kind::Counter, Count, [],
        "Applied versions that this process could not use, and that changed nothing here.";
    BUILD_INFO = "tollgate_build_info", Kind::Gauge, Count, ["version"],
        "Always 1; the label says which version runs.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules() {
        for metric in ALL {
            let name = metric.name;
            assert!(name.starts_with("tollgate_"), "{name}");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert_eq!(metric.kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert_eq!(metric.unit == Unit::Seconds, name.ends_with("_seconds"), "{name}");
            assert!(metric.help.ends_with('.'), "{name}: help is a sentence");
            if let Kind::Histogram(buckets) = metric.kind {
                assert!(buckets.0.is_sorted_by(|a, b| a < b), "{name}: buckets rise");
            }
        }
        let mut names: Vec<_> = ALL.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len(), "a name stands for one metric");
    }

    /// The documentation lists every metric as this row, word for word.
    #[test]
    fn the_documentation_is_complete() {
        let text = include_str!("../../../docs/operations.md");
        let missing: Vec<String> = ALL.iter().map(row).filter(|row| !text.contains(row.as_str())).collect();
        assert!(missing.is_empty(), "docs/operations.md lacks\n{}", missing.join("\n"));
        let rows = text.lines().filter(|line| line.starts_with("| `tollgate_")).count();
        assert_eq!(rows, ALL.len(), "docs/operations.md lists metrics that are gone");
    }

    fn row(metric: &Metric) -> String {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{}` | {kind} | {} | {} |", metric.name, labels.join(", "), metric.help)
    }
}
