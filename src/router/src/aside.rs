//! Room for what does not wait: see `policy::aside`.

use tollgate_policy::aside::{Aside, Waiting};
use tollgate_policy::budget::Budgets;
use tollgate_policy::order::{Place, Queue};
use tollgate_protocol::Timestamp;

use crate::gates::Gates;
use crate::intake::Item;

/// Has requests step aside that wait for a budget or a limit of a part of their team.
pub(crate) fn make_room(queue: &mut Queue<Box<Item>>, gates: &Gates, budgets: &Budgets, now: Timestamp) {
    let mut all: Vec<_> = queue.iter_mut().collect();
    let mut aside = Aside::new(budgets, now);
    for (place, item) in all.iter().filter(|(_, item)| item.is_aside) {
        aside.count(waiting(place, item));
    }
    for (place, item) in &mut all {
        if aside.steps(waiting(place, item), |budget| gates.has_room_in(budget)) {
            item.message.step_aside();
            item.is_aside = true;
        }
    }
}

fn waiting<'a>(place: &'a Place, item: &Item) -> Waiting<'a> {
    Waiting {
        team: &place.team,
        gate: &place.gate,
        bytes: item.payload.len(),
        since: item.since,
        is_aside: item.is_aside,
    }
}
