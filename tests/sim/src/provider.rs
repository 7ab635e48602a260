//! Providers: what a call comes to, and which calls are under way.

use std::collections::BTreeMap;
use std::rc::Rc;

use tollgate_model::Micros;
use tollgate_policy::failure::Class;
use tollgate_protocol::job::{Job, Target};
use tollgate_protocol::{Identity, TokenUsage};

use crate::plan::{MS, Plan};
use crate::rng::Rng;
use crate::world::World;

/// What a call will come to.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// Its number.
    pub call: u64,
    /// How long it takes.
    pub takes: Micros,
    /// Usage, or the failure.
    pub result: Result<TokenUsage, Class>,
}

/// A call.
#[derive(Clone, Debug)]
pub struct Call {
    /// For whom.
    pub identity: Identity,
    /// Which attempt.
    pub attempt: u32,
    /// Of what.
    pub target: Target,
    /// Whether it is under way.
    pub is_running: bool,
    /// What it is answered with: known only to the provider until then.
    pub is_answered: bool,
}

/// All providers.
#[derive(Debug)]
pub struct Provider {
    rng: Rng,
    /// By number.
    pub calls: BTreeMap<u64, Call>,
}

impl Provider {
    /// With nothing called yet.
    pub fn new(plan: &Plan) -> Self {
        Self { rng: Rng::new(plan.seed, 5), calls: BTreeMap::new() }
    }

    /// Begins a call.
    pub fn begin(&mut self, world: &World, job: &Job, target: &Target, attempt: u32) -> Drawn {
        let now = world.exec.now();
        let call = self.calls.len() as u64 + 1;
        let Some(of) = world.plan.provider(&target.provider) else {
            return Drawn { call, takes: MS, result: Err(Class::UnknownModel) };
        };
        let is_down = of.outages.iter().any(|outage| (outage.from..outage.until).contains(&now));
        let takes = self.rng.of(5 * MS..of.call_max);
        let result = if is_down {
            Err(self.rng.pick(&[Class::Overloaded, Class::NotConnected, Class::TimedOut]))
        } else if world.is_faulty.get() && self.rng.per_mille(of.failing) {
            let throttled =
                Class::Throttled { retry_after_ms: self.rng.pick(&[None, Some(100), Some(1_500)]) };
            let class = Class::ALL[self.rng.of(0..Class::ALL.len() as u64) as usize];
            Err(if class == (Class::Throttled { retry_after_ms: None }) { throttled } else { class })
        } else {
            Ok(TokenUsage {
                input_tokens: self.rng.of(1..job.body_bytes() as u64 + 1),
                output_tokens: self.rng.of(1..job.output_tokens_max.unwrap_or(100) + 1),
                ..TokenUsage::default()
            })
        };
        let (identity, target) = (job.identity.clone(), target.clone());
        let is_answered = result.is_ok();
        self.calls.insert(call, Call { identity, attempt, target, is_running: true, is_answered });
        Drawn { call, takes, result }
    }

    /// The calls that are under way, and whose they are.
    pub fn running(&self) -> Vec<(Identity, u32, String)> {
        let running = self.calls.values().filter(|call| call.is_running);
        running.map(|call| (call.identity.clone(), call.attempt, call.target.provider.clone())).collect()
    }

    /// It is over, for the provider.
    pub fn end(&mut self, call: u64) {
        if let Some(call) = self.calls.get_mut(&call) {
            call.is_running = false;
        }
    }
}

/// A connection: when it is dropped, the provider stops.
pub struct Connection {
    world: Rc<World>,
    call: u64,
}

impl Connection {
    /// Of a call that ends by itself after its time, whoever listens.
    pub fn open(world: &Rc<World>, drawn: &Drawn) -> Self {
        let (there, call) = (Rc::clone(world), drawn.call);
        world.exec.after(drawn.takes, move || there.provider.borrow_mut().end(call));
        Self { world: Rc::clone(world), call }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.world.provider.borrow_mut().end(self.call);
    }
}
