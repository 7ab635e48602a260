//! Promise 4: what is reserved and spent together never passes a budget's limit, and what is spent is what was paid.

mod alerts;
pub(crate) mod counter;
pub(crate) mod hard;
mod kinds;
mod limits;
mod loops;
mod reconcile;
