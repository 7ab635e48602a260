//! One request to its provider's stream.

use std::rc::Rc;

use tollgate_model::{Micros, Publish, Refused};
use tollgate_policy::answer::End;
use tollgate_policy::budget::{WhenSpent, cheaper, exceeded, too_small};
use tollgate_policy::order::Place;
use tollgate_policy::route::{Route, route};
use tollgate_protocol::Identity;
use tollgate_protocol::job::Job;
use tollgate_protocol::response::Status;

use super::gates::Seen;
use super::reserve::{Reserved, Reserving};
use super::{Item, Permit, Router};
use crate::bug::Bug;
use crate::net::{Held, NORMAL, NotStored, subjects};
use crate::plan::SECOND;
use crate::world::Body;

const WAITS_MAX: u32 = 3;
const WAIT_ELSEWHERE: Micros = SECOND;

/// A dispatch that is over.
pub(super) struct Dispatched {
    pub(super) place: Place,
    pub(super) seen: Seen,
    pub(super) left: Left,
}

/// What is left of the item.
pub(super) enum Left {
    /// Nothing: it is on its way.
    Nothing,
    /// The item: it was not taken.
    Item(Box<Item>),
    /// Its request, which was not served.
    Unserved(Identity),
    /// The message, to go to another target.
    Again(Box<Held>, Box<Job>),
}

impl Router {
    /// Reserves and publishes, and acknowledges the lane's message once the dispatch message is stored.
    pub(super) async fn dispatch(self: &Rc<Self>, mut item: Box<Item>) -> Dispatched {
        let place = item.place.clone();
        let world = Rc::clone(&self.process.world);
        let budgets = &world.plan.budgets.0;
        let done = |seen, left| Dispatched { place: place.clone(), seen, left };
        let identity = item.job.identity.clone();
        match self.reserve(&mut item).await {
            Reserving::Done => {}
            Reserving::Turn(until) => return done(Seen::Turn(until), Left::Item(item)),
            Reserving::NoTurn(budget, until) => {
                return done(Seen::NoRoom(budget, until), Left::Item(item));
            }
            Reserving::Wait(budget, until) | Reserving::Unknown(budget, until) => {
                item.waits += 1;
                let has_gate = place.gate.budgets.contains(&budget);
                let seen = if has_gate { Seen::NoRoom(budget, until) } else { Seen::Alone(until) };
                if item.waits < WAITS_MAX {
                    return done(seen, Left::Item(item));
                }
                if let Some(held) = item.reserved.take() {
                    self.take_back(&identity, item.attempt, held).await;
                }
                item.message.hand_back(WAIT_ELSEWHERE).await;
                return done(seen, Left::Unserved(identity));
            }
            Reserving::Spent(budget, spent) => {
                let full = Seen::NoRoom(budget, self.after_spent(budget));
                let of = &budgets[budget];
                return match of.when_spent {
                    WhenSpent::Reject => {
                        let end = End::Unpaid(Status::Rejected, exceeded(of, spent));
                        self.end(item.message, &item.job, end).await;
                        done(Seen::NotTried, Left::Unserved(identity))
                    }
                    WhenSpent::Downgrade => match self.downgraded(&item.job) {
                        Some(job) => done(Seen::NotTried, Left::Again(Box::new(item.message), Box::new(job))),
                        None => done(full, Left::Item(item)),
                    },
                    WhenSpent::Hold => done(full, Left::Item(item)),
                };
            }
            Reserving::TooSmall(budget, amount) => {
                let end = End::Unpaid(Status::Rejected, too_small(&budgets[budget], amount));
                self.end(item.message, &item.job, end).await;
                return done(Seen::NotTried, Left::Unserved(identity));
            }
        }
        if item.is_probe && !self.may_probe(&mut item).await {
            world.checks.borrow_mut().saw("no permit left");
            if let Some(held) = item.reserved.take() {
                self.take_back(&identity, item.attempt, held).await;
            }
            return done(Seen::NotTried, Left::Again(Box::new(item.message), Box::new(item.job)));
        }
        let subject = subjects().dispatch(&place.gate.provider, place.priority);
        let publish = Publish::new(subject, Body::Job(item.job.clone().into())).id(&item.message_id);
        // Here it begins: between the last look at the clock and this nothing is waited for.
        world.checks.borrow_mut().hands_over(&item.message_id, world.exec.now());
        if world.has(Bug::RouterAcksFirst) {
            item.message.ack().await;
            return match self.process.publish(publish, NORMAL).await {
                Ok(_) => done(Seen::Taken, Left::Nothing),
                Err(_) => done(Seen::Full, Left::Unserved(identity)),
            };
        }
        let seen = match self.process.publish(publish, NORMAL).await {
            Ok(ack) => {
                let left = if ack.duplicate {
                    Left::Unserved(identity)
                } else {
                    item.message.permit.take().into_iter().for_each(Permit::used);
                    Left::Nothing
                };
                item.message.ack().await;
                return done(Seen::Taken, left);
            }
            Err(NotStored::Refused(Refused::SubjectFull | Refused::StreamFull)) => Seen::Full,
            Err(_) => {
                // It may be stored, and called: what was reserved for it is not to be taken back.
                item.reserved.iter_mut().flatten().for_each(Reserved::keep);
                Seen::Broken
            }
        };
        done(seen, Left::Item(item))
    }

    /// The request, addressed to the next of its targets that costs less and that it can go to.
    fn downgraded(&self, job: &Job) -> Option<Job> {
        let to = |target| Job { target, probe: None, ..job.clone() };
        let goes = |target| route(&to(target), |of| self.availability(of)) == Route::To(target);
        cheaper(job, &self.process.world.plan.prices, goes).map(to)
    }
}
