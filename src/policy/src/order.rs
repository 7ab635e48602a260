//! Whose request is next, of those a router has in its hands.
//!
//! Between priorities: stride scheduling by shares, so that a lower priority is slowed and never starved.
//! Between the teams of a priority: the virtual token counter of Sheng et al., "Fairness in Serving Large
//! Language Models" (OSDI 2024): each team has a counter of the tokens it was served, divided by its weight;
//! the smallest goes first; a team that was idle is lifted to the smallest active counter, so that idleness
//! earns no credit, or to the largest there ever was if all were idle, so that work earns no debt. What is on its way
//! counts as what it is expected to use, until it is known what it used. Inside a team and gate: first come, first served.
//!
//! A gate (a place at a provider, room in budgets) that is closed is passed over and blocks nobody at other gates: each
//! team has one queue per gate. At its own gate, a priority that waits for it to open is not overtaken by a lower one before that
//! one's turn: places there come free one by one, and whoever is ready would otherwise take them all in turn.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::num::NonZeroU32;

use tollgate_protocol::tokens::CALL_TOKENS_MAX;
use tollgate_protocol::{Priority, Team};

use crate::served::Settlement;

/// Counters are tokens times this, so that division by a weight keeps precision.
const SCALE: u64 = 1 << 10;
/// Most tokens, in and out, that one call is believed to have used.
const USED_MAX: u64 = 2 * CALL_TOKENS_MAX;
/// Idle teams whose counters are remembered, per priority.
const IDLE_TEAMS_MAX: usize = 10_000;

/// What the order depends on besides the item itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its priority.
    pub priority: Priority,
    /// Its team.
    pub team: Team,
    /// The team's weight.
    pub weight: NonZeroU32,
    /// What must be open for it to go.
    pub gate: Gate,
    /// What it is expected to cost, in tokens.
    pub tokens: u64,
}

/// What must be open for a request to go: a place at its provider, and room in its budgets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gate {
    /// The provider's name.
    pub provider: String,
    /// Its budgets, by their index.
    pub budgets: Vec<usize>,
}

impl From<&str> for Gate {
    /// Of a provider, and no budget.
    fn from(provider: &str) -> Self {
        Self { provider: provider.to_owned(), budgets: Vec::new() }
    }
}

/// Requests in a router's hands, in fair order.
#[derive(Debug)]
pub struct Queue<T> {
    levels: [Level<T>; 3],
    shares: [u64; 3],
    length: usize,
    /// The furthest any level has come: where the first one begins after all were empty. What a level was served
    /// while nobody else waited is no debt.
    clock: u64,
    /// Numbers what comes in, so that a team's oldest open item is found over its gates.
    arrivals: i64,
    /// Numbers what is put back: always before everything else.
    returns: i64,
}

/// An item with its number.
type Waiting<T> = (i64, Place, T);

#[derive(Debug)]
struct Level<T> {
    /// Virtual time of the level: tokens served, divided by its share.
    pass: u64,
    /// The same of what was taken out and is not settled yet.
    pending: u64,
    flows: HashMap<Team, Flow<T>>,
    /// Active teams by what they have and are about to have.
    ready: BTreeSet<(u64, Team)>,
    /// Active teams by what they have had.
    settled: BTreeSet<(u64, Team)>,
    /// How many items wait for each gate.
    waiting: BTreeMap<Gate, usize>,
    length: usize,
    /// The furthest any team has come, for the same reason as the queue's own.
    clock: u64,
}

#[derive(Debug)]
struct Flow<T> {
    /// What it was served.
    counter: u64,
    /// What was taken out and is not settled yet, as expected.
    pending: u64,
    gates: BTreeMap<Gate, VecDeque<Waiting<T>>>,
}

