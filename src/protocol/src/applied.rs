//! What is kept of an applied configuration, and what processes say of it.

use serde::{Deserialize, Serialize};

use crate::Sequence;

/// The one key of the bucket: every write to it is a version.
pub const KEY: &str = "applied";
/// How many versions are kept.
pub const KEPT: i64 = 64;

/// A version of teams, budgets, models and prices. Its number is its revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Who applied it, as `user@host`.
    #[serde(default)]
    pub by: String,
    /// Why, in that person's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The version that was applied again with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<Sequence>,
    /// What is in force, as TOML: the part of a `tollgate.toml` that is in no process's own file then.
    pub toml: String,
}

/// What a process says when it is asked which version it uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InUse {
    /// Its roles.
    pub roles: Vec<String>,
    /// The version; 0 if it is what its own file says.
    pub version: Sequence,
    /// A version that it heard of and cannot use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
}

/// A version that a process does not use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Which.
    pub version: Sequence,
    /// Why: all that is wrong with it there.
    pub problems: Vec<String>,
}
