//! What is told of budgets when somebody asks.

use tollgate_policy::budget::{Budget, Measure};
use tollgate_protocol::Timestamp;
use tollgate_protocol::budget::{BudgetList, BudgetState};

use super::{Book, Cursors};

impl Book {
    /// Every budget in its window of now.
    pub fn list(&self, now: Timestamp) -> BudgetList {
        let state = |budget: &Budget| {
            let counter = budget.counter(now);
            let (window, spent) = (budget.window(now), self.spent(&counter));
            BudgetState {
                name: counter.budget,
                unit: budget.measure.unit().unwrap_or_default(),
                window: counter.window,
                limit_nano_usd: budget.limit,
                spent_nano_usd: spent.spent_nano_usd,
                reserved_nano_usd: spent.total_nano_usd - spent.spent_nano_usd,
                when_spent: budget.when_spent.as_str().to_owned(),
                reserve: budget.reserve.as_str().to_owned(),
                is_open: self.opened.contains_key(&budget.name),
                opened_at: self.opened.get(&budget.name).copied(),
                scope: budget.scope.labels(),
                per: budget.per.as_str().to_owned(),
                timezone: budget.timezone.name().to_owned(),
                window_begins: window.start,
                window_ends: window.end,
                alert_percent: budget.alerts.clone(),
                told_percent: None,
            }
        };
        let Cursors { entries, usage } = self.cursors;
        let of = |is_money: bool| {
            let counted = self.budgets.0.iter().filter(|budget| budget.measure.unit().is_some());
            counted.filter(move |budget| (budget.measure == Measure::Money) == is_money).map(state).collect()
        };
        BudgetList {
            budgets: of(true),
            limits: of(false),
            entries_sequence: entries,
            usage_sequence: usage.unwrap_or_default(),
        }
    }
}
