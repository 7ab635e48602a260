//! What the ledger tells an operator, in terms of its own reports.

use tollgate_telemetry::{count_folded, count_skipped};

use crate::fold::Report;

/// Counts what a batch did.
pub(crate) fn note(report: &Report) {
    for (kind, times) in [
        ("attempt", report.attempts),
        ("lost", report.lost),
        ("unpaid", report.unpaid),
        ("correction", report.corrections),
    ] {
        (0..times).for_each(|_| count_folded(kind));
    }
    for (reason, times) in [("seen", report.repeated), ("unreadable", report.skipped)] {
        (0..times).for_each(|_| count_skipped(reason));
    }
}

/// Counts one stretch of events that the stream no longer had, however long.
pub(crate) fn note_gap() {
    count_skipped("gone");
}

/// Counts a response whose unpaid event could not be read.
pub(crate) fn note_unreadable_header() {
    count_skipped("unreadable_header");
}

/// How far the fold is behind.
pub(crate) fn set_lag(events: u64) {
    tollgate_telemetry::set_ledger_lag(events);
}
