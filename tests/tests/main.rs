//! Every integration test of the workspace, in one binary: linking is what a further one would cost.
//!
//! `harness` tests the checker itself: that its servers are real, and that it notices what is wrong.

#![expect(clippy::unwrap_used, reason = "the helpers of a test may stop at the first surprise too")]
#![expect(clippy::disallowed_methods, reason = "a test reads the clock and leaves tasks to its own runtime")]

mod architecture;
mod ask;
mod bad_input;
mod budgets;
mod chaos;
mod cli;
mod conformance;
mod exactly_once;
mod harness;
mod hot;
mod kills;
mod operation;
mod routing;
mod stage;
mod topology;
mod waiting;
