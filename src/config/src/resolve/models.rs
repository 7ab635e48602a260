//! What clients can ask for: every target has to be a model that a provider offers.

use std::collections::BTreeSet;

use tollgate_policy::catalog::{TypedTargets, nearest};
use tollgate_protocol::job::Target;

use super::provider::Offered;
use crate::raw;
use crate::read::{At, Named};
use crate::report::{Findings, shortened};
use crate::scalar::TargetName;

const NAME_LENGTH_MAX: usize = 128;

pub(super) fn resolve(
    named: &Named<raw::Model>,
    offered: &Offered,
    findings: &mut Findings<'_>,
) -> Option<(String, Vec<Target>, TypedTargets)> {
    check_name(&named.name, findings);
    let model = named.entry.as_ref()?;
    let for_failures = TypedTargets {
        context_too_long: model
            .on_context_too_long
            .given()
            .map_or_else(Vec::new, |list| targets(&list.value.0, offered, findings)),
        content_policy: model
            .on_content_policy
            .given()
            .map_or_else(Vec::new, |list| targets(&list.value.0, offered, findings)),
    };
    let list = model.targets.0.as_ref()?;
    Some((named.name.value.clone(), targets(&list.value.0, offered, findings), for_failures))
}

fn targets(list: &[At<TargetName>], offered: &Offered, findings: &mut Findings<'_>) -> Vec<Target> {
    let mut seen = BTreeSet::new();
    for name in list {
        check_target(name, offered, findings);
        let target = Target { provider: name.provider.clone(), model: name.model.clone() };
        if !seen.insert(target.clone()) {
            findings.problem(&name.place, format!("{} is in the list twice", shortened(&target.to_string())));
        }
    }
    let target =
        |name: &At<TargetName>| Target { provider: name.provider.clone(), model: name.model.clone() };
    list.iter().map(target).collect()
}

fn check_name(name: &At<String>, findings: &mut Findings<'_>) {
    let excluded = |character: char| character.is_control() || character == '/' || character == '*';
    if !(1..=NAME_LENGTH_MAX).contains(&name.len()) || name.contains(excluded) {
        let message = format!(
            "expected a model name of 1 to {NAME_LENGTH_MAX} bytes without \"/\", which separates a provider \
             from its model, and without \"*\" and control characters"
        );
        findings.problem(&name.place, message);
    }
}

fn check_target(name: &At<TargetName>, offered: &Offered, findings: &mut Findings<'_>) {
    let suggestion =
        |near: Option<&&str>| near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
    let Some(models) = offered.0.get(&name.provider) else {
        let near = nearest(&name.provider, offered.0.keys().map(String::as_str), 1);
        let message =
            format!("no provider {} is configured{}", shortened(&name.provider), suggestion(near.first()));
        return findings.problem(&name.place, message);
    };
    if let Some(models) = models.as_ref().filter(|models| !models.contains(&name.model)) {
        let near = nearest(&name.model, models.iter().map(String::as_str), 1);
        let (provider, model) = (&name.provider, shortened(&name.model));
        let message = format!("the provider {provider} has no model {model}{}", suggestion(near.first()));
        findings.problem(&name.place, message);
    }
}
