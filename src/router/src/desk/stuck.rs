//! Where nothing passes a budget or a limit: who has it, see `policy::stuck`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tollgate_policy::stuck::{Hand, Waiting, by_request};
use tollgate_protocol::budget::Counter;
use tollgate_protocol::{Identity, Timestamp};

use super::{Desk, Done};
use crate::PREFETCH;
use crate::dispatch::WAIT_ELSEWHERE;
use crate::intake::Item;

/// How long a held request that makes way rests; then it is behind all others of its team that are held.
const NEXT_ONES: Duration = Duration::from_millis(50);

impl Desk {
    /// Asks the ledger for which requests in hand something is reserved already, and has some make way.
    pub(super) fn look_for_orphans(&mut self, now: Timestamp) {
        if self.stuck.is_empty() {
            return;
        }
        let (ask, make_way) = self.who_is_next(now, |_| true);
        self.make_way(&make_way);
        if !ask.is_empty() && !self.is_asking {
            self.is_asking = true;
            let (context, done) = (Arc::clone(&self.context), self.done_sender.clone());
            self.tasks.spawn(async move {
                let found = context.reserved_for(&ask).await;
                let _ = done.send(Done::Reserved(ask, found));
            });
        }
    }

    /// Whom to ask about, and who makes way, of those that `may`.
    fn who_is_next(
        &mut self,
        now: Timestamp,
        may: impl Fn(&Item) -> bool,
    ) -> (Vec<(Identity, u32)>, HashSet<Identity>) {
        let items: Vec<&Item> = self.queue.iter_mut().map(|(_, item)| &**item).collect();
        let waiting: Vec<Waiting<'_>> = items.iter().map(|item| self.context.waiting(item)).collect();
        let next = self.stuck.next(&waiting, now);
        let ask = next.ask.iter().map(|at| (items[*at].identity.clone(), items[*at].attempt)).collect();
        let make_way = next.make_way.iter().map(|at| items[*at]).filter(|item| may(item));
        (ask, make_way.map(|item| item.identity.clone()).collect())
    }

    fn make_way(&mut self, requests: &HashSet<Identity>) {
        if requests.is_empty() {
            return;
        }
        let leaves = |item: &Item| item.reserved.is_none() && requests.contains(&item.identity);
        for (_, item) in self.queue.take_out(|item| leaves(item)) {
            let delay = if item.message.is_released() { NEXT_ONES } else { WAIT_ELSEWHERE };
            self.tasks.spawn(item.message.hand_back(delay));
        }
    }

    /// What is reserved for some requests: there they need no room, and are tried whoever else waits.
    pub(super) fn reserved(&mut self, asked: &[(Identity, u32)], found: Option<Vec<(String, Counter)>>) {
        self.is_asking = false;
        // A ledger that does not answer has said nothing of anybody.
        let Some(found) = found else { return };
        let now = tollgate_bus::now();
        let reserved = by_request(asked, found);
        for (_, item) in self.queue.iter_mut() {
            let Some(counters) = reserved.get(&item.identity) else { continue };
            item.asked = Some(now);
            item.has_nothing = counters.is_empty().then_some(now);
        }
        let hot = Arc::clone(&self.hot);
        let is_there = |item: &Item, budget: usize| {
            let counters = reserved.get(&item.identity).filter(|counters| !counters.is_empty());
            let counter = counters.and_then(|_| hot.budgets.0.get(budget)).map(|budget| budget.counter(now));
            counters.zip(counter).is_some_and(|(counters, counter)| counters.contains(&counter))
        };
        let leaves = |item: &Item| {
            item.reserved.is_none() && item.place.gate.budgets.iter().any(|budget| is_there(item, *budget))
        };
        for (_, mut item) in self.queue.take_out(|item| leaves(item)) {
            let mut gate = item.place.gate.clone();
            gate.budgets.retain(|budget| !is_there(&item, *budget));
            item.place.gate = gate;
            self.queue.push(item.place.clone(), item);
        }
        // Of all that are held only so many are in hand: the sooner these make way, the sooner all were looked at.
        let (_, released) = self.who_is_next(now, |item| item.message.is_released());
        self.make_way(&released);
    }
}

impl crate::Context {
    fn waiting<'a>(&self, item: &'a Item) -> Waiting<'a> {
        let hand = match item.message.lane() {
            Some(lane) if self.tally.places(&item.message.subject) >= PREFETCH => Hand::Lane(lane),
            None if item.message.is_released() && !item.is_aside => Hand::Released,
            _ => Hand::None,
        };
        // With everything reserved it needs no room; what is too large waits for something else.
        let waits = item.reserved.is_none() && item.too_large_for.is_none();
        let budgets = if waits { &item.needs.budgets[..] } else { &[] };
        let (since, asked, has_nothing) = (item.since, item.asked, item.has_nothing);
        let place = &item.place;
        let flow = (place.gate.provider.as_str(), place.team.as_str(), place.priority);
        Waiting { budgets, since, asked, has_nothing, flow, hand }
    }
}
