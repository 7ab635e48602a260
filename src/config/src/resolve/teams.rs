//! Who may ask for what.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use tollgate_policy::catalog::{ModelPattern, TeamSettings, Teams, nearest};
use tollgate_protocol::{Priority, Team};

use super::entries;
use super::provider::Offered;
use crate::raw;
use crate::read::{At, Named, Optional};
use crate::report::{Findings, Place, shortened};

pub(super) fn resolve(file: &raw::File, offered: &Offered, findings: &mut Findings<'_>) -> Teams {
    if entries(&file.teams).is_empty() && !matches!(file.teams, Optional::Broken) {
        let place =
            file.teams.given().map_or_else(|| Place::root().at_key("teams"), |teams| teams.place.clone());
        findings.problem(&place, "expected at least one team, such as [teams.default]");
    }
    let names = Names::of(file, offered);
    let teams = entries(&file.teams).iter();
    teams.filter_map(|named| team(named, &names, findings)).collect::<BTreeMap<_, _>>()
}

/// What a pattern can mean.
struct Names<'a> {
    names: BTreeSet<String>,
    aliases_broken: bool,
    providers_broken: bool,
    offered: &'a Offered,
}

impl<'a> Names<'a> {
    fn of(file: &raw::File, offered: &'a Offered) -> Self {
        let aliases = entries(&file.models).iter().map(|named| named.name.value.clone());
        Self {
            names: aliases.chain(offered.names()).collect(),
            aliases_broken: matches!(file.models, Optional::Broken),
            providers_broken: matches!(file.providers, Optional::Broken),
            offered,
        }
    }

    /// Whether this may be a name of something that is too broken to tell.
    fn undecided(&self, name: &str) -> bool {
        match name.split_once('/') {
            Some((provider, _)) => {
                self.providers_broken || matches!(self.offered.0.get(provider), Some(None))
            }
            None => self.aliases_broken,
        }
    }
}

fn team(
    named: &Named<raw::Team>,
    names: &Names<'_>,
    findings: &mut Findings<'_>,
) -> Option<(Team, TeamSettings)> {
    let name = Team::parse(&named.name);
    if let Err(error) = &name {
        findings.problem(&named.name.place, format!("not a team name: {error}"));
    }
    let raw = named.entry.as_ref()?;
    let models = match raw.models.given() {
        Some(list) => {
            check_patterns(&list.value.0, names, findings);
            list.value.0.iter().map(|pattern| pattern.value.clone()).collect()
        }
        None => vec![ModelPattern::Any],
    };
    let weight = NonZeroU32::new(raw.weight.or_u32(1)).unwrap_or(NonZeroU32::MIN);
    let priority_max = raw.priority_max.given().map_or(Priority::High, |priority| priority.value);
    Some((name.ok()?, TeamSettings { weight, priority_max, models }))
}

fn check_patterns(patterns: &[At<ModelPattern>], names: &Names<'_>, findings: &mut Findings<'_>) {
    let mut seen = BTreeSet::new();
    for pattern in patterns {
        if !seen.insert(&pattern.value) {
            findings.problem(&pattern.place, "this is in the list twice");
        }
        if names.names.iter().any(|name| pattern.matches(name)) {
            continue;
        }
        match &pattern.value {
            ModelPattern::Any => {}
            ModelPattern::Exact(name) if names.undecided(name) => {}
            ModelPattern::Prefix(prefix) => {
                let message = format!("no model's name begins with {}", shortened(prefix));
                findings.warning(&pattern.place, message);
            }
            ModelPattern::Exact(name) => {
                let mut message = format!("no model {} is configured", shortened(name));
                if let Some(near) = nearest(name, names.names.iter().map(String::as_str), 1).first() {
                    message.push_str(&format!("; did you mean {near:?}?"));
                }
                findings.problem(&pattern.place, message);
            }
        }
    }
}
