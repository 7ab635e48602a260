//! Which providers take work now, and which budgets have room, as far as this router knows. Learnt from refusals.

use std::collections::HashMap;

use tokio::time::{Duration, Instant};
use tollgate_policy::order::{self, Place};
use tollgate_protocol::Priority;

/// Publishes in flight to one subject, at most.
const WINDOW_MAX: u32 = 128;
/// Tries in flight at one budget, at most: as many as a router dispatches at a time.
const ROOM_WINDOW_MAX: u32 = 512;
const WINDOW_FIRST: u32 = 16;
/// How soon a full subject is tried again if no worker says that a place became free.
const RETRY_FULL: Duration = Duration::from_millis(10);
/// How soon a subject is tried again that nobody takes messages for.
const RETRY_BROKEN: Duration = Duration::from_secs(1);

/// How a dispatch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It was stored.
    Taken,
    /// There was no place.
    Full,
    /// The stream does not answer, or is not there.
    Broken,
    /// It was not tried: this budget has no room, until then at least.
    NoRoom(usize, Instant),
    /// It was not tried, for a reason of its own.
    NotTried,
}

#[derive(Debug)]
struct Gate {
    /// How many publishes may be in flight: grows with every success, shrinks when the subject is full, so
    /// that a full subject costs one refusal and not a hundred.
    window: u32,
    in_flight: u32,
    closed_until: Option<Instant>,
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

    fn grow(&mut self, most: u32) {
        self.window = (self.window + 1).min(most);
    }

    fn close(&mut self, window: u32, until: Instant) {
        self.window = window.max(1);
        self.closed_until = Some(until);
    }
}

/// All gates: of providers by priority, and of budgets.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    providers: HashMap<(String, Priority), Gate>,
    budgets: HashMap<usize, Gate>,
}

impl Gates {
    /// Whether a message may go there now.
    pub(crate) fn is_open(&self, provider: &str, priority: Priority) -> bool {
        // A lookup by (&str, Priority) needs an owned key; gates are few.
        self.providers
            .iter()
            .find(|((name, of), _)| name == provider && *of == priority)
            .is_none_or(|(_, gate)| gate.is_open())
    }

    /// Whether all of these may be tried now.
    pub(crate) fn has_room(&self, budgets: &[usize]) -> bool {
        budgets.iter().all(|budget| self.has_room_in(*budget))
    }

    /// Whether this one may be.
    pub(crate) fn has_room_in(&self, budget: usize) -> bool {
        self.budgets.get(&budget).is_none_or(Gate::is_open)
    }

    /// A message goes there.
    pub(crate) fn sent(&mut self, place: &Place) {
        self.provider(place).in_flight += 1;
        for budget in &place.gate.budgets {
            self.budgets.entry(*budget).or_default().in_flight += 1;
        }
    }

    /// It arrived, or not.
    pub(crate) fn seen(&mut self, place: &Place, seen: Seen, now: Instant) {
        let gate = self.provider(place);
        gate.in_flight = gate.in_flight.saturating_sub(1);
        match seen {
            Seen::Taken => gate.grow(WINDOW_MAX),
            Seen::Full => gate.close(gate.window / 2, now + RETRY_FULL),
            Seen::Broken => gate.close(1, now + RETRY_BROKEN),
            Seen::NoRoom(..) | Seen::NotTried => {}
        }
        for budget in &place.gate.budgets {
            let gate = self.budgets.entry(*budget).or_default();
            gate.in_flight = gate.in_flight.saturating_sub(1);
            match seen {
                Seen::NoRoom(full, until) if full == *budget => gate.close(gate.window / 2, until),
                // The others were not asked, or have taken it back.
                Seen::NoRoom(..) => {}
                Seen::Taken | Seen::Full | Seen::Broken | Seen::NotTried => gate.grow(ROOM_WINDOW_MAX),
            }
        }
    }

    /// A worker of the provider has a free place.
    pub(crate) fn freed(&mut self, provider: &str) {
        for ((name, _), gate) in &mut self.providers {
            if name == provider {
                gate.closed_until = None;
            }
        }
    }

    /// The ledger says something else of a budget.
    pub(crate) fn settled(&mut self, budget: usize) {
        if let Some(gate) = self.budgets.get_mut(&budget) {
            gate.closed_until = None;
        }
    }

    /// The same of all: which ones is not known.
    pub(crate) fn all_settled(&mut self) {
        self.budgets.values_mut().for_each(|gate| gate.closed_until = None);
    }

    /// Other budgets are in force: nothing is known of them.
    pub(crate) fn forget_budgets(&mut self) {
        self.budgets.clear();
    }

    /// Opens the gates whose time has come, and says when the next one is due.
    pub(crate) fn reopen(&mut self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
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
        let order::Gate { provider, .. } = &place.gate;
        self.providers.entry((provider.clone(), place.priority)).or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn place(budgets: &[usize]) -> Place {
        Place {
            priority: Priority::High,
            team: tollgate_protocol::Team::parse("team").unwrap(),
            weight: NonZeroU32::MIN,
            gate: order::Gate { provider: "sim".into(), budgets: budgets.to_vec() },
            tokens: 1,
        }
    }

    #[test]
    fn a_full_subject_is_closed_until_a_place_is_free() {
        let (mut gates, now, place) = (Gates::default(), Instant::now(), place(&[]));
        assert!(gates.is_open("sim", Priority::High));
        gates.sent(&place);
        gates.seen(&place, Seen::Full, now);
        assert!(!gates.is_open("sim", Priority::High));
        assert!(gates.is_open("sim", Priority::Low), "another priority has places of its own");
        gates.freed("other");
        assert!(!gates.is_open("sim", Priority::High));
        gates.freed("sim");
        assert!(gates.is_open("sim", Priority::High));
    }

    #[test]
    fn without_a_word_it_opens_by_itself() {
        let (mut gates, now, place) = (Gates::default(), Instant::now(), place(&[]));
        gates.sent(&place);
        gates.seen(&place, Seen::Full, now);
        let due = gates.reopen(now).unwrap();
        assert_eq!(gates.reopen(due), None);
        assert!(gates.is_open("sim", Priority::High));
    }

    #[test]
    fn the_window_shrinks_on_refusal_and_grows_on_success() {
        let (mut gates, now, place) = (Gates::default(), Instant::now(), place(&[]));
        for _ in 0..10 {
            gates.sent(&place);
            gates.seen(&place, Seen::Full, now);
            gates.freed("sim");
        }
        gates.sent(&place);
        assert!(!gates.is_open("sim", Priority::High), "one at a time now");
        gates.seen(&place, Seen::Taken, now);
        gates.sent(&place);
        assert!(gates.is_open("sim", Priority::High), "two at a time");
    }

    #[test]
    fn a_budget_without_room_closes_no_provider() {
        let (mut gates, now, place) = (Gates::default(), Instant::now(), place(&[3, 4]));
        gates.sent(&place);
        gates.seen(&place, Seen::NoRoom(3, now + RETRY_BROKEN), now);
        assert!(gates.is_open("sim", Priority::High));
        assert!(!gates.has_room(&[3]) && !gates.has_room(&[3, 4]) && gates.has_room(&[4]));
        assert_eq!(gates.reopen(now), Some(now + RETRY_BROKEN));
        gates.settled(3);
        assert!(gates.has_room(&[3, 4]));
    }
}
