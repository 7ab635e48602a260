//! One run: everybody starts, requests are published, things go wrong, and in the end nothing does any more.

use std::collections::BTreeMap;
use std::rc::Rc;

use tollgate_model::{Micros, Publish};
use tollgate_protocol::subject::lane_of;

use crate::bug::Bug;
use crate::net::{Proc, Process, subjects};
use crate::plan::{FAULTS_END, LATE, MS, Plan, Planned, Request, SECOND};
use crate::roles::{Kind, boot};
use crate::router::identity;
use crate::world::{Body, World};

/// Events of a run: one that needs more goes round in circles.
const STEPS_MAX: u64 = 400_000;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What is broken; nothing, if all is well.
    pub broken: Vec<String>,
    /// How often what was seen.
    pub seen: BTreeMap<&'static str, u64>,
    /// What happened, if that was asked for.
    pub trace: Vec<String>,
    /// How many steps it took.
    pub steps: u64,
    /// Requests, calls, and faults that happened.
    pub counts: (usize, usize, u32),
}

/// Runs a seed.
pub fn run(seed: u64, bug: Option<Bug>) -> Outcome {
    run_plan(Plan::of(seed), bug, false)
}

/// Runs a plan.
pub fn run_plan(plan: Plan, bug: Option<Bug>, is_traced: bool) -> Outcome {
    let world = World::new(plan, bug);
    if is_traced {
        world.checks.borrow_mut().keep_trace();
    }
    boot(&world, Kind::Ledger);
    (0..world.plan.workers).for_each(|slot| boot(&world, Kind::Worker(slot)));
    for slot in 0..world.plan.routers {
        // Where all wait from the beginning on, they wait before anybody orders them.
        let (there, delay) = (Rc::clone(&world), if world.plan.is_backlog { 100 * MS } else { 0 });
        world.exec.after(delay, move || boot(&there, Kind::Router(slot)));
    }
    let client = Process::start(&world, Kind::Client);
    for planned in world.plan.requests.clone() {
        publish_planned(&client, planned);
    }
    restarts(&world);
    let (end, mut next_look, mut steps) = (horizon(&world.plan), FAULTS_END / 5, 0);
    while steps < STEPS_MAX
        && !world.checks.borrow().is_broken()
        && world.exec.now() < end
        && world.exec.step()
    {
        steps += 1;
        if world.exec.now() >= next_look {
            next_look = world.exec.now() + 250 * MS;
            if world.exec.now() >= FAULTS_END {
                world.is_faulty.set(false);
            }
            if world.exec.now() > published_by(&world.plan) && world.checks.borrow().is_quiet(&world) {
                break;
            }
        }
    }
    if steps >= STEPS_MAX {
        world.broken("it goes on for ever".to_owned());
    }
    let mut checks = world.checks.replace(crate::checks::Checks::new(&world.plan));
    if !checks.is_broken() {
        checks.at_the_end(&world);
    }
    let counts = (
        checks.accepted(),
        world.provider.borrow().calls.len(),
        world.plan.faults.most - world.faults_left.get(),
    );
    let trace = checks.take_trace();
    world.exec.clear();
    let seen = std::mem::take(&mut checks.seen);
    Outcome { trace, seen, broken: checks.into_broken(), steps, counts }
}

fn published_by(plan: &Plan) -> Micros {
    let times = plan.requests.iter().flat_map(|planned| {
        let again = planned.again.iter().map(|(at, _)| *at);
        again.chain([planned.at]).chain(planned.cancel)
    });
    times.max().unwrap_or(0) + SECOND
}

fn horizon(plan: &Plan) -> Micros {
    let ttl = plan.requests.iter().map(|planned| planned.request.ttl_ms * MS).max().unwrap_or(0);
    published_by(plan).max(FAULTS_END) + ttl + 2 * LATE
}

fn publish_planned(client: &Proc, planned: Planned) {
    let Planned { request, at, again, cancel } = planned;
    publish_at(client, request.clone(), at);
    for (at, is_another) in again {
        let variant = u64::from(is_another);
        let body_bytes = request.body_bytes + usize::from(is_another);
        publish_at(client, Request { variant, body_bytes, ..request.clone() }, at);
    }
    if let Some(at) = cancel {
        let on = Rc::clone(client);
        client.spawn(async move {
            on.sleep(at).await;
            let identity = identity(&request);
            on.world.checks.borrow_mut().cancelled(&identity);
            let publish = Publish::new(subjects().cancel(&identity), Body::Of(identity));
            // A client that is not told so tries again; here it gives up at some time.
            let _ = on.publish(publish, 10 * SECOND).await;
        });
    }
}

/// A client publishes until it is told that the request is stored.
fn publish_at(client: &Proc, request: Request, at: Micros) {
    let on = Rc::clone(client);
    client.spawn(async move {
        on.sleep(at).await;
        let identity = identity(&request);
        let lane = lane_of(&identity.team);
        let subject = format!("llm.lane.{}.{lane}.{}", request.priority, request.team);
        for _ in 0..20 {
            let id = format!("{identity}/{}", request.variant);
            let publish = Publish::new(&*subject, Body::Request(request.clone().into())).id(id);
            if on.publish(publish, 5 * SECOND).await.is_ok() {
                return;
            }
            on.sleep(300 * MS).await;
        }
    });
}

fn restarts(world: &Rc<World>) {
    for _ in 0..world.plan.faults.restarts {
        let (at, down) = {
            let mut fate = world.fate.borrow_mut();
            (fate.of(0..FAULTS_END - 4 * SECOND), fate.of(50 * MS..3 * SECOND))
        };
        let there = Rc::clone(world);
        world.exec.after(at, move || there.restart_server(down));
    }
}
