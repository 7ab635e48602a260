//! Opens budgets that are new: their counters begin with what was spent before.

use std::collections::HashMap;

use async_nats::jetstream::consumer::DeliverPolicy;
use futures_util::StreamExt;
use tollgate_bus::{Bus, event};
use tollgate_policy::budget::Budgets;
use tollgate_protocol::budget::{Counter, Entry, EntryKind, Unit};
use tollgate_protocol::usage::Kind;
use tollgate_protocol::{Sequence, Timestamp};

use super::settle::{Fault, PATIENCE, Settler, again, in_order, messages};
use crate::fold::parse;
use crate::reading::Reading;

impl Settler<'_> {
    /// Writes what was spent before the budget was there, so that its counter begins with it.
    pub(super) async fn open_budget(&self, name: &str) -> Result<(), Fault> {
        let Some(budget) = self.lock().budget(name) else { return Ok(()) };
        let Some(unit) = budget.measure.unit() else { return Ok(()) };
        let up_to = self.lock().cursors().usage.unwrap_or_default();
        let now = tollgate_bus::now();
        let window = budget.window(now);
        let only = Budgets([budget.clone()].into());
        // A log that has entries of it, and not the opening, is shorter than its history: the counter has it all the same.
        let is_known = self.lock().counters().any(|counter| counter.budget == name);
        let amount = match is_known {
            true => 0,
            // What is over is in flight no more.
            false if unit == Unit::InFlight => 0,
            false => spent_since(self.bus, &only, unit, window.start, up_to).await?,
        };
        let counter = Counter { budget: name.to_owned(), window: window.name };
        let entry = Entry {
            kind: EntryKind::Open,
            unit,
            account: String::new(),
            attempt: 0,
            tried: None,
            takes: None,
            usage_sequence: Some(up_to),
            corrects: None,
            limit: None,
        };
        if !self.lease.is_held() {
            return Ok(());
        }
        // The id does not tell the amount: of two processes that open a budget one is first.
        let id = format!("open/{counter}");
        self.bus.add(&counter, &entry, amount, &id, PATIENCE).await.map_err(again)?;
        tracing::info!(budget = name, spent = amount, ?unit, "the budget is open");
        // It counts as open when it is read back.
        Ok(())
    }
}

/// What the events of a window cost, up to a place in the stream, by the rule for sums.
pub(crate) async fn spent_since(
    bus: &Bus,
    budgets: &Budgets,
    unit: Unit,
    start: Option<Timestamp>,
    up_to: Sequence,
) -> Result<i64, Fault> {
    let policy = start.map_or(DeliverPolicy::All, |start_time| DeliverPolicy::ByStartTime { start_time });
    let consumer = Reading::from(bus, event::USAGE, policy).await.map_err(again)?;
    let mut left = consumer.cached_info().num_pending;
    let mut costs: HashMap<String, (Kind, i64)> = HashMap::new();
    if left == 0 {
        return Ok(0);
    }
    let mut messages = messages(&consumer).await?;
    let mut seen = 0;
    while left > 0 {
        let message = messages.next().await.ok_or_else(|| again("no message"))?.map_err(again)?;
        left = in_order(&message, &mut seen)?;
        if message.info().is_ok_and(|info| info.stream_sequence > up_to) {
            break;
        }
        let Ok(event) = parse(&message.payload) else { continue };
        if budgets.of_event(&event).next().is_none() || start.is_some_and(|start| event.time < start) {
            continue;
        }
        let known = costs.get(&event.counted_id()).map(|(kind, _)| *kind);
        if known.is_none() || (known == Some(Kind::Lost) && event.kind == Kind::Attempt) {
            let amount = match unit {
                Unit::NanoUsd => event.cost_nano_usd.0,
                Unit::Tokens => i64::try_from(event.usage.total_tokens()).unwrap_or(i64::MAX),
                Unit::InFlight => 0,
            };
            costs.insert(event.counted_id(), (event.kind, amount));
        }
    }
    Ok(costs.values().map(|(_, cost)| *cost).fold(0, i64::saturating_add))
}
