//! Publishes the requests of a plan, a window of them at a time.
//!
//! A full queue, or a full store, is the broker asking to slow down: the requests wait here and are tried again, and what
//! the user sees is that they wait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tollgate_bus::retry::Patience;
use tollgate_bus::{Bus, PublishError, headers};
use tollgate_protocol::{Encoding, Identity, header};

use super::connect::publish_failure;
use super::plan::Plan;
use crate::failure::Failure;
use crate::output::Output;

/// A restart of the server or an election must not end a submission.
const PATIENCE: Patience = Patience(Duration::from_secs(120));
/// What a request that waits for room in the store counts among those that wait. As many as these cannot wait for a queue.
const STORE_FULL: u64 = 1 << 32;
const SAY_EVERY: Duration = Duration::from_millis(250);
const FULL_DELAY: Duration = Duration::from_millis(100);
const FULL_DELAY_MAX: Duration = Duration::from_secs(3);

/// Publishes the requests at `indices`; an item for each that is accepted, or for what ends it all. `held`
/// is how many wait for room in the queue.
pub(crate) fn all<'a>(
    bus: &'a Bus,
    plan: &'a Plan,
    indices: Vec<usize>,
    in_flight: usize,
    held: &'a AtomicU64,
) -> impl Stream<Item = Result<(), Failure>> + 'a {
    stream::iter(indices).map(move |index| one(bus, plan, index, held)).buffer_unordered(in_flight)
}

async fn one(bus: &Bus, plan: &Plan, index: usize, held: &AtomicU64) -> Result<(), Failure> {
    let identity =
        Identity { team: plan.team.clone(), group: plan.group.clone(), id: plan.id(index).clone() };
    let subject = bus.subjects().request(&plan.team, plan.priority);
    let payload = Bytes::from(plan.payload(index)?);
    let headers: HeaderMap = headers::headers([(header::CONTENT_TYPE, Encoding::Json.content_type())]);
    let message_id = identity.to_string();
    let mut delay = FULL_DELAY;
    loop {
        let published =
            bus.offer(&subject, headers.clone(), Some(&message_id), payload.clone(), PATIENCE).await;
        let one = match published {
            Ok(_) => return Ok(()),
            Err(PublishError::SubjectFull | PublishError::StreamFull) => 1,
            Err(PublishError::StoreFull(_)) => STORE_FULL,
            Err(error) => return Err(publish_failure(&error)),
        };
        held.fetch_add(one, Ordering::Relaxed);
        tokio::time::sleep(delay).await;
        held.fetch_sub(one, Ordering::Relaxed);
        delay = (delay * 2).min(FULL_DELAY_MAX);
    }
}

/// Says once what requests wait for, where no progress is shown that says it. Never ends.
pub(crate) async fn say_held(held: &AtomicU64, output: &Output) {
    let mut is_said = false;
    loop {
        tokio::time::sleep(SAY_EVERY).await;
        // A queue that is full for a moment is how a batch is slowed down, and not worth a word.
        let is_full = held.load(Ordering::Relaxed) >= STORE_FULL;
        if is_full && !is_said && !output.shows_progress() {
            output.note(held_text(held));
            is_said = true;
        }
    }
}

/// What to say about a full queue or store; empty if neither is.
pub(crate) fn held_text(held: &AtomicU64) -> String {
    let held = held.load(Ordering::Relaxed);
    match (held / STORE_FULL, held % STORE_FULL) {
        (0, 0) => String::new(),
        (0, held) => format!("the team's queue is full: {held} or more requests wait for room"),
        (held, _) => format!("the nats-server's store is full: {held} or more requests wait for room"),
    }
}
