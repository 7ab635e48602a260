//! What one version of teams, budgets, models and prices changes in another.

use std::collections::BTreeMap;

use tollgate_policy::budget::{Budget, Measure, Scope, WhenSpent};
use tollgate_policy::catalog::{Catalog, ModelPattern, TeamSettings, TypedTargets};
use tollgate_policy::hot::Hot;
use tollgate_protocol::job::Target;
use tollgate_protocol::{NanoUsd, Price};

use crate::document::usd;

/// A change of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `team`, `budget`, `limit`, `model` or `price`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// What becomes of it.
    pub what: What,
}

/// What becomes of a thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It is new, with these values by key.
    Added(Vec<(&'static str, String)>),
    /// It is gone.
    Removed,
    /// This key gets another value.
    Changed {
        /// The key.
        key: &'static str,
        /// What it is.
        from: String,
        /// What it becomes.
        to: String,
    },
}

/// Things by kind and name, each with its keys.
type Things = BTreeMap<(&'static str, String), Vec<(&'static str, String)>>;

/// All changes from one version to another, by kind and name.
pub fn plan(from: &Hot, to: &Hot) -> Vec<Change> {
    let (before, after) = (things(from), things(to));
    let mut changes = Vec::new();
    let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for of @ (kind, name) in names {
        let change = |what| Change { kind, name: name.clone(), what };
        match (before.get(of), after.get(of)) {
            (None, Some(keys)) => changes.push(change(What::Added(keys.clone()))),
            (Some(_), None) => changes.push(change(What::Removed)),
            (Some(before), Some(after)) => {
                // A key that one side lacks has its default there, which is written as nothing.
                let value = |keys: &[(&'static str, String)], key| {
                    keys.iter()
                        .find(|(name, _)| *name == key)
                        .map_or_else(String::new, |(_, value)| value.clone())
                };
                let keys: std::collections::BTreeSet<_> =
                    before.iter().chain(after).map(|(key, _)| *key).collect();
                for key in keys {
                    let (from, to) = (value(before, key), value(after, key));
                    if from != to {
                        changes.push(change(What::Changed { key, from, to }));
                    }
                }
            }
            (None, None) => {}
        }
    }
    changes
}

// Everything below takes its values apart without `..`: what is added to one is not forgotten here, which would be a change
// that is never applied.

fn things(hot: &Hot) -> Things {
    let Hot { version: _, catalog, teams, budgets } = hot;
    let Catalog { aliases, prices, typed } = catalog;
    let teams = teams.iter().map(|(name, team)| (("team", name.to_string()), of_team(team)));
    let budgets = budgets.0.iter().map(|budget| match budget.measure {
        Measure::Money => (("budget", budget.name.clone()), of_budget(budget)),
        _ => (("limit", budget.name.clone()), of_limit(budget)),
    });
    let models = aliases
        .iter()
        .map(|(name, targets)| (("model", name.clone()), of_model(targets, typed.get(name).cloned())));
    let prices = prices.iter().map(|(target, price)| (("price", target.to_string()), of_price(price)));
    teams.chain(budgets).chain(models).chain(prices).collect()
}

fn of_team(team: &TeamSettings) -> Vec<(&'static str, String)> {
    let TeamSettings { weight, priority_max, models } = team;
    let pattern = |pattern: &ModelPattern| match pattern {
        ModelPattern::Any => "*".to_owned(),
        ModelPattern::Exact(name) => name.clone(),
        ModelPattern::Prefix(prefix) => format!("{prefix}*"),
    };
    let models: Vec<_> = models.iter().map(pattern).collect();
    vec![
        ("weight", weight.to_string()),
        ("priority_max", priority_max.to_string()),
        ("models", models.join(", ")),
    ]
}

fn of_budget(budget: &Budget) -> Vec<(&'static str, String)> {
    let Budget { name: _, measure: _, scope: of, limit, per, timezone, when_spent, reserve, alerts } = budget;
    let alerts: Vec<_> = alerts.iter().map(ToString::to_string).collect();
    vec![
        ("scope", scope(of)),
        ("limit_usd", NanoUsd(*limit).to_string()),
        ("per", per.as_str().to_owned()),
        ("timezone", timezone.to_string()),
        ("when_spent", when_spent.as_str().to_owned()),
        ("reserve", reserve.as_str().to_owned()),
        ("alert_percent", alerts.join(", ")),
    ]
}

fn of_limit(limit: &Budget) -> Vec<(&'static str, String)> {
    // What is not looked at follows from what is measured.
    let Budget { name: _, measure, scope: of, limit, per: _, timezone: _, when_spent, reserve: _, alerts: _ } =
        limit;
    let key = match measure {
        Measure::Money => "limit_usd",
        Measure::Tokens => "tokens_per_minute",
        Measure::InFlight => "in_flight",
        Measure::Rate => "requests_per_minute",
        Measure::Repeats => "same_body_per_minute",
    };
    let on_limit = if *when_spent == WhenSpent::Reject { "reject" } else { "wait" };
    vec![("scope", scope(of)), (key, limit.to_string()), ("on_limit", on_limit.to_owned())]
}

fn scope(scope: &Scope) -> String {
    let Scope { team, project, key, user, tag, provider, model } = scope;
    let tag = tag.as_ref().map(|(name, value)| format!("{name}={value}"));
    let parts = [
        ("team", team),
        ("project", project),
        ("key", key),
        ("user", user),
        ("tag", &tag),
        ("provider", provider),
        ("model", model),
    ];
    let given: Vec<_> =
        parts.iter().filter_map(|(name, value)| Some(format!("{name} {}", value.as_ref()?))).collect();
    if given.is_empty() { "all".to_owned() } else { given.join(", ") }
}

fn of_model(targets: &[Target], typed: Option<TypedTargets>) -> Vec<(&'static str, String)> {
    let list = |targets: &[Target]| targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut keys = vec![("targets", list(targets))];
    let TypedTargets { context_too_long, content_policy } = typed.unwrap_or_default();
    for (key, targets) in [("on_context_too_long", context_too_long), ("on_content_policy", content_policy)] {
        if !targets.is_empty() {
            keys.push((key, list(&targets)));
        }
    }
    keys
}

fn of_price(price: &Price) -> Vec<(&'static str, String)> {
    let Price { input, cached_input, output } = price;
    vec![
        ("input_usd_per_mtok", usd(*input)),
        ("cached_input_usd_per_mtok", usd(*cached_input)),
        ("output_usd_per_mtok", usd(*output)),
    ]
}
