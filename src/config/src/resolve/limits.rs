//! What a minute takes, and what may be under way.

use std::collections::BTreeSet;

use tollgate_policy::budget::{Budget, Measure, Per, Reserve, Tz, WhenSpent};
use tollgate_policy::catalog::Teams;
use tollgate_protocol::Digest;
use tollgate_protocol::request::OnLimit;

use super::budgets::{NAME_LENGTH_MAX, check, named_after, resolved, whole};
use super::provider::Offered;
use crate::raw;
use crate::read::{At, Optional};
use crate::report::Findings;

/// Each of the limits that an entry can have is one of its own.
pub(super) fn resolve(
    file: &raw::File,
    teams: &Teams,
    offered: &Offered,
    names: &mut BTreeSet<String>,
    findings: &mut Findings<'_>,
) -> Vec<Budget> {
    let entries = file.limits.given().map_or(&[][..], |list| list.value.0.as_slice());
    let mut limits = Vec::new();
    for entry in entries {
        limits.extend(of_entry(entry, teams, offered, findings));
        // Also where something else of the entry is broken.
        let Some(name) = name(entry) else { continue };
        for (what, ..) in given(entry).iter().filter(|(.., limit)| limit.is_some()) {
            let name = joined(&name, what);
            if !names.insert(name.clone()) {
                let message = format!("another limit has the name {name:?}; give this one a name of its own");
                findings.problem(&entry.place, message);
            }
        }
    }
    limits
}

/// The name of an entry; `None` if that, or the scope that it is made of, is broken.
fn name(entry: &raw::Limit) -> Option<String> {
    match &entry.name {
        Optional::Given(name) => Some(name.value.0.clone()),
        Optional::Broken => None,
        Optional::Absent => Some(named_after(&whole(&entry.scope)?, "limit", Tz::UTC)),
    }
}

/// The limits of an entry: how each is named, what it measures, and how much that may be.
fn given(entry: &raw::Limit) -> [(&'static str, Measure, Option<u64>); 4] {
    [
        ("requests", Measure::Rate, entry.requests_per_minute.given().map(|limit| limit.value.get())),
        ("tokens", Measure::Tokens, entry.tokens_per_minute.given().map(|limit| limit.value.get())),
        ("in-flight", Measure::InFlight, entry.in_flight.given().map(|limit| limit.value.get())),
        ("same-body", Measure::Repeats, entry.same_body_per_minute.given().map(|limit| limit.value.get())),
    ]
}

fn of_entry(
    entry: &At<raw::Limit>,
    teams: &Teams,
    offered: &Offered,
    findings: &mut Findings<'_>,
) -> Vec<Budget> {
    let given = given(entry);
    let has_broken = matches!(entry.requests_per_minute, Optional::Broken)
        || matches!(entry.tokens_per_minute, Optional::Broken)
        || matches!(entry.in_flight, Optional::Broken)
        || matches!(entry.same_body_per_minute, Optional::Broken);
    if !has_broken && given.iter().all(|(_, _, limit)| limit.is_none()) {
        let message = "expected one of requests_per_minute, tokens_per_minute, in_flight, same_body_per_minute, found none";
        findings.problem(&entry.place, message);
    }
    // Everything is looked at before anything that is missing ends it.
    let Some(scope) = entry.scope.0.as_ref() else { return Vec::new() };
    check(scope, teams, offered, findings);
    let scope = resolved(scope);
    if let Some(same_body) = entry.same_body_per_minute.given()
        && (scope.provider.is_some() || scope.model.is_some())
    {
        let message =
            "equal bodies are counted before anything is called: name no provider and no model in its scope";
        findings.problem(&same_body.place, message);
    }
    let Some(name) = name(entry) else { return Vec::new() };
    let when_spent = match entry.on_limit.given().map(|on_limit| on_limit.value) {
        Some(OnLimit::Reject) => WhenSpent::Reject,
        Some(OnLimit::Wait) | None => WhenSpent::Hold,
    };
    let limit = |(what, measure, limit): (&str, Measure, Option<u64>)| {
        Some(Budget {
            name: joined(&name, what),
            measure,
            scope: scope.clone(),
            limit: i64::try_from(limit?).ok()?,
            per: if measure == Measure::InFlight { Per::Total } else { Per::Minute },
            timezone: Tz::UTC,
            when_spent,
            // One in flight is one; tokens are not known before the answer is there.
            reserve: if measure == Measure::Tokens { Reserve::Estimate } else { Reserve::Strict },
            // It is reached again and again; what waits for it goes on by itself.
            alerts: Vec::new(),
        })
    };
    given.into_iter().filter_map(limit).collect()
}

/// A name for one of the limits of an entry; the same as long as the entry's is.
fn joined(name: &str, what: &str) -> String {
    let exact = format!("{name}-{what}");
    if exact.len() <= NAME_LENGTH_MAX {
        return exact;
    }
    let digest = Digest::of(name.as_bytes()).to_string();
    let kept: String = name.chars().take(NAME_LENGTH_MAX - what.len() - 10).collect();
    format!("{kept}-{}-{what}", digest.get(..8).unwrap_or_default())
}
