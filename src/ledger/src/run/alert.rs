//! Tells when so much of a budget is spent that somebody wants to know.
//!
//! What was told is noted in the bucket `llm_alerts`, after it was told. A ledger that dies between the two finds its
//! event in the stream when it is back, and so does one that takes over; the event is written only if nothing came after
//! what was found. So each threshold is told once, also by two ledgers that both believe to be the one.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use tokio_util::sync::CancellationToken;
use tollgate_bus::Bus;
use tollgate_bus::bucket::{ALERTS, Swapped};
use tollgate_policy::alert;
use tollgate_policy::budget::{Budget, window_start};
use tollgate_protocol::budget::{Counter, Told};
use tollgate_protocol::event::{BudgetEvent, BudgetKind};
use tollgate_protocol::{NanoUsd, Sequence, Team, Timestamp};

use super::lease::Lease;
use super::settle::Shared;

/// How often it is looked whether something is to be told.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Windows of which it is remembered what was told.
const KNOWN_MAX: usize = 10_000;
/// What came for a window after its end is told for so long.
const LATE: TimeDelta = TimeDelta::hours(1);

/// Counters that changed since it was looked at them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Alerts(Arc<Mutex<BTreeSet<Counter>>>);

impl Alerts {
    /// These say something else now.
    pub(super) fn note(&self, counters: impl IntoIterator<Item = Counter>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(counters);
    }

    fn take(&self) -> BTreeSet<Counter> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Works until `stop`.
    pub(super) async fn run(&self, bus: &Bus, book: &Shared, lease: &Lease, stop: &CancellationToken) {
        let mut known = HashMap::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let is_held = lease.is_held();
            if !is_held || known.len() > KNOWN_MAX {
                // Another ledger tells meanwhile; or most of it is of windows that are over.
                known.clear();
            }
            if !is_held {
                continue;
            }
            let now = tollgate_bus::now();
            for counter in self.take() {
                let Some(budget) =
                    book.lock().unwrap_or_else(PoisonError::into_inner).budget(&counter.budget)
                else {
                    continue;
                };
                let budget = &budget;
                let Some(window) = current(budget, &counter, now) else { continue };
                let spent = book.lock().unwrap_or_else(PoisonError::into_inner).spent(&counter);
                let told = Teller { bus, budget, counter: &counter, window };
                if let Err(reason) = told.tell(spent.spent_nano_usd, now, &mut known).await {
                    tracing::warn!(reason, %counter, "what is spent of a budget cannot be told now, trying again");
                    self.note([counter]);
                }
                if stop.is_cancelled() {
                    return;
                }
            }
        }
    }
}

/// A window's begin and end.
type Bounds = (Option<Timestamp>, Option<Timestamp>);

/// The bounds of the counter's window, unless it is long over or nothing is told of the budget.
fn current(budget: &Budget, counter: &Counter, now: Timestamp) -> Option<Bounds> {
    if budget.alerts.is_empty() {
        return None;
    }
    let Some(start) = window_start(&counter.window) else { return Some((None, None)) };
    let end = budget.window(start).end?;
    (now < end + LATE).then_some((Some(start), Some(end)))
}

/// What was told of windows, each with the revision of its note.
type Known = HashMap<Counter, (Told, Sequence)>;

struct Teller<'a> {
    bus: &'a Bus,
    budget: &'a Budget,
    counter: &'a Counter,
    window: Bounds,
}

impl Teller<'_> {
    async fn tell(&self, spent: i64, now: Timestamp, known: &mut Known) -> Result<(), String> {
        let (told, mut revision) = match known.remove(self.counter) {
            Some(noted) => noted,
            None => self.noted().await?,
        };
        let step = alert::step(&self.budget.alerts, self.limit(), spent, &told);
        let mut noted = told;
        if step.told != noted && noted != Told::default() {
            revision = self.note(&step.told, revision).await?;
            noted = step.told.clone();
        }
        let mut next = step.told;
        for percent in step.due {
            let since = self.window.0.unwrap_or(Timestamp::UNIX_EPOCH);
            self.bus.alert(&self.event(percent, spent, now), since).await?;
            tollgate_bus::point("ledger.alert");
            next = alert::with(&next, percent, spent);
            revision = self.note(&next, revision).await?;
            noted = next.clone();
        }
        known.insert(self.counter.clone(), (noted, revision));
        Ok(())
    }

    async fn noted(&self) -> Result<(Told, Sequence), String> {
        match self.bus.current(ALERTS, &self.counter.to_string()).await? {
            Swapped::Other(value, revision) => {
                let told = serde_json::from_slice(&value).map_err(|error| error.to_string())?;
                Ok((told, revision))
            }
            Swapped::Gone(revision) | Swapped::Written(revision) => Ok((Told::default(), revision)),
        }
    }

    async fn note(&self, told: &Told, revision: Sequence) -> Result<Sequence, String> {
        let value = serde_json::to_vec(told).map_err(|error| error.to_string())?;
        match self.bus.swap(ALERTS, &self.counter.to_string(), value.into(), revision).await? {
            Swapped::Written(revision) => Ok(revision),
            Swapped::Other(..) | Swapped::Gone(_) => Err("another ledger tells it".into()),
        }
    }

    fn limit(&self) -> NanoUsd {
        NanoUsd(self.budget.limit)
    }

    fn event(&self, threshold: u32, spent: i64, now: Timestamp) -> BudgetEvent {
        let Budget { name, per, .. } = self.budget;
        let limit = self.limit();
        let percent = alert::percent(limit, spent);
        let message = format!(
            "{percent} % of the budget {name} is spent: {} of {limit} {}",
            NanoUsd(spent),
            per.in_words()
        );
        BudgetEvent {
            kind: BudgetKind::Budget,
            budget: name.clone(),
            team: self.budget.scope.team.as_deref().and_then(|team| Team::parse(team).ok()),
            window: self.counter.window.clone(),
            window_ends: self.window.1,
            threshold_percent: threshold,
            percent,
            spent_nano_usd: NanoUsd(spent),
            limit_nano_usd: limit,
            message,
            time: now,
        }
    }
}
