//! One request to its provider's stream.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use tollgate_bus::publish::PublishError;
use tollgate_bus::retry::Patience;
use tollgate_policy::answer::End;
use tollgate_policy::budget::{WhenSpent, cheaper, exceeded, limited, too_small};
use tollgate_policy::health::Availability;
use tollgate_policy::hot::Hot;
use tollgate_policy::order::Place;
use tollgate_policy::route::{Route, route};
use tollgate_protocol::job::Job;
use tollgate_protocol::response::Status;
use tollgate_protocol::{ErrorCode, Identity, Problem};
use tollgate_telemetry as telemetry;

use crate::Context;
use crate::budget::{Held, Reserving};
use crate::gates::Seen;
use crate::holding::Holding;
use crate::intake::Item;

/// How long a dispatch is tried before the item goes back into the order.
const PATIENCE: Patience = Patience(Duration::from_secs(5));

/// Tries to reserve before a request makes way for others.
const WAITS_MAX: u32 = 3;
/// For how long it does.
pub(crate) const WAIT_ELSEWHERE: Duration = Duration::from_secs(1);

/// A dispatch that is over.
pub(crate) struct Dispatched {
    pub(crate) place: Place,
    /// What was in force for it.
    pub(crate) hot: Arc<Hot>,
    pub(crate) seen: Seen,
    /// The budget that has no room because of what is reserved in it.
    pub(crate) full: Option<usize>,
    /// The budgets that it got room in, or found to be full for good.
    pub(crate) passed: Vec<usize>,
    pub(crate) left: Left,
}

/// What is left of the item.
pub(crate) enum Left {
    /// Nothing: it is on its way.
    Nothing,
    /// The item: it was not taken.
    Item(Box<Item>),
    /// Its request, which was not served: somebody else brought it there, or it has ended.
    Unserved(Identity),
    /// The message, to go to another target.
    Again(Identity, Box<(Holding, Job)>),
}

/// Reserves and publishes, and acknowledges the lane's message once the dispatch message is stored.
pub(crate) async fn dispatch(context: &Context, mut item: Box<Item>) -> Dispatched {
    item.too_large_for = None;
    let place = item.place.clone();
    let hot = Arc::clone(&item.hot);
    let budgets = &hot.budgets.0;
    let of = |budget: usize| budgets.get(budget);
    item.passed.clear();
    let reserving = context.reserve(&mut item).await;
    let mut passed = std::mem::take(&mut item.passed);
    let full = if let Reserving::Wait(budget, _) = &reserving { Some(*budget) } else { None };
    // What it is full of is spent, and not reserved.
    if let Reserving::Spent(budget, spent) = &reserving
        && of(*budget).is_some_and(|of| *spent >= of.limit)
    {
        passed.push(*budget);
    }
    let done = |seen, left| Dispatched {
        place: place.clone(),
        hot: Arc::clone(&hot),
        seen,
        full,
        passed: passed.clone(),
        left,
    };
    if let Reserving::Wait(budget, _) | Reserving::NoTurn(budget, _) | Reserving::Spent(budget, _) = reserving
        && let Some(limit) = of(budget).filter(|limit| item.is_rejected_by(limit))
    {
        return done(Seen::NotTried, context.reject_item(*item, limited(limit)).await);
    }
    match reserving {
        Reserving::Done => {}
        Reserving::Turn(until) => return done(Seen::Turn(until), Left::Item(item)),
        Reserving::NoTurn(budget, until) => {
            telemetry::count_budget_wait(of(budget).map_or("", |budget| &budget.name));
            return done(Seen::NoRoom(budget, until), Left::Item(item));
        }
        Reserving::Wait(budget, until) | Reserving::Unknown(budget, until) => {
            telemetry::count_budget_wait(of(budget).map_or("", |budget| &budget.name));
            item.waits += 1;
            // Who would be rejected stands behind no gate that the others wait for.
            let has_gate = place.gate.budgets.contains(&budget);
            let seen = if has_gate { Seen::NoRoom(budget, until) } else { Seen::Alone(until) };
            if item.waits < WAITS_MAX {
                return done(seen, Left::Item(item));
            }
            // What fills the budget may be reserved for a request that nobody has in hand, because others like this one
            // fill all hands: its router died. A message that is handed back makes way for it.
            let identity = item.identity.clone();
            if let Some(held) = item.reserved.take() {
                context.take_back(&identity, item.attempt, held).await;
            }
            item.message.hand_back(WAIT_ELSEWHERE).await;
            return done(seen, Left::Unserved(identity));
        }
        Reserving::Spent(budget, spent) => {
            let until = context.after_spent(of(budget));
            // What is left is too little for this request, and may be enough for others.
            item.too_large_for = of(budget).is_some_and(|of| spent < of.limit).then_some(budget);
            let is_alone = item.too_large_for.is_some();
            let seen = if is_alone { Seen::Alone(until) } else { Seen::NoRoom(budget, until) };
            let when_spent = of(budget).map(|budget| (budget, budget.when_spent));
            let waits = |seen, item| {
                telemetry::count_budget_wait(of(budget).map_or("", |budget| &budget.name));
                done(seen, Left::Item(item))
            };
            return match when_spent {
                Some((of, WhenSpent::Reject)) => {
                    done(Seen::NotTried, context.reject_item(*item, exceeded(of, spent)).await)
                }
                Some((_, WhenSpent::Downgrade)) => match context.downgraded(&item) {
                    Some(job) => {
                        let identity = item.identity.clone();
                        done(Seen::NotTried, Left::Again(identity, Box::new((item.message, job))))
                    }
                    None => waits(seen, item),
                },
                Some((_, WhenSpent::Hold)) | None => waits(seen, item),
            };
        }
        Reserving::TooSmall(budget, amount) => {
            let left = match of(budget) {
                Some(budget) => context.reject_item(*item, too_small(budget, amount)).await,
                None => Left::Unserved(item.identity.clone()),
            };
            return done(Seen::NotTried, left);
        }
    }
    if item.is_probe && !context.may_probe(&mut item).await {
        let identity = item.identity.clone();
        let left = match context.without_reservation(*item).await {
            Some(again) => Left::Again(identity, Box::new(again)),
            None => Left::Unserved(identity),
        };
        return done(Seen::NotTried, left);
    }
    let subject = context.bus.subjects().dispatch(&place.gate.provider, place.priority);
    let published = context
        .bus
        .publish(&subject, HeaderMap::new(), Some(&item.message_id), item.payload.clone(), PATIENCE)
        .await;
    let seen = match published {
        Ok(published) => {
            tollgate_bus::point("router.dispatch.stored");
            // What the stream had already: whoever brought it there hears of its usage.
            let left = if published.duplicate {
                Left::Unserved(item.identity.clone())
            } else {
                if let Some(permit) = item.message.permit.take() {
                    permit.used();
                }
                Left::Nothing
            };
            item.message.ack().await;
            return done(Seen::Taken, left);
        }
        Err(PublishError::SubjectFull | PublishError::StreamFull) => Seen::Full,
        // Possible only on a server whose max_payload is smaller than it should be.
        Err(PublishError::TooLarge { .. }) => {
            context.end_oversized(*item).await;
            return done(Seen::Taken, Left::Nothing);
        }
        Err(error) => {
            let provider = &place.gate.provider;
            tracing::warn!(%error, provider, "a provider's stream does not take messages, trying again");
            if matches!(error, PublishError::NoAnswer(_) | PublishError::StoreFull(_)) {
                // It may be stored, and called: what was reserved for it is not to be taken back.
                item.reserved.iter_mut().flatten().for_each(Held::keep);
            }
            Seen::Broken
        }
    };
    done(seen, Left::Item(item))
}

