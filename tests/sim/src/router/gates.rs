//! Which providers take work now, and which budgets have room, as far as this router knows. As `src/router/src/gates.rs`.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;

use tollgate_model::Micros;
use tollgate_policy::budget::Budgets;
use tollgate_policy::order::Place;
use tollgate_policy::pace::held_max;
use tollgate_protocol::Priority;

use crate::plan::{MS, SECOND};

const WINDOW_MAX: u32 = 128;
const WINDOW_FIRST: u32 = 16;
const RETRY_FULL: Micros = 10 * MS;
const RETRY_BROKEN: Micros = SECOND;
/// Numbers from here on are not of budgets, but of single requests that wait for their turn.
const TURNS_FROM: usize = usize::MAX / 2;

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
    /// Its turn comes then, and it has everything else.
    Turn(Micros),
    /// It waits until then by itself.
    Alone(Micros),
    /// It was not tried.
    NotTried,
}

impl Seen {
    /// Whether its provider's stream alone holds it up.
    pub(super) fn is_tried_soon(self) -> bool {
        matches!(self, Self::Full | Self::Broken)
    }
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

    fn grow(&mut self, most: u32) {
        self.window = (self.window + 1).min(most);
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
    /// Limits of requests per minute: how many numbers may be held at a time.
    paces: HashMap<usize, u32>,
    /// Requests that wait for their turn: until when, and the limits that they hold a number of.
    turns: BTreeMap<usize, (Micros, Vec<usize>)>,
    next_turn: usize,
}

impl Gates {
    /// Of these budgets, of which nothing is known yet.
    pub(super) fn new(budgets: &Budgets) -> Self {
        let paces = budgets.0.iter().enumerate().filter(|(index, _)| budgets.is_rate(*index));
        let held = |limit: i64| {
            held_max(u32::try_from(limit).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX))
        };
        Self { paces: paces.map(|(index, budget)| (index, held(budget.limit))).collect(), ..Self::default() }
    }

    /// Whether a message may go there now.
    pub(super) fn is_open(&self, provider: &str, priority: Priority) -> bool {
        self.providers.get(&(provider.to_owned(), priority)).is_none_or(Gate::is_open)
    }

    /// Whether all of these may be tried now.
    pub(super) fn has_room(&self, budgets: &[usize]) -> bool {
        budgets.iter().all(|budget| {
            !self.turns.contains_key(budget) && self.budgets.get(budget).is_none_or(Gate::is_open)
        })
    }

    /// One is on its way.
    pub(super) fn sent(&mut self, place: &Place) {
        self.provider(place).in_flight += 1;
        for budget in budgets_of(place) {
            let most = self.most(budget);
            let gate = self.budgets.entry(budget).or_default();
            gate.window = gate.window.min(most);
            gate.in_flight += 1;
        }
    }

    /// It has ended.
    pub(super) fn seen(&mut self, place: &Place, seen: Seen, now: Micros) {
        let gate = self.provider(place);
        gate.in_flight = gate.in_flight.saturating_sub(1);
        match seen {
            Seen::Taken => gate.grow(WINDOW_MAX),
            Seen::Full => gate.close(now + RETRY_FULL),
            Seen::Broken => gate.close(now + RETRY_BROKEN),
            Seen::NoRoom(..) | Seen::Turn(_) | Seen::Alone(_) | Seen::NotTried => {}
        }
        for budget in budgets_of(place) {
            // It keeps its number, and so its place among those that hold one, until its turn.
            if matches!(seen, Seen::Turn(_)) && self.paces.contains_key(&budget) {
                continue;
            }
            let most = self.most(budget);
            let gate = self.budgets.entry(budget).or_default();
            gate.in_flight = gate.in_flight.saturating_sub(1);
            match seen {
                Seen::NoRoom(full, until) if full == budget => gate.close(until),
                Seen::NoRoom(..) | Seen::Alone(_) => {}
                _ => gate.grow(most),
            }
        }
    }

    /// What a request waits behind that was not taken.
    pub(super) fn behind(
        &mut self,
        place: &Place,
        seen: Seen,
        needs: &[usize],
        is_reserved: bool,
    ) -> Vec<usize> {
        match seen {
            Seen::Turn(until) => vec![self.turn(place, needs, until)],
            Seen::Alone(until) => vec![self.turn(place, &[], until)],
            // With everything reserved it must not wait behind those that have not; but for its turn.
            _ => {
                let waits = |budget: &usize| !is_reserved || self.paces.contains_key(budget);
                needs.iter().copied().filter(waits).collect()
            }
        }
    }

    /// A gate for one request alone, which opens when its turn comes.
    fn turn(&mut self, place: &Place, needs: &[usize], until: Micros) -> usize {
        let paces: Vec<_> = needs.iter().copied().filter(|need| self.paces.contains_key(need)).collect();
        for pace in paces.iter().filter(|pace| !place.gate.budgets.contains(pace)) {
            self.budgets.entry(*pace).or_default().in_flight += 1;
        }
        self.next_turn += 1;
        let gate = TURNS_FROM + self.next_turn;
        self.turns.insert(gate, (until, paces));
        gate
    }

    fn most(&self, budget: usize) -> u32 {
        self.paces.get(&budget).copied().unwrap_or(WINDOW_MAX)
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
        let due: Vec<usize> =
            self.turns.iter().filter(|(_, (until, _))| *until <= now).map(|(turn, _)| *turn).collect();
        for (_, paces) in due.iter().filter_map(|turn| self.turns.remove(turn)) {
            for pace in paces {
                let gate = self.budgets.entry(pace).or_default();
                gate.in_flight = gate.in_flight.saturating_sub(1);
            }
        }
        for (until, _) in self.turns.values() {
            next = Some(next.map_or(*until, |next| next.min(*until)));
        }
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

/// Its budgets; a gate of its own is none.
fn budgets_of(place: &Place) -> impl Iterator<Item = usize> + '_ {
    place.gate.budgets.iter().copied().filter(|budget| *budget < TURNS_FROM)
}