impl<T> Queue<T> {
    /// An empty queue with one share per priority, the highest first. A share of 0 counts as 1.
    pub fn new(shares: [u32; 3]) -> Self {
        let level = || Level {
            pass: 0,
            pending: 0,
            flows: HashMap::new(),
            ready: BTreeSet::new(),
            settled: BTreeSet::new(),
            waiting: BTreeMap::new(),
            length: 0,
            clock: 0,
        };
        Self {
            levels: [level(), level(), level()],
            shares: shares.map(|share| u64::from(share.max(1))),
            length: 0,
            clock: 0,
            arrivals: 0,
            returns: 0,
        }
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Takes an item in.
    pub fn push(&mut self, place: Place, item: T) {
        self.insert(place, item, false);
    }

    /// Takes an item back that could not go after all: it stays first of its team, and its tokens are not
    /// counted.
    pub fn put_back(&mut self, place: Place, item: T) {
        self.refund(&place);
        self.insert(place, item, true);
    }

    /// What was taken out is not served after all, and does not come back as it was: its tokens are not counted.
    pub fn refund(&mut self, place: &Place) {
        self.settle(&Settlement::of(place));
    }

    /// What was taken out has been served: what it used is counted in place of what was expected.
    pub fn settle(&mut self, settlement: &Settlement) {
        let Settlement { priority, team, weight, expected, used, less } = settlement;
        let index = priority.index();
        let level = &mut self.levels[index];
        let part = |tokens: &u64, part: u64| tokens.saturating_mul(SCALE) / part;
        // Events are of other processes: none moves the order by more than a call can have used.
        let (used, less) = (used.min(&USED_MAX), less.min(&USED_MAX));
        let share = self.shares[index];
        level.pending = level.pending.saturating_sub(part(expected, share));
        level.pass = level.pass.saturating_add(part(used, share)).saturating_sub(part(less, share));
        self.clock = self.clock.max(level.pass);
        let weight = u64::from(weight.get());
        level.change(team, |flow| {
            flow.pending = flow.pending.saturating_sub(part(expected, weight));
            flow.counter = flow.counter.saturating_add(part(used, weight)).saturating_sub(part(less, weight));
        });
    }

    fn insert(&mut self, place: Place, item: T, front: bool) {
        let index = place.priority.index();
        if self.levels[index].length == 0 {
            // A level that was empty gets no credit for it.
            let busiest = self.levels.iter().filter(|level| level.length > 0).map(|level| level.pass).min();
            self.levels[index].pass = self.levels[index].pass.max(busiest.unwrap_or(self.clock));
        }
        let number = if front {
            self.returns -= 1;
            self.returns
        } else {
            self.arrivals += 1;
            self.arrivals
        };
        self.levels[index].insert(number, place, item, front);
        self.length += 1;
    }

    /// Everything that waits, each team's in its order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Place, &mut T)> {
        let flows = self.levels.iter_mut().flat_map(|level| level.flows.values_mut());
        let queues = flows.flat_map(|flow| flow.gates.values_mut());
        queues.flatten().map(|(_, place, item)| (&*place, item))
    }

    /// Takes out every item for which `leaves` holds, without counting it as served.
    pub fn take_out(&mut self, leaves: impl Fn(&T) -> bool) -> Vec<(Place, T)> {
        let mut out = Vec::new();
        for level in &mut self.levels {
            level.take_out(&leaves, &mut out);
        }
        self.length -= out.len();
        out
    }

    /// The next item that may go, and its place: `open` says whether a provider has a place for a priority, `room` whether
    /// all of these budgets have room.
    pub fn pop(
        &mut self,
        open: impl Fn(Priority, &str) -> bool,
        room: impl Fn(&[usize]) -> bool,
    ) -> Option<(Place, T)> {
        // Ties go to the higher priority: `min_by_key` keeps the first of equals.
        let mut candidates: Vec<usize> = (0..3).filter(|index| self.levels[*index].length > 0).collect();
        candidates.sort_by_key(|index| self.levels[*index].key());
        for index in candidates {
            let priority = Priority::ALL[index];
            let share = self.shares[index];
            // Whoever waits for a budget does not wait for a place, and keeps nobody from it.
            let waits_for = |higher: usize, provider: &str| {
                let waiting = self.levels[higher].waiting.keys();
                waiting.filter(|gate| gate.provider == provider).any(|gate| room(&gate.budgets))
            };
            let is_anothers_turn = |provider: &str| {
                (0..index).any(|higher| {
                    self.levels[higher].key() <= self.levels[index].key()
                        && !open(Priority::ALL[higher], provider)
                        && waits_for(higher, provider)
                })
            };
            let open_to: Vec<Gate> = self.levels[index]
                .waiting
                .keys()
                .filter(|gate| {
                    open(priority, &gate.provider) && room(&gate.budgets) && !is_anothers_turn(&gate.provider)
                })
                .cloned()
                .collect();
            if let Some((place, item)) =
                self.levels[index].pop(|gate| open_to.iter().any(|open| open == gate))
            {
                let level = &mut self.levels[index];
                level.pending = level.pending.saturating_add(place.tokens.saturating_mul(SCALE) / share);
                self.length -= 1;
                return Some((place, item));
            }
        }
        None
    }
}

impl<T> Flow<T> {
    fn key(&self) -> u64 {
        self.counter.saturating_add(self.pending)
    }
}

impl<T> Level<T> {
    fn key(&self) -> u64 {
        self.pass.saturating_add(self.pending)
    }

