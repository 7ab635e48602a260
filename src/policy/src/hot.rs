//! What may change while everything runs: who may ask, for what, at which price, and what may be spent.
//!
//! Every process holds one of these at a time and replaces it as a whole. Whatever was begun with one is finished with it:
//! budgets are known by their index in it.

use crate::budget::Budgets;
use crate::catalog::{Catalog, Teams};

/// One version of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hot {
    /// Which version that was applied; 0 if it is that of the process's own file.
    pub version: u64,
    /// Models and what they cost.
    pub catalog: Catalog,
    /// Who may ask.
    pub teams: Teams,
    /// What may be spent.
    pub budgets: Budgets,
}
