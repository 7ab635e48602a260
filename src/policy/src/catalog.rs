//! Which targets a model name stands for, who may ask for it, and what a target costs.
//!
//! A client asks for an alias (`small`) or for one target (`openai/gpt-4o-mini`). This is where the name
//! ends: everything after it works on targets, and every target that leaves here has a price. Knows
//! nothing of files, health or budgets; the configuration fills it, the router asks it.

mod near;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use tollgate_protocol::job::{Target, Typed};
use tollgate_protocol::{ErrorCode, Price, Priority, Problem, Team};

pub use near::nearest;

/// The most targets one request can have: an alias's own and its fallbacks together.
pub const TARGETS_MAX: usize = 16;

const HINTS_MAX: usize = 3;

/// Every configured team.
pub type Teams = BTreeMap<Team, TeamSettings>;

/// What a team may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeamSettings {
    /// Its part of what is served while others wait too: a team of weight 2 gets twice that of weight 1.
    pub weight: NonZeroU32,
    /// The highest priority it is served at: what is asked for above that is served at this.
    pub priority_max: Priority,
    /// The model names it may ask for; none if empty.
    pub models: Vec<ModelPattern>,
}

impl TeamSettings {
    /// Whether the team may ask for the model of this name.
    pub fn allows(&self, model: &str) -> bool {
        self.models.iter().any(|pattern| pattern.matches(model))
    }
}

/// A set of model names, as clients write them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ModelPattern {
    /// `*`: every name.
    Any,
    /// `small`, `openai/gpt-4o-mini`: this name.
    Exact(String),
    /// `openai/*`: every name that begins so.
    Prefix(String),
}

/// The text is not a model pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected \"*\", a model name, or the beginning of model names followed by one \"*\"")]
pub struct InvalidPattern;

impl ModelPattern {
    /// Reads `*`, an exact name, or `prefix*`.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let (name, open) = text.strip_suffix('*').map_or((text, false), |prefix| (prefix, true));
        match (name, open) {
            ("", true) => Ok(Self::Any),
            _ if name.is_empty() || name.contains('*') || name.chars().any(char::is_control) => {
                Err(InvalidPattern)
            }
            (_, true) => Ok(Self::Prefix(name.into())),
            (_, false) => Ok(Self::Exact(name.into())),
        }
    }

    /// Whether `model` is in the set.
    pub fn matches(&self, model: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(name) => model == name,
            Self::Prefix(prefix) => model.starts_with(prefix.as_str()),
        }
    }
}

/// What clients can ask for. The configuration guarantees that an alias contains no `/` and has 1 to
/// [`TARGETS_MAX`] distinct targets, and that each of them has a price.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    /// Names that stand for targets, in the order in which they are tried.
    pub aliases: BTreeMap<String, Vec<Target>>,
    /// Every target there is, and what it costs.
    pub prices: BTreeMap<Target, Price>,
    /// For some of the names: the targets after one kind of failure.
    pub typed: BTreeMap<String, TypedTargets>,
}

/// Targets that are only tried after one kind of failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypedTargets {
    /// When the input is longer than the context: models with a longer one.
    pub context_too_long: Vec<Target>,
    /// When a policy of the provider forbids it: providers with another one.
    pub content_policy: Vec<Target>,
}

impl Catalog {
    /// The targets of a request, in order and without repeats: those of `model`, then those of each of
    /// `fallbacks`.
    pub fn resolve(
        &self,
        teams: &Teams,
        team: &Team,
        model: &str,
        fallbacks: &[String],
    ) -> Result<Vec<Target>, Problem> {
        let settings = known(teams, team)?;
        let asked = std::iter::once((model, "body.model"))
            .chain(fallbacks.iter().map(|name| (name.as_str(), "fallbacks")));
        let mut targets = Vec::new();
        let mut seen = BTreeSet::new();
        for (name, field) in asked {
            for target in self.targets(settings, team, name, field)? {
                if !self.prices.contains_key(&target) || !seen.insert(target.clone()) {
                    continue;
                }
                if targets.len() == TARGETS_MAX {
                    let message = format!(
                        "the model and its fallbacks together stand for more than {TARGETS_MAX} targets"
                    );
                    return Err(Problem::at(ErrorCode::InvalidField, field, message));
                }
                targets.push(target);
            }
        }
        if targets.is_empty() {
            return Err(self.unknown(settings, model, "body.model"));
        }
        Ok(targets)
    }

