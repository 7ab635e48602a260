//! Whose turn it is under limits of requests per minute: the last thing before a request is dispatched.
//!
//! A number is a place in time that nobody else has. It is taken when everything else is reserved, so that few are wasted,
//! and kept while the request waits for it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tollgate_bus::PublishError;
use tollgate_bus::retry::Patience;
use tollgate_policy::budget::Measure;
use tollgate_policy::pace::{Asking, Numbered};

use crate::Context;
use crate::budget::Reserving;
use crate::intake::Item;

/// How long one number is asked for before the request waits.
const PATIENCE: Patience = Patience(Duration::from_secs(5));
/// How soon a limit that does not answer is asked again.
const RETRY: Duration = Duration::from_millis(200);
/// A turn that is this near is waited for on the spot; for a later one the request goes back into the order.
const NEAR: Duration = Duration::from_millis(50);

impl Context {
    /// Waits for the turn of a request under every limit that counts requests per minute.
    pub(crate) async fn take_turns(&self, item: &mut Item) -> Reserving {
        let hot = Arc::clone(&item.hot);
        for need in item.amounts.clone() {
            let Some(limit) = hot.budgets.0.get(need.budget) else { continue };
            if limit.measure != Measure::Rate {
                continue;
            }
            let taken = item.turns.iter().find(|(index, _)| *index == need.budget).map(|(_, at)| *at);
            let at = if let Some(at) = taken {
                at
            } else {
                let per_minute = u32::try_from(limit.limit).ok().and_then(NonZeroU32::new);
                match self.number(&limit.name, per_minute.unwrap_or(NonZeroU32::MAX)).await {
                    Ok(Numbered::At(at)) => {
                        tollgate_bus::point("router.numbered");
                        item.turns.push((need.budget, at));
                        at
                    }
                    Ok(Numbered::Later(at)) => return Reserving::NoTurn(need.budget, instant(at)),
                    Err(error) => {
                        tracing::warn!(%error, limit = limit.name, "a limit's counter does not answer, trying again");
                        return Reserving::Unknown(need.budget, Instant::now() + RETRY);
                    }
                }
            };
            let at = instant(at);
            if at > Instant::now() + NEAR {
                return Reserving::Turn(need.budget, at);
            }
            tokio::time::sleep_until(at).await;
        }
        Reserving::Done
    }

    async fn number(&self, limit: &str, per_minute: NonZeroU32) -> Result<Numbered, PublishError> {
        let mut asking = Asking::new(per_minute);
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

fn instant(at: tollgate_protocol::Timestamp) -> Instant {
    Instant::now() + (at - tollgate_bus::now()).to_std().unwrap_or_default()
}
