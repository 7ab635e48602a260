//! The order at one provider, between priorities.
//!
//! A priority that waits for a place to come free is not overtaken by a lower one before that one's turn: places come free one
//! by one, and whoever is ready would otherwise take them all in turn.

use tollgate_protocol::Priority;

use super::level::Level;
use super::{Gate, Place, SCALE, USED_MAX, credit};
use crate::served::Settlement;

/// What waits for one provider.
#[derive(Debug)]
pub(super) struct Line<T> {
    pub(super) levels: [Level<T>; 3],
    shares: [u64; 3],
    /// The furthest any level has come: where the first one begins after all were empty. What a level was served
    /// while nobody else waited is no debt.
    clock: u64,
}

impl<T> Line<T> {
    pub(super) fn new(shares: [u64; 3]) -> Self {
        Self { levels: [Level::default(), Level::default(), Level::default()], shares, clock: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.levels.iter().all(|level| level.length == 0)
    }

    pub(super) fn settle(&mut self, settlement: &Settlement) {
        let Settlement { priority, team, weight, expected, used, less, .. } = settlement;
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

    pub(super) fn insert(&mut self, number: i64, place: Place, item: T, front: bool) {
        let index = place.priority.index();
        if self.levels[index].length == 0 {
            // A level that was empty gets no credit for it.
            let begin = self.time();
            let level = &mut self.levels[index];
            level.pass = level.pass.max(begin);
            level.is_passed_over = false;
        }
        self.levels[index].insert(number, place, item, front);
    }

    /// How far the levels have come that wait, and are not passed over.
    fn time(&self) -> u64 {
        let waiting = self.levels.iter().filter(|level| level.length > 0 && !level.is_passed_over);
        waiting.map(|level| level.pass).min().unwrap_or(self.clock)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&Place, &mut T)> {
        self.levels.iter_mut().flat_map(Level::iter_mut)
    }

    pub(super) fn take_out(&mut self, leaves: &impl Fn(&T) -> bool, out: &mut Vec<(Place, T)>) {
        for level in &mut self.levels {
            level.take_out(leaves, out);
        }
    }

    pub(super) fn pop(
        &mut self,
        open: impl Fn(Priority) -> bool,
        room: impl Fn(&[usize]) -> bool,
    ) -> Option<(Place, T)> {
        // Ties go to the higher priority: the sort keeps the order of equals.
        let mut candidates: Vec<usize> = (0..3).filter(|index| self.levels[*index].length > 0).collect();
        candidates.sort_by_key(|index| self.levels[*index].key());
        // Whoever waits for a budget does not wait for a place, and keeps nobody from it.
        let has_room: Vec<bool> = self.levels.iter().map(|level| level.waits_with(&room)).collect();
        let (at, index) = candidates.iter().copied().enumerate().find(|(_, index)| {
            let is_anothers_turn = (0..*index).any(|higher| {
                self.levels[higher].key() <= self.levels[*index].key()
                    && !open(Priority::ALL[higher])
                    && has_room[higher]
            });
            has_room[*index] && open(Priority::ALL[*index]) && !is_anothers_turn
        })?;
        // Their turn came before, and they could not have it.
        for passed in candidates[..at].iter().filter(|passed| !has_room[**passed]) {
            self.levels[*passed].is_passed_over = true;
        }
        let share = self.shares[index];
        let taken = self.levels[index].pop(|gate: &Gate| room(&gate.budgets))?;
        let tokens = taken.0.tokens;
        // Of the others: it is not among them while it is passed over.
        let time = self.time();
        let level = &mut self.levels[index];
        if std::mem::take(&mut level.is_passed_over) {
            level.pass = level.pass.max(time.saturating_sub(credit(tokens) / share));
        }
        level.pending = level.pending.saturating_add(tokens.saturating_mul(SCALE) / share);
        Some(taken)
    }
}
