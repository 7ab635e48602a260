//! Whose turn it is under limits of requests per minute: the last thing before a request is dispatched.
//!
//! A number is a place in time that nobody else has. It is taken when everything else is reserved, so that few are wasted,
//! and kept while the request waits for it.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tollgate_bus::PublishError;
use tollgate_bus::retry::Patience;
use tollgate_policy::budget::Measure;
use tollgate_policy::pace::{self, Asking, Numbered};
use tollgate_protocol::Timestamp;

use crate::Context;
use crate::budget::Reserving;
use crate::intake::Item;

/// How long one number is asked for before the request waits.
const PATIENCE: Patience = Patience(Duration::from_secs(5));
/// How soon a limit that does not answer is asked again.
const RETRY: Duration = Duration::from_millis(200);
/// A turn that is this near is waited for on the spot; for a later one the request goes back into the order.
const NEAR: Duration = Duration::from_millis(50);
/// How often all its numbers are looked at again, because one was void when the last of them had come.
const ROUNDS_MAX: usize = 4;

/// What requests heard that did not want to wait, by the limit's name and its requests per minute. A number whose time
/// had not come is had by the next to come, so that whoever is rejected wastes no slot; and where none was left,
/// nobody of them asks again before there is one. One each.
#[derive(Debug, Default)]
pub(crate) struct Spare(Mutex<HashMap<(String, NonZeroU32), Numbered>>);

impl Context {
    /// Waits for the turn of a request under every limit that counts requests per minute.
    pub(crate) async fn take_turns(&self, item: &mut Item) -> Reserving {
        let hot = Arc::clone(&item.hot);
        let needs = item.amounts.clone();
        let limits = needs.iter().filter_map(|need| {
            let limit = hot.budgets.0.get(need.budget).filter(|limit| limit.measure == Measure::Rate)?;
            let per_minute = u32::try_from(limit.limit).ok().and_then(NonZeroU32::new);
            Some((need.budget, limit.name.as_str(), per_minute.unwrap_or(NonZeroU32::MAX)))
        });
        let mut limits: Vec<_> = limits.collect();
        // The slow ones first: their numbers are good for longer.
        limits.sort_by_key(|(.., per_minute)| *per_minute);
        // A number can become void while one waits for that of another limit.
        for _ in 0..ROUNDS_MAX {
            for (budget, name, per_minute) in &limits {
                let at = match self.turn(item, *budget, name, *per_minute).await {
                    Ok(at) => at,
                    Err(reserving) => return reserving,
                };
                if at > Instant::now() + NEAR {
                    return Reserving::Turn(at);
                }
                tokio::time::sleep_until(at).await;
            }
            let now = tollgate_bus::now();
            item.turns.retain(|(budget, at)| {
                let of = limits.iter().find(|(index, ..)| index == budget);
                of.is_none_or(|(.., per_minute)| !pace::is_void(*per_minute, *at, now))
            });
            if limits.iter().all(|(budget, ..)| item.turns.iter().any(|(index, _)| index == budget)) {
                return Reserving::Done;
            }
        }
        // Too slow for its numbers, again and again: others have their chance first.
        Reserving::Turn(Instant::now() + RETRY)
    }

    /// When its turn is under one limit: by the number that it has, or by one that is asked for.
    async fn turn(
        &self,
        item: &mut Item,
        budget: usize,
        limit: &str,
        per_minute: NonZeroU32,
    ) -> Result<Instant, Reserving> {
        if let Some((_, at)) = item.turns.iter().find(|(index, _)| *index == budget) {
            return Ok(instant(*at));
        }
        let rejects = item.hot.budgets.0.get(budget).is_some_and(|limit| item.is_rejected_by(limit));
        let numbered = if rejects {
            self.number_now(limit, per_minute).await
        } else {
            match self.spare_number(limit, per_minute) {
                Some(at) => Ok(Numbered::At(at)),
                None => self.number(limit, per_minute).await,
            }
        };
        match numbered {
            Ok(Numbered::At(at)) => {
                tollgate_bus::point("router.numbered");
                item.turns.push((budget, at));
                Ok(instant(at))
            }
            Ok(Numbered::Later(at)) => Err(Reserving::NoTurn(budget, instant(at))),
            Err(error) => {
                tracing::warn!(%error, limit, "a limit's counter does not answer, trying again");
                Err(Reserving::Unknown(budget, Instant::now() + RETRY))
            }
        }
    }

    /// A number for who does not wait: one whose time has come, or none.
    async fn number_now(&self, limit: &str, per_minute: NonZeroU32) -> Result<Numbered, PublishError> {
        // One asks at a time, or each of many would take a number that it cannot use.
        let mut spare = self.spare.0.lock().await;
        let key = (limit.to_owned(), per_minute);
        let is_good = |kept: &Numbered| match *kept {
            Numbered::At(at) => !pace::is_void(per_minute, at, tollgate_bus::now()),
            Numbered::Later(at) => at > tollgate_bus::now(),
        };
        let numbered = match spare.remove(&key).filter(is_good) {
            Some(kept) => kept,
            None => self.number(limit, per_minute).await?,
        };
        let (Numbered::At(at) | Numbered::Later(at)) = numbered;
        if matches!(numbered, Numbered::At(_)) && instant(at) <= Instant::now() + NEAR {
            return Ok(numbered);
        }
        spare.insert(key, numbered);
        Ok(Numbered::Later(at))
    }

    /// A number that is left over.
    fn spare_number(&self, limit: &str, per_minute: NonZeroU32) -> Option<Timestamp> {
        // Whoever has it locked is asking for one.
        let mut spare = self.spare.0.try_lock().ok()?;
        let key = (limit.to_owned(), per_minute);
        let Numbered::At(at) = *spare.get(&key)? else { return None };
        spare.remove(&key);
        (!pace::is_void(per_minute, at, tollgate_bus::now())).then_some(at)
    }

    async fn number(&self, limit: &str, per_minute: NonZeroU32) -> Result<Numbered, PublishError> {
        let mut asking = Asking::new(limit, per_minute);
        loop {
            let add = asking.next(tollgate_bus::now());
            let id = add.id.as_deref();
            let number = self.bus.add_numbers(limit, &add.cell, add.amount, id, PATIENCE).await?;
            if let Some(numbered) = asking.heard(number, tollgate_bus::now()) {
                return Ok(numbered);
            }
        }
    }
}

fn instant(at: Timestamp) -> Instant {
    Instant::now() + (at - tollgate_bus::now()).to_std().unwrap_or_default()
}
