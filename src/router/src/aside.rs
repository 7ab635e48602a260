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
    // One that waits for its own turn waits for the limits that give it; one that is too large, for its budget.
    let turns: Vec<Option<Gate>> = all
        .iter()
        .map(|(place, item)| {
            let paces = item.needs.budgets.iter().copied().filter(|budget| budgets.is_rate(*budget));
            let waits_for = || item.too_large_for.map_or_else(|| paces.collect(), |budget| vec![budget]);
            let of_turn = || Gate { provider: place.gate.provider.clone(), budgets: waits_for() };
            gates.waits_for_turn(place).then(of_turn)
        })
        .collect();
    let mut aside = Aside::new(budgets, now);
    for ((place, item), turn) in all.iter().zip(&turns).filter(|((_, item), _)| item.is_aside) {
        aside.count(waiting(place, item, turn.as_ref()));
    }
    for ((place, item), turn) in all.iter_mut().zip(&turns) {
        let waits = waiting(place, item, turn.as_ref());
        if aside.steps(waits, |budget| turn.is_none() && gates.has_room_in(budget)) {
            item.message.step_aside();
            item.is_aside = true;
        }
    }
}

fn waiting<'a>(place: &'a Place, item: &Item, turn: Option<&'a Gate>) -> Waiting<'a> {
    Waiting {
        team: &place.team,
        gate: turn.unwrap_or(&place.gate),
        bytes: item.payload.len(),
        since: item.since,
        is_aside: item.is_aside,
        is_too_large: item.too_large_for.is_some(),
    }
}
