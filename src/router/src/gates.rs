//! Which providers take work now, and which budgets have room, as far as this router knows. Learnt from refusals.

use std::collections::HashMap;
use std::num::NonZeroU32;

use tokio::time::{Duration, Instant};
use tollgate_policy::budget::{Budget, Budgets};
use tollgate_policy::order::{self, Place};
use tollgate_policy::pace::held_max;
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
/// Numbers from here on are not of budgets, but of single requests that wait for their turn.
const TURNS_FROM: usize = usize::MAX / 2;

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
    /// It was not tried: its turn comes then, and it has everything else.
    Turn(Instant),
    /// It was not tried: it waits until then by itself, for what does not hold up others.
    Alone(Instant),
    /// It was not tried, for a reason of its own.
    NotTried,
}

impl Seen {
    /// Whether its provider's stream alone holds it up, so that it goes as soon as that takes it.
    pub(crate) fn is_tried_soon(self) -> bool {
        matches!(self, Self::Full | Self::Broken)
    }
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
    /// Limits of requests per minute: how many numbers may be held at a time.
    paces: HashMap<usize, u32>,
    /// Requests that wait for their turn: until when, and the limits that they hold a number of.
    turns: HashMap<usize, (Instant, Vec<usize>)>,
    next_turn: usize,
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
        if budget >= TURNS_FROM {
            return !self.turns.contains_key(&budget);
        }
        self.budgets.get(&budget).is_none_or(Gate::is_open)
    }

    /// Whether it waits by itself.
    pub(crate) fn waits_for_turn(&self, place: &Place) -> bool {
        place.gate.budgets.iter().any(|gate| self.turns.contains_key(gate))
    }

    /// A message goes there.
    pub(crate) fn sent(&mut self, place: &Place) {
        self.provider(place).in_flight += 1;
        for budget in budgets_of(place) {
            let most = self.most(budget);
            let gate = self.budgets.entry(budget).or_default();
            gate.window = gate.window.min(most);
            gate.in_flight += 1;
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
                Seen::NoRoom(full, until) if full == budget => gate.close(gate.window / 2, until),
                // The others were not asked, or have taken it back.
                Seen::NoRoom(..) | Seen::Alone(_) => {}
                Seen::Taken | Seen::Full | Seen::Broken | Seen::Turn(_) | Seen::NotTried => gate.grow(most),
            }
        }
    }

    /// A gate for one request alone, which opens when its turn comes; it is the only one that the request waits for.
    ///
    /// `budgets` are all that the request needs; those of `place` are counted among the numbers that are held.
    pub(crate) fn turn(&mut self, place: &Place, budgets: &[usize], until: Instant) -> usize {
        let paces: Vec<_> =
            budgets.iter().copied().filter(|budget| self.paces.contains_key(budget)).collect();
        for pace in paces.iter().filter(|pace| !place.gate.budgets.contains(pace)) {
            self.budgets.entry(*pace).or_default().in_flight += 1;
        }
        self.next_turn = (self.next_turn + 1) % (usize::MAX - TURNS_FROM);
        let gate = TURNS_FROM + self.next_turn;
        self.turns.insert(gate, (until, paces));
        gate
    }

    fn most(&self, budget: usize) -> u32 {
        self.paces.get(&budget).copied().unwrap_or(ROOM_WINDOW_MAX)
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

    /// These budgets are in force, and nothing is known of them.
    pub(crate) fn in_force(&mut self, budgets: &Budgets) {
        self.budgets.clear();
        self.turns.clear();
        let paces = budgets.0.iter().enumerate().filter(|(index, _)| budgets.is_rate(*index));
        let held = |limit: &Budget| u32::try_from(limit.limit).ok().and_then(NonZeroU32::new);
        self.paces = paces
            .map(|(index, limit)| {
                (index, held_max(held(limit).unwrap_or(NonZeroU32::MAX)).min(ROOM_WINDOW_MAX))
            })
            .collect();
    }

    /// Opens the gates whose time has come, and says when the next one is due.
    pub(crate) fn reopen(&mut self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
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
        let order::Gate { provider, .. } = &place.gate;
        self.providers.entry((provider.clone(), place.priority)).or_default()
    }
}

/// Its budgets; a gate of its own is none.
fn budgets_of(place: &Place) -> impl Iterator<Item = usize> + '_ {
    place.gate.budgets.iter().copied().filter(|budget| *budget < TURNS_FROM)
}

#[cfg(test)]
mod tests {

    use tollgate_policy::budget::{Measure, Per, Reserve, Scope, Tz, WhenSpent};

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

    fn paced(per_minute: i64) -> Gates {
        let budget = Budget {
            name: "paced".into(),
            measure: Measure::Rate,
            scope: Scope::default(),
            limit: per_minute,
            per: Per::Minute,
            timezone: Tz::UTC,
            when_spent: WhenSpent::Hold,
            reserve: Reserve::Strict,
            alerts: Vec::new(),
        };
        let mut gates = Gates::default();
        gates.in_force(&Budgets([budget].into()));
        gates
    }

    #[test]
    fn who_waits_for_its_turn_has_a_gate_of_its_own_and_keeps_its_place_among_those_with_a_number() {
        let (mut gates, now, mut first, other) = (paced(600), Instant::now(), place(&[0]), place(&[0]));
        gates.sent(&first);
        assert!(!gates.has_room(&other.gate.budgets), "one number at a time, of a slow limit");
        let until = now + Duration::from_millis(300);
        gates.seen(&first, Seen::Turn(until), now);
        first.gate.budgets = vec![gates.turn(&first, &[0], until)];
        assert!(!gates.has_room(&first.gate.budgets) && !gates.has_room(&other.gate.budgets));
        assert_eq!(gates.reopen(now), Some(until));
        assert_eq!(gates.reopen(until), None);
        assert!(gates.has_room(&first.gate.budgets) && gates.has_room(&other.gate.budgets));
        gates.sent(&first);
        gates.seen(&first, Seen::Taken, until);
        assert!(gates.has_room(&other.gate.budgets));
    }

    #[test]
    fn of_a_fast_limit_several_numbers_are_held_and_each_waits_for_itself() {
        let (mut gates, now, paced) = (paced(6_000), Instant::now(), place(&[0]));
        let waits = [40, 10, 30, 20].map(|ms| {
            assert!(gates.has_room(&[0]));
            gates.sent(&paced);
            let until = now + Duration::from_millis(ms);
            gates.seen(&paced, Seen::Turn(until), now);
            (gates.turn(&paced, &[0], until), until)
        });
        let second = waits[1];
        assert_eq!(gates.reopen(now), Some(second.1));
        gates.reopen(second.1);
        let open = waits.map(|(gate, _)| gates.has_room(&[gate]));
        assert_eq!(open, [false, true, false, false]);
    }
}
