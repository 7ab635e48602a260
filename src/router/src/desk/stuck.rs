//! Where nothing passes a budget or a limit: who has it, see `policy::stuck`.

use std::collections::HashSet;
use std::sync::Arc;

use tollgate_policy::stuck::Waiting;
use tollgate_protocol::{Identity, Timestamp};

use super::{Desk, Done};
use crate::dispatch::WAIT_ELSEWHERE;
use crate::intake::Item;

impl Desk {
    /// Asks the ledger for which requests in hand something is reserved already, and has some make way.
    pub(super) fn look_for_orphans(&mut self, now: Timestamp) {
        if self.stuck.is_empty() {
            return;
        }
        let mut items: Vec<&mut Box<Item>> =
            self.queue.iter_mut().map(|(_, item)| item).filter(|item| item.reserved.is_none()).collect();
        let waiting: Vec<Waiting<'_>> = items.iter().map(|item| waiting(item)).collect();
        let next = self.stuck.next(&waiting, now);
        let make_way: HashSet<Identity> =
            next.make_way.iter().map(|at| items[*at].identity.clone()).collect();
        let mut ask = Vec::new();
        for at in next.ask {
            items[at].asked = Some(now);
            ask.push(items[at].identity.clone());
        }
        if !make_way.is_empty() {
            let leaves = |item: &Item| item.reserved.is_none() && make_way.contains(&item.identity);
            for (_, item) in self.queue.take_out(|item| leaves(item)) {
                self.tasks.spawn(item.message.hand_back(WAIT_ELSEWHERE));
            }
        }
        if !ask.is_empty() {
            let (context, done) = (Arc::clone(&self.context), self.done_sender.clone());
            self.tasks.spawn(async move {
                let _ = done.send(Done::Reserved(context.reserved_for(&ask).await));
            });
        }
    }

    /// Something is reserved for these requests: they need no room, and are tried whoever else waits.
    pub(super) fn reserved(&mut self, accounts: &[String]) {
        let now = tollgate_bus::now();
        if accounts.is_empty() {
            return;
        }
        let is_one = |item: &Item| accounts.contains(&item.identity.to_string());
        for (_, mut item) in self.queue.take_out(|item| item.reserved.is_none() && is_one(item)) {
            item.place.gate.budgets.retain(|budget| !self.stuck.is_stuck(*budget, now));
            item.waits = 0;
            self.queue.push(item.place.clone(), item);
        }
    }
}

fn waiting(item: &Item) -> Waiting<'_> {
    Waiting { budgets: &item.needs.budgets, since: item.since, asked: item.asked }
}
