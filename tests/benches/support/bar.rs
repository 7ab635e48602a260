//! Bars, and what a run says of them.

use crate::support::report::verdict;

/// Prints a bar, and whether it was kept.
pub(crate) fn bar(what: &str, is_kept: bool) -> bool {
    println!("  {:6} {what}", verdict(is_kept));
    is_kept
}
