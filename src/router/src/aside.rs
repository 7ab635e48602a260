//! Room for what does not wait: see `policy::aside`.

use tollgate_policy::aside::{Aside, Waiting};
use tollgate_policy::budget::Budgets;
use tollgate_policy::order::{Gate, Place, Queue};
use tollgate_protocol::Timestamp;

use crate::gates::Gates;
use crate::intake::Item;

/// Has requests step aside that wait for a budget or a limit of a part of their team.
pub(crate) fn make_room(queue: &mut Queue<Box<Item>>, gates: &Gates, budgets: &Budgets, now: Timestamp) {
    let mut all: Vec<_> = queue.iter_mut().collect();
    // One that waits for its own turn waits for the limits that give it.
    let turns: Vec<Option<Gate>> = all
        .iter()
        .map(|(place, item)| {
            let paces = item.needs.budgets.iter().copied().filter(|budget| budgets.is_rate(*budget));
            let of_turn = || Gate { provider: place.gate.provider.clone(), budgets: paces.collect() };
            gates.waits_for_turn(place).then(of_turn)
        })
        .collect();
    let mut aside = Aside::new(budgets, now);
    for (place, item) in all.iter().filter(|(_, item)| item.is_aside) {
        aside.count(waiting(place, item));
    }
    for ((place, item), turn) in all.iter_mut().zip(&turns) {
        let waits = Waiting { gate: turn.as_ref().unwrap_or(&place.gate), ..waiting(place, item) };
        if aside.steps(waits, |budget| turn.is_none() && gates.has_room_in(budget)) {
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