impl Context {
    /// Whether one of the calls of a recovery can be made now. It may have given its permit back while it waited.
    async fn may_probe(&self, item: &mut Item) -> bool {
        if item.message.permit.is_some()
            || self.availability(&item.hot, &item.target) == Some(Availability::Up)
        {
            return true;
        }
        let permit = self.permit(&item.target).await;
        item.set_permit(permit);
        item.message.permit.is_some()
    }

    async fn reject_item(&self, item: Item, problem: Problem) -> Left {
        let identity = item.identity.clone();
        if let Some((message, job)) = self.without_reservation(item).await {
            self.end(message, &job, End::Unpaid(Status::Rejected, problem)).await;
        }
        Left::Unserved(identity)
    }

    /// The message and its request, with nothing reserved for it any more.
    async fn without_reservation(&self, mut item: Item) -> Option<(Holding, Job)> {
        if let Some(held) = item.reserved.take() {
            self.take_back(&item.identity, item.attempt, held).await;
        }
        match Job::decode(&item.payload) {
            Ok(job) => Some((item.message, job)),
            Err(error) => {
                tracing::error!(%error, "a request of our own cannot be read");
                None
            }
        }
    }

    /// The request, addressed to the next of its targets that costs less.
    fn downgraded(&self, item: &Item) -> Option<Job> {
        let job = Job::decode(&item.payload).ok()?;
        let to = |target| Job { target, probe: None, ..job.clone() };
        let goes = |target| route(&to(target), |of| self.availability(&item.hot, of)) == Route::To(target);
        let target = cheaper(&job, &item.hot.catalog.prices, goes)?;
        Some(to(target))
    }

    /// A request that no message of the server can carry to a worker.
    async fn end_oversized(&self, item: Item) {
        let Ok(job) = Job::decode(&item.payload) else { return };
        let text = "with what belongs to it, the request is larger than the nats-server's max_payload";
        let problem = Problem::at(ErrorCode::RequestTooLarge, "body", text);
        self.end(item.message, &job, End::Unpaid(Status::Rejected, problem)).await;
    }
}
