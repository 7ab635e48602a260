//! What a request needs of its budgets and limits.

use std::collections::BTreeMap;

use tollgate_protocol::job::{Job, Target};
use tollgate_protocol::{NanoUsd, Price};

use super::{Budget, Budgets, Measure, Reserve, WhenSpent, most};
use crate::estimate;
use crate::inputs::Inputs;

/// What a request needs of one budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Which of [`Budgets`].
    pub budget: usize,
    /// How much, in what it measures.
    pub amount: i64,
}

/// What a request needs to be dispatched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The budgets that match, by their index.
    pub budgets: Vec<usize>,
    /// The targets that this is for; `None` if no budget concerns any target of the request.
    pub covers: Option<Vec<usize>>,
    /// What each of them costs.
    pub prices: Vec<Price>,
    /// How many tokens the input has for each of them.
    inputs: Vec<u64>,
    body_bytes: usize,
    output_tokens_max: Option<u64>,
    choices: u64,
}

impl Needs {
    /// How much of each budget, at the dearest of the targets. `most` is how many tokens such answers hardly have more
    /// than; what is seen of answers may change while a request waits.
    pub fn amounts(&self, budgets: &Budgets, most: Option<u64>) -> Vec<Need> {
        let (bytes, max) = (self.body_bytes, self.output_tokens_max);
        let allowed = estimate::allowed(max, self.choices);
        let estimates = || self.inputs.iter().map(|input| estimate::reserved(*input, max, most));
        let dearest = |reserve: Reserve| {
            let costs = self.prices.iter().zip(estimates()).map(|(price, usage)| {
                let bound = estimate::bound(bytes, allowed, price);
                match reserve {
                    Reserve::Strict => bound,
                    Reserve::Estimate => price.cost(&usage).min(bound),
                }
            });
            costs.max().unwrap_or(NanoUsd::ZERO)
        };
        let longest = || {
            let tokens = estimates().map(|usage| usage.input_tokens.saturating_add(usage.output_tokens));
            i64::try_from(tokens.max().unwrap_or(0)).unwrap_or(i64::MAX)
        };
        let need = |index: &usize| {
            let budget = budgets.0.get(*index)?;
            let amount = match budget.measure {
                Measure::Money => dearest(budget.reserve).0,
                Measure::Tokens => longest(),
                Measure::InFlight | Measure::Rate | Measure::Repeats => 1,
            };
            Some(Need { budget: *index, amount })
        };
        self.budgets.iter().filter_map(need).collect()
    }
}

impl Budgets {
    /// What a request needs to go to its target, and to those of its others that the same budgets are for.
    pub fn needs(&self, job: &Job, prices: &BTreeMap<Target, Price>, inputs: &Inputs) -> Needs {
        let team = job.identity.team.as_str();
        let of_request: Vec<usize> = (0..self.0.len())
            .filter(|index| {
                let is_for = |budget: &Budget| budget.is_for_admission() && budget.scope.has(team, &job.meta);
                self.0.get(*index).is_some_and(is_for)
            })
            .collect();
        let of_target = |target: &Target| -> Vec<usize> {
            let has = |index: &usize| {
                self.0
                    .get(*index)
                    .is_some_and(|budget| budget.scope.has_target(&target.provider, &target.model))
            };
            of_request.iter().copied().filter(has).collect()
        };
        let Some(current) = job.current_target() else { return Needs::default() };
        let all: Vec<Vec<usize>> = job.targets.iter().map(of_target).collect();
        if all.iter().all(Vec::is_empty) {
            return Needs::default();
        }
        let budgets = of_target(current);
        // One without a price is not configured any more, and nothing can be reserved for it.
        let is_priced =
            |index: &usize| job.targets.get(*index).is_some_and(|target| prices.contains_key(target));
        let covers = all.iter().enumerate().filter(|(_, of)| **of == budgets).map(|(index, _)| index);
        // Under a budget that sends requests to cheaper targets, whoever goes to a dearer one is asked again.
        let downgrades = |index: &usize| {
            self.0.get(*index).is_some_and(|budget| budget.when_spent == WhenSpent::Downgrade)
        };
        let limit = if budgets.iter().any(downgrades) { most(job, prices, current) } else { None };
        let is_dearer = |index: &usize| {
            let cost = job.targets.get(*index).and_then(|target| most(job, prices, target));
            limit.is_some_and(|limit| cost.is_some_and(|cost| cost > limit))
        };
        let covers: Vec<usize> = covers.filter(is_priced).filter(|index| !is_dearer(index)).collect();
        let covered = || covers.iter().filter_map(|index| job.targets.get(*index));
        Needs {
            prices: covered().filter_map(|target| prices.get(target)).copied().collect(),
            inputs: covered().map(|target| inputs.tokens(job, target).0).collect(),
            budgets,
            covers: Some(covers),
            body_bytes: job.body_bytes(),
            output_tokens_max: job.output_tokens_max,
            choices: job.choices,
        }
    }
}
