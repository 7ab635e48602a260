//! The teams of one priority at one provider.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use tollgate_protocol::Team;

use super::{Gate, IDLE_TEAMS_MAX, Place, SCALE, credit};

/// An item with its number.
type Waiting<T> = (i64, Place, T);

#[derive(Debug)]
pub(super) struct Level<T> {
    /// Virtual time of the level: tokens served, divided by its share.
    pub(super) pass: u64,
    /// The same of what was taken out and is not settled yet.
    pub(super) pending: u64,
    /// Lower ones were served in its turn, because nothing of it had room.
    pub(super) is_passed_over: bool,
    pub(super) flows: HashMap<Team, Flow<T>>,
    /// Active teams by what they have and are about to have.
    ready: BTreeSet<(u64, Team)>,
    /// Those that are not passed over, by what they have had.
    settled: BTreeSet<(u64, Team)>,
    /// How many items wait for each gate.
    waiting: BTreeMap<Gate, usize>,
    pub(super) length: usize,
    /// The furthest any team has come: what was served while nobody else waited is no debt.
    clock: u64,
}

impl<T> Default for Level<T> {
    fn default() -> Self {
        Self {
            pass: 0,
            pending: 0,
            is_passed_over: false,
            flows: HashMap::new(),
            ready: BTreeSet::new(),
            settled: BTreeSet::new(),
            waiting: BTreeMap::new(),
            length: 0,
            clock: 0,
        }
    }
}

#[derive(Debug)]
pub(super) struct Flow<T> {
    /// What it was served.
    pub(super) counter: u64,
    /// What was taken out and is not settled yet, as expected.
    pub(super) pending: u64,
    /// Others were served in its turn, because none of its gates was open.
    is_passed_over: bool,
    pub(super) gates: BTreeMap<Gate, VecDeque<Waiting<T>>>,
}

impl<T> Flow<T> {
    /// How far it may lag behind, by what waits first at its gates.
    fn lag_max(&self) -> u64 {
        let first = self.gates.values().filter_map(VecDeque::front);
        first.map(|(_, place, _)| credit(place.tokens) / u64::from(place.weight.get())).max().unwrap_or(0)
    }

    pub(super) fn key(&self) -> u64 {
        self.counter.saturating_add(self.pending)
    }
}

impl<T> Level<T> {
    pub(super) fn key(&self) -> u64 {
        self.pass.saturating_add(self.pending)
    }

    /// Whether anything waits that has room in all of its budgets.
    pub(super) fn waits_with(&self, room: impl Fn(&[usize]) -> bool) -> bool {
        self.waiting.keys().any(|gate| room(&gate.budgets))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&Place, &mut T)> {
        let queues = self.flows.values_mut().flat_map(|flow| flow.gates.values_mut());
        queues.flatten().map(|(_, place, item)| (&*place, item))
    }

    /// How far the teams have come that wait, and are not passed over.
    fn time(&self) -> u64 {
        self.settled.first().map_or(self.clock, |(counter, _)| *counter)
    }

    pub(super) fn insert(&mut self, number: i64, place: Place, item: T, front: bool) {
        let time = self.time();
        let flow = self.flows.entry(place.team.clone()).or_insert_with(|| Flow {
            counter: 0,
            pending: 0,
            is_passed_over: false,
            gates: BTreeMap::new(),
        });
        if flow.gates.is_empty() {
            // What it was served, not what it is expected to have been: whoever began with too high an expectation of
            // another would have to wait for it.
            flow.counter = flow.counter.max(time);
            flow.is_passed_over = false;
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

    pub(super) fn pop(&mut self, open: impl Fn(&Gate) -> bool) -> Option<(Place, T)> {
        let mut passed = Vec::new();
        let mut found = None;
        for (_, team) in &self.ready {
            let Some(flow) = self.flows.get(team) else { continue };
            if flow.gates.keys().any(&open) {
                found = Some(team.clone());
                break;
            }
            if !flow.is_passed_over {
                passed.push(team.clone());
            }
        }
        let team = found?;
        // Their turn came before, and they could not have it.
        for team in passed {
            let Some(flow) = self.flows.get_mut(&team) else { continue };
            flow.is_passed_over = true;
            self.settled.remove(&(flow.counter, team));
        }
        self.come_back(&team);
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

    /// A team that was passed over has its turn again, without what it would have had meanwhile.
    fn come_back(&mut self, team: &Team) {
        let time = self.time();
        let Some(flow) = self.flows.get_mut(team).filter(|flow| flow.is_passed_over) else { return };
        let lag = flow.lag_max();
        self.ready.remove(&(flow.key(), team.clone()));
        flow.is_passed_over = false;
        flow.counter = flow.counter.max(time.saturating_sub(lag));
        self.ready.insert((flow.key(), team.clone()));
        self.settled.insert((flow.counter, team.clone()));
    }

    pub(super) fn take_out(&mut self, leaves: &impl Fn(&T) -> bool, out: &mut Vec<(Place, T)>) {
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

    pub(super) fn change(&mut self, team: &Team, change: impl FnOnce(&mut Flow<T>)) {
        let Some(flow) = self.flows.get_mut(team) else { return };
        let was_ready = self.ready.remove(&(flow.key(), team.clone()));
        self.settled.remove(&(flow.counter, team.clone()));
        change(flow);
        self.clock = self.clock.max(flow.counter);
        if was_ready {
            self.ready.insert((flow.key(), team.clone()));
            if !flow.is_passed_over {
                self.settled.insert((flow.counter, team.clone()));
            }
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
