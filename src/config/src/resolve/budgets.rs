//! What may be spent, and what a minute takes.

use std::collections::BTreeSet;

use tollgate_policy::budget::{Budget, Budgets, Measure, Reserve, Scope, Tz, WhenSpent};
use tollgate_policy::catalog::Teams;
use tollgate_protocol::Digest;
use tollgate_protocol::subject::token;

use super::limits;
use super::provider::Offered;
use crate::raw;
use crate::read::{At, Optional, Required};
use crate::report::{Findings, shortened};

/// Longest name that is made of scope and window.
pub(super) const NAME_LENGTH_MAX: usize = 64;
/// When it is told how much is spent, in percent, unless a budget says otherwise.
const ALERTS: [u32; 3] = [50, 80, 100];

pub(super) fn resolve(
    file: &raw::File,
    teams: &Teams,
    offered: &Offered,
    findings: &mut Findings<'_>,
) -> Budgets {
    let entries = file.budgets.given().map_or(&[][..], |list| list.value.0.as_slice());
    let mut names = BTreeSet::new();
    let mut budgets = Vec::new();
    for entry in entries {
        budgets.extend(budget(entry, teams, offered, findings));
        // Also where something else of the entry is broken.
        let Some(name) = name(entry) else { continue };
        if !names.insert(name.clone()) {
            let message = format!("another budget has the name {name:?}; give this one a name of its own");
            findings.problem(&entry.place, message);
        }
    }
    budgets.extend(limits::resolve(file, teams, offered, &mut names, findings));
    // Whoever has a number in a minute is not to be refused by another limit any more.
    budgets.sort_by_key(|budget| budget.measure == Measure::Rate);
    Budgets(budgets.into())
}

fn budget(
    entry: &At<raw::Budget>,
    teams: &Teams,
    offered: &Offered,
    findings: &mut Findings<'_>,
) -> Option<Budget> {
    // Everything is looked at before anything that is missing ends it.
    let alerts = alerts(entry, findings);
    let scope = entry.scope.0.as_ref()?;
    check(scope, teams, offered, findings);
    Some(Budget {
        name: name(entry)?,
        measure: Measure::Money,
        scope: resolved(scope),
        limit: entry.limit_usd.0.as_ref()?.value.0.0,
        per: entry.per.0.as_ref()?.value,
        timezone: timezone(entry),
        when_spent: entry.when_spent.given().map_or(WhenSpent::Hold, |when| when.value),
        reserve: entry.reserve.given().map_or(Reserve::Estimate, |reserve| reserve.value),
        alerts,
    })
}

fn timezone(entry: &raw::Budget) -> Tz {
    entry.timezone.given().map_or(Tz::UTC, |zone| zone.value)
}

/// The name of an entry; `None` if that, or what it is made of, is broken.
fn name(entry: &raw::Budget) -> Option<String> {
    match &entry.name {
        Optional::Given(name) => Some(name.value.0.clone()),
        Optional::Broken => None,
        Optional::Absent if matches!(entry.timezone, Optional::Broken) => None,
        Optional::Absent => {
            let (scope, per) = (whole(&entry.scope)?, entry.per.0.as_ref()?.value);
            Some(named_after(&scope, per.as_str(), timezone(entry)))
        }
    }
}

/// The scope that an entry's name is made of; `None` if a part of it is broken.
pub(super) fn whole(scope: &Required<raw::Scope>) -> Option<Scope> {
    let scope = scope.0.as_ref()?;
    let raw::Scope { team, project, key, user, tag, provider, model } = &scope.value;
    let labels = [team, project, key, user, provider, model];
    let is_broken = labels.iter().any(|label| matches!(label, Optional::Broken));
    (!is_broken && !matches!(tag, Optional::Broken)).then(|| resolved(scope))
}

pub(super) fn resolved(scope: &raw::Scope) -> Scope {
    Scope {
        team: label(&scope.team),
        project: label(&scope.project),
        key: label(&scope.key),
        user: label(&scope.user),
        tag: scope.tag.given().map(|tag| tag.value.0.clone()),
        provider: label(&scope.provider),
        model: label(&scope.model),
    }
}

fn label(given: &Optional<crate::scalar::Label>) -> Option<String> {
    given.given().map(|label| label.value.0.clone())
}

fn alerts(entry: &raw::Budget, findings: &mut Findings<'_>) -> Vec<u32> {
    let Some(given) = entry.alert_percent.given() else { return ALERTS.to_vec() };
    let percents: Vec<u32> = given.value.0.iter().map(|percent| percent.value.get_u32()).collect();
    if !percents.is_sorted_by(|one, next| one < next) {
        findings.problem(&given.place, "expected ascending numbers, each once");
    }
    percents
}

/// What a scope names should be there: a budget of a team that nobody configured limits nothing.
pub(super) fn check(scope: &raw::Scope, teams: &Teams, offered: &Offered, findings: &mut Findings<'_>) {
    if let Some(team) = scope.team.given()
        && !teams.keys().any(|known| known.as_str() == team.value.0)
    {
        findings.problem(&team.place, format!("no team {} is configured", shortened(&team.value.0)));
    }
    if let Some(provider) = scope.provider.given()
        && !offered.0.contains_key(&provider.value.0)
    {
        let message = format!("no provider {} is configured", shortened(&provider.value.0));
        findings.problem(&provider.place, message);
    }
    if let Some(model) = scope.model.given()
        && !offered.names().iter().any(|name| {
            *name == model.value.0 || name.split_once('/').is_some_and(|(_, of)| of == model.value.0)
        })
    {
        let message = format!("no provider offers the model {}", shortened(&model.value.0));
        findings.warning(&model.place, message);
    }
}

/// A name that says what the budget is for, and is the same as long as that is.
pub(super) fn named_after(scope: &Scope, per: &str, timezone: Tz) -> String {
    let tag = scope.tag.as_ref().map(|(name, value)| format!("{name}={value}"));
    let parts = [
        ("team", &scope.team),
        ("project", &scope.project),
        ("key", &scope.key),
        ("user", &scope.user),
        ("tag", &tag),
        ("provider", &scope.provider),
        ("model", &scope.model),
    ];
    let given: Vec<_> =
        parts.iter().filter_map(|(name, value)| Some(format!("{name}-{}", value.as_ref()?))).collect();
    let exact = format!("{}-{per}", if given.is_empty() { "all".to_owned() } else { given.join("-") });
    let name = token(&exact);
    if name == exact && name.len() <= NAME_LENGTH_MAX && timezone == Tz::UTC {
        return name;
    }
    // Characters that no subject takes, or a time zone: told apart by a digest.
    let digest = Digest::of(format!("{exact} {timezone}").as_bytes()).to_string();
    let kept: String = name.chars().take(NAME_LENGTH_MAX - 9).collect();
    format!("{kept}-{}", digest.get(..8).unwrap_or_default())
}