    /// The same, with the targets after one kind of failure behind the others: those of the model's name and of each of
    /// `fallbacks`.
    pub fn resolve_all(
        &self,
        teams: &Teams,
        team: &Team,
        model: &str,
        fallbacks: &[String],
    ) -> Result<(Vec<Target>, Typed), Problem> {
        let mut targets = self.resolve(teams, team, model, fallbacks)?;
        let names: Vec<&str> = std::iter::once(model).chain(fallbacks.iter().map(String::as_str)).collect();
        let mut append = |of: fn(&TypedTargets) -> &[Target]| {
            let mut seen = BTreeSet::new();
            let found: Vec<Target> = names
                .iter()
                .filter_map(|name| self.typed.get(*name))
                .flat_map(|typed| of(typed).iter())
                .filter(|target| self.prices.contains_key(target) && seen.insert((*target).clone()))
                .take(TARGETS_MAX)
                .cloned()
                .collect();
            let start = targets.len();
            targets.extend(found);
            (targets.len() > start).then_some((start, targets.len()))
        };
        let typed = Typed {
            context_too_long: append(|typed| &typed.context_too_long),
            content_policy: append(|typed| &typed.content_policy),
        };
        Ok((targets, typed))
    }

    /// What a target costs; `None` only for a target that is not configured (any more).
    pub fn price(&self, target: &Target) -> Option<&Price> {
        self.prices.get(target)
    }

    /// Every model name the team may ask for, sorted; empty for a team that is not configured.
    pub fn models_for(&self, teams: &Teams, team: &Team) -> Vec<String> {
        teams.get(team).map(|settings| self.allowed(settings)).unwrap_or_default()
    }

    fn allowed(&self, settings: &TeamSettings) -> Vec<String> {
        let names = self.aliases.keys().cloned().chain(self.prices.keys().map(Target::to_string));
        let allowed: BTreeSet<_> = names.filter(|name| settings.allows(name)).collect();
        allowed.into_iter().collect()
    }

    fn targets(
        &self,
        settings: &TeamSettings,
        team: &Team,
        name: &str,
        field: &str,
    ) -> Result<Vec<Target>, Problem> {
        let targets = match self.aliases.get(name) {
            Some(targets) => targets.clone(),
            None => vec![self.named(name).ok_or_else(|| self.unknown(settings, name, field))?],
        };
        if settings.allows(name) {
            return Ok(targets);
        }
        let message = format!("the team {team} may not use the model {}", quoted(name));
        Err(Problem::at(ErrorCode::ModelNotAllowed, field, message))
    }

    /// The one target that `provider/model` names.
    fn named(&self, name: &str) -> Option<Target> {
        let (provider, model) = name.split_once('/')?;
        let target = Target { provider: provider.into(), model: model.into() };
        self.prices.contains_key(&target).then_some(target)
    }

    /// Names only models that the team could use instead.
    fn unknown(&self, settings: &TeamSettings, name: &str, field: &str) -> Problem {
        let allowed = self.allowed(settings);
        let hints = nearest(name, allowed.iter().map(String::as_str), HINTS_MAX);
        let mut message = format!("no model {} is configured", quoted(name));
        if !hints.is_empty() {
            let hints: Vec<_> = hints.into_iter().map(quoted).collect();
            message.push_str(&format!("; did you mean {}?", hints.join(" or ")));
        }
        Problem::at(ErrorCode::UnknownModel, field, message)
    }
}

/// What a team may do, or that there is no such team.
pub fn known<'a>(teams: &'a Teams, team: &Team) -> Result<&'a TeamSettings, Problem> {
    teams.get(team).ok_or_else(|| {
        let message = format!("the team {} is not configured", quoted(team.as_str()));
        Problem::at(ErrorCode::UnknownTeam, "team", message)
    })
}

/// A name in a message: escaped, and short even if a client sent megabytes.
fn quoted(name: &str) -> String {
    const SHOWN_MAX: usize = 80;
    match name.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{:?}…", &name[..end]),
        None => format!("{name:?}"),
    }
}

#[cfg(test)]
mod tests;
