//! Whose turn it is under limits of requests per minute: the last thing before a request is dispatched. As
//! `src/router/src/turn.rs`. The limits here reject nobody, so no number is left over for the next to come.

use std::num::NonZeroU32;
use std::rc::Rc;

use tollgate_model::{Micros, Publish};
use tollgate_policy::budget::Measure;
use tollgate_policy::pace::{self, Asking, Numbered};
use tollgate_protocol::Timestamp;

use super::reserve::Reserving;
use super::{Item, Router};
use crate::net::{NORMAL, NotStored, subjects};
use crate::plan::MS;
use crate::world::Body;

const RETRY: Micros = 200 * MS;
const NEAR: Micros = 50 * MS;
const ROUNDS_MAX: usize = 4;

impl Router {
    /// Waits for the turn of a request under every limit that counts requests per minute.
    pub(super) async fn take_turns(&self, item: &mut Item) -> Reserving {
        let (world, needs) = (Rc::clone(&self.process.world), item.amounts.clone());
        let limits = needs.iter().filter_map(|need| {
            let limit = world.plan.budgets.0.get(need.budget)?;
            let per_minute = u32::try_from(limit.limit).ok().and_then(NonZeroU32::new);
            let is_rate = limit.measure == Measure::Rate;
            is_rate.then_some((need.budget, limit.name.as_str(), per_minute.unwrap_or(NonZeroU32::MAX)))
        });
        let mut limits: Vec<_> = limits.collect();
        limits.sort_by_key(|(.., per_minute)| *per_minute);
        // A number can become void while one waits for that of another limit.
        for _ in 0..ROUNDS_MAX {
            for (budget, name, per_minute) in &limits {
                let at = match self.turn(item, *budget, name, *per_minute).await {
                    Ok(at) => at,
                    Err(reserving) => return reserving,
                };
                let wait = at.saturating_sub(world.exec.now());
                if wait > 0 {
                    world.checks.borrow_mut().saw("wait for a slot");
                }
                if wait > NEAR {
                    return Reserving::Turn(at);
                }
                if wait > 0 {
                    self.process.sleep(wait).await;
                }
            }
            let now = self.now();
            let held = item.turns.len();
            item.turns.retain(|(budget, at)| {
                let of = limits.iter().find(|(index, ..)| index == budget);
                of.is_none_or(|(.., per_minute)| !pace::is_void(*per_minute, *at, now))
            });
            if item.turns.len() < held {
                world.checks.borrow_mut().saw("void number");
            }
            if limits.iter().all(|(budget, ..)| item.turns.iter().any(|(index, _)| index == budget)) {
                return Reserving::Done;
            }
        }
        // Too slow for its numbers, again and again: others have their chance first.
        Reserving::Turn(world.exec.now() + RETRY)
    }

    /// When its turn is under one limit: by the number that it has, or by one that is asked for.
    async fn turn(
        &self,
        item: &mut Item,
        budget: usize,
        limit: &str,
        per_minute: NonZeroU32,
    ) -> Result<Micros, Reserving> {
        if let Some((_, at)) = item.turns.iter().find(|(index, _)| *index == budget) {
            return Ok(self.instant(*at));
        }
        match self.number(limit, per_minute).await {
            Ok(Numbered::At(at)) => {
                item.turns.push((budget, at));
                Ok(self.instant(at))
            }
            Ok(Numbered::Later(at)) => Err(Reserving::NoTurn(budget, self.instant(at))),
            Err(_) => Err(Reserving::Unknown(budget, self.process.world.exec.now() + RETRY)),
        }
    }

    async fn number(&self, limit: &str, per_minute: NonZeroU32) -> Result<Numbered, NotStored> {
        let mut asking = Asking::new(limit, per_minute);
        loop {
            let add = asking.next(self.now());
            let id = add.id.unwrap_or_else(|| format!("number-{}", self.process.world.number()));
            let subject = subjects().pace(limit, &add.cell);
            let publish =
                Publish { increment: Some(add.amount), ..Publish::new(subject, Body::Number).id(id) };
            let ack = self.process.publish(publish, NORMAL).await?;
            if let Some(numbered) = asking.heard(ack.total, self.now()) {
                return Ok(numbered);
            }
        }
    }

    /// When it is that time by this process's clock, if that does not jump.
    fn instant(&self, at: Timestamp) -> Micros {
        let wait = (at - self.now()).num_microseconds().unwrap_or(0);
        self.process.world.exec.now() + u64::try_from(wait).unwrap_or(0)
    }
}
