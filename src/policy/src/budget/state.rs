//! A budget as the ledger tells of it, for who has no configuration at hand.

use std::collections::BTreeMap;

use tollgate_protocol::budget::{BudgetState, Unit};

use super::{Budget, Measure, Per, Reserve, Scope, WhenSpent};

impl Scope {
    /// What is given, as a configuration writes it.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let tag = self.tag.as_ref().map(|(name, value)| format!("{name}={value}"));
        let all = [
            ("team", &self.team),
            ("project", &self.project),
            ("key", &self.key),
            ("user", &self.user),
            ("tag", &tag),
            ("provider", &self.provider),
            ("model", &self.model),
        ];
        all.iter().filter_map(|(name, value)| Some(((*name).to_owned(), value.as_ref()?.clone()))).collect()
    }

    /// The scope of such labels; `None` if one of them is unknown.
    pub fn of_labels(labels: &BTreeMap<String, String>) -> Option<Self> {
        let mut scope = Self::default();
        for (name, value) in labels {
            let value = value.clone();
            match name.as_str() {
                "team" => scope.team = Some(value),
                "project" => scope.project = Some(value),
                "key" => scope.key = Some(value),
                "user" => scope.user = Some(value),
                "tag" => scope.tag = value.split_once('=').map(|(name, of)| (name.to_owned(), of.to_owned())),
                "provider" => scope.provider = Some(value),
                "model" => scope.model = Some(value),
                _ => return None,
            }
        }
        Some(scope)
    }
}

impl Budget {
    /// The same budget from what the ledger says of it; `None` if that is of another version.
    pub fn of_state(state: &BudgetState) -> Option<Self> {
        let per = Per::ALL.into_iter().find(|per| per.as_str() == state.per)?;
        let when_spent = [WhenSpent::Hold, WhenSpent::Reject, WhenSpent::Downgrade];
        Some(Self {
            name: state.name.clone(),
            measure: match state.unit {
                Unit::NanoUsd => Measure::Money,
                Unit::Tokens => Measure::Tokens,
                Unit::InFlight => Measure::InFlight,
            },
            scope: Scope::of_labels(&state.scope)?,
            limit: state.limit_nano_usd,
            per,
            timezone: state.timezone.parse().ok()?,
            when_spent: when_spent.into_iter().find(|when| when.as_str() == state.when_spent)?,
            reserve: [Reserve::Estimate, Reserve::Strict]
                .into_iter()
                .find(|reserve| reserve.as_str() == state.reserve)?,
            alerts: state.alert_percent.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_read_as_it_is_written() {
        let scope = Scope {
            team: Some("team".into()),
            user: Some("ann".into()),
            tag: Some(("application".into(), "a=b".into())),
            ..Scope::default()
        };
        assert_eq!(Scope::of_labels(&scope.labels()), Some(scope));
        assert_eq!(Scope::of_labels(&[("colour".to_owned(), "red".to_owned())].into()), None);
    }
}
