//! Budgets and limits that take nothing because of what is reserved in them.
//!
//! What fills one may be reserved for a request whose router died. That request goes on with it as soon as it is tried, and
//! nobody else does. But it can be behind all others in the order, which are tried again and again and find no room; or
//! outside of all hands, because they fill these. So where nothing passes for a while, the ledger is asked which of the
//! requests in hand something is reserved for, and they are tried out of turn: that takes no room from anybody. If it goes
//! on, some in hand make way for others.

use std::collections::HashMap;

use chrono::TimeDelta;
use tollgate_protocol::Timestamp;
use tollgate_protocol::budget::OTHERS_MAX;

/// From then on the ledger is asked.
const ASKED_AFTER: TimeDelta = TimeDelta::seconds(1);
/// From then on some make way: most calls are over by then.
const MAKES_WAY_AFTER: TimeDelta = TimeDelta::seconds(10);
/// So many make way at a time, and one in [`MAKE_WAY_PART`] of those that wait.
const MAKE_WAY_MAX: usize = 32;
/// See [`MAKE_WAY_MAX`].
const MAKE_WAY_PART: usize = 4;
/// As many as a router has in hand of a lane. Fewer are in nobody's way.
const HAND: usize = 32;

/// Since when nothing passed, by the number of the budget.
#[derive(Debug, Default)]
pub struct Stuck(HashMap<usize, Timestamp>);

/// What is to be done about requests that wait, by their place in a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// The ledger is to be asked about these.
    pub ask: Vec<usize>,
    /// These are to be handed back.
    pub make_way: Vec<usize>,
}

/// A request that waits with nothing reserved that its router knows of.
#[derive(Clone, Copy, Debug)]
pub struct Waiting<'a> {
    /// What it needs room in.
    pub budgets: &'a [usize],
    /// Since when it is in hand.
    pub since: Timestamp,
    /// When the ledger was last asked about it.
    pub asked: Option<Timestamp>,
}

impl Stuck {
    /// A budget had no room, because of what is reserved in it.
    pub fn refused(&mut self, budget: usize, now: Timestamp) {
        self.0.entry(budget).or_insert(now);
    }

    /// A request got room in these.
    pub fn passed(&mut self, budgets: &[usize]) {
        self.0.retain(|budget, _| !budgets.contains(budget));
    }

    /// Nothing is known of any: their numbers are others now.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether something passes everywhere.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether nothing has passed here for so long that the ledger is asked.
    pub fn is_stuck(&self, budget: usize, now: Timestamp) -> bool {
        self.is_over(budget, now, ASKED_AFTER)
    }

    fn is_over(&self, budget: usize, now: Timestamp, time: TimeDelta) -> bool {
        self.0.get(&budget).is_some_and(|since| now - *since >= time)
    }

    /// Whom to ask about, those first that were not asked about for longest, and who makes way: of those that were asked
    /// about before, those that are in hand for longest.
    pub fn next(&self, waiting: &[Waiting<'_>], now: Timestamp) -> Next {
        let of = |time| {
            let waits =
                move |at: &usize| waiting[*at].budgets.iter().any(|budget| self.is_over(*budget, now, time));
            (0..waiting.len()).filter(waits)
        };
        let mut ask: Vec<usize> = of(ASKED_AFTER).collect();
        ask.sort_by_key(|at| (waiting[*at].asked, waiting[*at].since));
        ask.truncate(OTHERS_MAX);
        let mut make_way: Vec<usize> = of(MAKES_WAY_AFTER).collect();
        let most = if make_way.len() < HAND { 0 } else { (make_way.len() / MAKE_WAY_PART).min(MAKE_WAY_MAX) };
        make_way.retain(|at| waiting[*at].asked.is_some());
        make_way.sort_by_key(|at| waiting[*at].since);
        make_way.truncate(most);
        ask.retain(|at| !make_way.contains(at));
        Next { ask, make_way }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_timestamp_millis(1_800_000_000_000 + ms).unwrap()
    }

    fn waiting(budgets: &[usize], since: i64, asked: Option<i64>) -> Waiting<'_> {
        Waiting { budgets, since: at(since), asked: asked.map(at) }
    }

    #[test]
    fn nobody_is_asked_about_while_something_passes() {
        let mut stuck = Stuck::default();
        let all = [waiting(&[0, 1], 0, None), waiting(&[1], 0, None), waiting(&[2], 0, None)];
        assert_eq!(stuck.next(&all, at(0)), Next::default());
        stuck.refused(1, at(0));
        stuck.refused(1, at(900));
        assert_eq!(stuck.next(&all, at(999)), Next::default());
        assert_eq!(stuck.next(&all, at(1_000)), Next { ask: vec![0, 1], make_way: Vec::new() });
        assert!(stuck.is_stuck(1, at(1_000)) && !stuck.is_stuck(0, at(1_000)));
        stuck.passed(&[0]);
        assert!(stuck.is_stuck(1, at(1_000)));
        stuck.passed(&[0, 1]);
        assert_eq!(stuck.next(&all, at(1_000)), Next::default());
        stuck.refused(1, at(1_000));
        stuck.clear();
        assert_eq!(stuck.next(&all, at(5_000)), Next::default());
    }

    #[test]
    fn all_have_their_turn_to_be_asked_about() {
        let mut stuck = Stuck::default();
        stuck.refused(0, at(0));
        let mut all: Vec<_> = (0..600).map(|since| waiting(&[0], since, None)).collect();
        let mut asked = Vec::new();
        for second in 1..=3 {
            let next = stuck.next(&all, at(second * 1_000));
            for index in next.ask {
                all[index].asked = Some(at(second * 1_000));
                asked.push(index);
            }
        }
        assert_eq!(asked.len(), 3 * OTHERS_MAX);
        assert_eq!(asked[..600], (0..600).collect::<Vec<_>>()[..]);
        assert_eq!(asked[600..], (0..3 * OTHERS_MAX - 600).collect::<Vec<_>>()[..], "and again");
    }

    #[test]
    fn after_a_while_those_make_way_that_were_asked_about() {
        let mut stuck = Stuck::default();
        stuck.refused(0, at(0));
        let mut all: Vec<_> = (0..100).map(|since| waiting(&[0], 100 - since, Some(9_000))).collect();
        all[99].asked = None;
        assert_eq!(stuck.next(&all, at(9_999)).make_way.len(), 0);
        let next = stuck.next(&all, at(10_000));
        assert_eq!(
            next.make_way,
            (74..99).rev().collect::<Vec<_>>(),
            "a quarter, those that wait for longest"
        );
        assert_eq!((next.ask[0], next.ask.len()), (99, 75));
        let many: Vec<_> = (0..1_000).map(|since| waiting(&[0], since, Some(9_000))).collect();
        assert_eq!(stuck.next(&many, at(10_000)).make_way.len(), MAKE_WAY_MAX);
        let few = &all[..HAND - 1];
        assert_eq!(stuck.next(few, at(10_000)).make_way.len(), 0, "they fill no hand");
    }
}
