//! Which providers take work now, and which budgets have room, as far as this router knows. As `src/router/src/gates.rs`.

use std::collections::HashMap;

use tollgate_model::Micros;
use tollgate_policy::order::Place;
use tollgate_protocol::Priority;

use crate::plan::{MS, SECOND};

const WINDOW_MAX: u32 = 128;
const WINDOW_FIRST: u32 = 16;
const RETRY_FULL: Micros = 10 * MS;
const RETRY_BROKEN: Micros = SECOND;

/// How a dispatch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It was stored.
    Taken,
    /// There was no place.
    Full,
    /// The stream does not answer.
    Broken,
    /// This budget has no room, until then at least.
    NoRoom(usize, Micros),
    /// It was not tried.
    NotTried,
}

#[derive(Debug)]
struct Gate {
    window: u32,
    in_flight: u32,
    closed_until: Option<Micros>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { window: WINDOW_FIRST, in_flight: 0, closed_until: None }
    }
}

impl Gate {
    fn is_open(&self) -> bool {
        self.closed_until.is_none() && self.in_flight < self.window
    }

    fn grow(&mut self) {
        self.window = (self.window + 1).min(WINDOW_MAX);
    }

    fn close(&mut self, until: Micros) {
        self.window = (self.window / 2).max(1);
        self.closed_until = Some(until);
    }
}

/// All gates.
#[derive(Debug, Default)]
pub(super) struct Gates {
    providers: HashMap<(String, Priority), Gate>,
    budgets: HashMap<usize, Gate>,
}

impl Gates {
    /// Whether a message may go there now.
    pub(super) fn is_open(&self, provider: &str, priority: Priority) -> bool {
        self.providers.get(&(provider.to_owned(), priority)).is_none_or(Gate::is_open)
    }

    /// Whether all of these may be tried now.
    pub(super) fn has_room(&self, budgets: &[usize]) -> bool {
        budgets.iter().all(|budget| self.budgets.get(budget).is_none_or(Gate::is_open))
    }

    /// One is on its way.
    pub(super) fn sent(&mut self, place: &Place) {
        self.provider(place).in_flight += 1;
        for budget in &place.gate.budgets {
            self.budgets.entry(*budget).or_default().in_flight += 1;
        }
    }

    /// It has ended.
    pub(super) fn seen(&mut self, place: &Place, seen: Seen, now: Micros) {
        let gate = self.provider(place);
        gate.in_flight = gate.in_flight.saturating_sub(1);
        match seen {
            Seen::Taken => gate.grow(),
            Seen::Full => gate.close(now + RETRY_FULL),
            Seen::Broken => gate.close(now + RETRY_BROKEN),
            Seen::NoRoom(..) | Seen::NotTried => {}
        }
        for budget in &place.gate.budgets {
            let gate = self.budgets.entry(*budget).or_default();
            gate.in_flight = gate.in_flight.saturating_sub(1);
            match seen {
                Seen::NoRoom(full, until) if full == *budget => gate.close(until),
                Seen::NoRoom(..) => {}
                _ => gate.grow(),
            }
        }
    }

    /// A worker of the provider has a free place.
    pub(super) fn freed(&mut self, provider: &str) {
        let of = self.providers.iter_mut().filter(|((name, _), _)| name == provider);
        of.for_each(|(_, gate)| gate.closed_until = None);
    }

    /// The ledger says something else of a budget.
    pub(super) fn settled(&mut self, budget: usize) {
        if let Some(gate) = self.budgets.get_mut(&budget) {
            gate.closed_until = None;
        }
    }

    /// Opens the gates whose time has come, and says when the next one is due.
    pub(super) fn reopen(&mut self, now: Micros) -> Option<Micros> {
        let mut next: Option<Micros> = None;
        for gate in self.providers.values_mut().chain(self.budgets.values_mut()) {
            match gate.closed_until {
                Some(until) if until <= now => gate.closed_until = None,
                Some(until) => next = Some(next.map_or(until, |next| next.min(until))),
                None => {}
            }
        }
        next
    }

    fn provider(&mut self, place: &Place) -> &mut Gate {
        self.providers.entry((place.gate.provider.clone(), place.priority)).or_default()
    }
}
