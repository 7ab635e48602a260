//! Publishes the requests of a plan, a window of them at a time.
//!
//! A full queue is the broker asking to slow down: the requests wait here and are tried again, and what the
//! user sees is that they wait.

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

/// A restart of the server or an election must not end a submission.
const PATIENCE: Patience = Patience(Duration::from_secs(120));
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
        match bus.publish(&subject, headers.clone(), Some(&message_id), payload.clone(), PATIENCE).await {
            Ok(_) => return Ok(()),
            Err(PublishError::SubjectFull | PublishError::StreamFull) => {
                held.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(delay).await;
                held.fetch_sub(1, Ordering::Relaxed);
                delay = (delay * 2).min(FULL_DELAY_MAX);
            }
            Err(error) => return Err(publish_failure(&error)),
        }
    }
}

/// What to say about a full queue; empty if it is not.
pub(crate) fn held_text(held: &AtomicU64) -> String {
    match held.load(Ordering::Relaxed) {
        0 => String::new(),
        held => format!("the team's queue is full: {held} or more requests wait for room"),
    }
}