    fn insert(&mut self, number: i64, place: Place, item: T, front: bool) {
        let least = self.settled.first().map(|(counter, _)| *counter);
        let flow = self.flows.entry(place.team.clone()).or_insert_with(|| Flow {
            counter: 0,
            pending: 0,
            gates: BTreeMap::new(),
        });
        if flow.gates.is_empty() {
            // What it was served, not what it is expected to have been: whoever began with too high an expectation of
            // another would have to wait for it.
            flow.counter = flow.counter.max(least.unwrap_or(self.clock));
            self.ready.insert((flow.key(), place.team.clone()));
            self.settled.insert((flow.counter, place.team.clone()));
        }
        *self.waiting.entry(place.gate.clone()).or_default() += 1;
        let queue = flow.gates.entry(place.gate.clone()).or_default();
        if front {
            queue.push_front((number, place, item));
        } else {
            queue.push_back((number, place, item));
        }
        self.length += 1;
    }

    fn pop(&mut self, open: impl Fn(&Gate) -> bool) -> Option<(Place, T)> {
        let team = self
            .ready
            .iter()
            .map(|(_, team)| team)
            .find(|team| self.flows.get(*team).is_some_and(|flow| flow.gates.keys().any(&open)))?;
        let team = team.clone();
        let flow = self.flows.get_mut(&team)?;
        let oldest = |queue: &VecDeque<Waiting<T>>| queue.front().map_or(i64::MAX, |(number, ..)| *number);
        let (gate, _) =
            flow.gates.iter().filter(|(gate, _)| open(gate)).min_by_key(|(_, queue)| oldest(queue))?;
        let gate = gate.clone();
        let queue = flow.gates.get_mut(&gate)?;
        let (_, place, item) = queue.pop_front()?;
        if queue.is_empty() {
            flow.gates.remove(&gate);
        }
        self.ready.remove(&(flow.key(), team.clone()));
        let cost = place.tokens.saturating_mul(SCALE) / u64::from(place.weight.get());
        flow.pending = flow.pending.saturating_add(cost);
        if flow.gates.is_empty() {
            self.settled.remove(&(flow.counter, team));
            self.forget_idle();
        } else {
            self.ready.insert((flow.key(), team));
        }
        self.length -= 1;
        leave(&mut self.waiting, &gate, 1);
        Some((place, item))
    }

    fn take_out(&mut self, leaves: &impl Fn(&T) -> bool, out: &mut Vec<(Place, T)>) {
        for (team, flow) in &mut self.flows {
            let was_active = !flow.gates.is_empty();
            for (gate, queue) in &mut flow.gates {
                let (gone, kept): (Vec<_>, Vec<_>) = queue.drain(..).partition(|(_, _, item)| leaves(item));
                queue.extend(kept);
                self.length -= gone.len();
                leave(&mut self.waiting, gate, gone.len());
                out.extend(gone.into_iter().map(|(_, place, item)| (place, item)));
            }
            flow.gates.retain(|_, queue| !queue.is_empty());
            if was_active && flow.gates.is_empty() {
                self.ready.remove(&(flow.key(), team.clone()));
                self.settled.remove(&(flow.counter, team.clone()));
            }
        }
    }

    fn change(&mut self, team: &Team, change: impl FnOnce(&mut Flow<T>)) {
        let Some(flow) = self.flows.get_mut(team) else { return };
        let was_ready = self.ready.remove(&(flow.key(), team.clone()));
        self.settled.remove(&(flow.counter, team.clone()));
        change(flow);
        self.clock = self.clock.max(flow.counter);
        if was_ready {
            self.ready.insert((flow.key(), team.clone()));
            self.settled.insert((flow.counter, team.clone()));
        }
    }

    /// An idle team's counter matters only while it is above the least active one: that is its debt.
    fn forget_idle(&mut self) {
        if self.flows.len() <= IDLE_TEAMS_MAX {
            return;
        }
        let least = self.settled.first().map_or(u64::MAX, |(counter, _)| *counter);
        self.flows.retain(|_, flow| !flow.gates.is_empty() || flow.pending > 0 || flow.counter > least);
        if self.flows.len() > 2 * IDLE_TEAMS_MAX {
            self.flows.retain(|_, flow| !flow.gates.is_empty());
        }
    }
}

/// So many wait for a gate no longer.
fn leave(waiting: &mut BTreeMap<Gate, usize>, gate: &Gate, count: usize) {
    let Some(left) = waiting.get_mut(gate) else { return };
    *left -= count;
    if *left == 0 {
        waiting.remove(gate);
    }
}

#[cfg(test)]
mod tests;
