//! The processes, as faults leave them, and how they come back.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::faults::{Fault, Table, Trouble};
use super::rng::Rng;
use crate::config::Config;
use crate::money::Price;
use crate::nats::NatsServer;
use crate::provider::{Behaviour, Call, Provider};
use crate::roles::{Broker, Role, Running};

pub(super) const PRICE: Price = Price { input: 150_000_000, cached_input: 75_000_000, output: 600_000_000 };
pub(super) const BACKUP: Price =
    Price { input: 1_000_000_000, cached_input: 500_000_000, output: 3_000_000_000 };
/// Calls at once of each provider.
pub(super) const IN_FLIGHT: u32 = 32;

/// How soon the server hands out again what a dead process held, and how long a worker may be silent.
const SOON: Duration = Duration::from_secs(2);

/// How long a process waits to come by its point before it is taken for something else.
const ARMED_FOR: Duration = Duration::from_secs(5);
/// A ledger has to come by the lease of the one before first, and shall settle for a while: without one, limits fill up, and
/// all that budgets do is done when no faults are left.
const LEDGER_ARMED_FOR: Duration = Duration::from_secs(15);
const LEDGER_RUNS_FOR: Duration = Duration::from_secs(10);

/// A call that a fault takes the result of had begun by then.
const LATELY: Duration = Duration::from_secs(2);
/// Attempts that each fault may lose beside those that a provider saw: claimed, and not called yet.
const CLAIMED_MAX: usize = 4;

/// What the main provider does to each call.
#[derive(Clone, Copy, Debug, Default)]
struct Mood {
    trouble: Option<Trouble>,
    until: Option<Instant>,
}

/// A process and what is to become of it.
struct Slot {
    role: Role,
    running: Running,
    /// It is started again then.
    start_at: Option<Instant>,
    /// It goes on then.
    cont_at: Option<Instant>,
    /// The fault that waits at a point of it.
    armed: Option<(Instant, Fault)>,
    /// Whether it was started to die or stand still at a point, whatever was done to it since.
    has_point: bool,
    /// When it was started.
    since: Instant,
}

impl Slot {
    fn new(role: Role, running: Running) -> Self {
        let since = Instant::now();
        Self { role, running, start_at: None, cont_at: None, armed: None, has_point: false, since }
    }

    fn restart(&mut self, point: Option<&str>) {
        self.running.restart_at(point);
        (self.has_point, self.since) = (point.is_some(), Instant::now());
    }

    /// Whether nothing is done to it now, nor soon.
    fn is_free(&self) -> bool {
        let (armed_for, runs_for) = match self.role {
            Role::Ledger => (LEDGER_ARMED_FOR, LEDGER_RUNS_FOR),
            _ => (ARMED_FOR, Duration::ZERO),
        };
        self.start_at.is_none()
            && self.cont_at.is_none()
            && self.armed.as_ref().is_none_or(|(since, _)| since.elapsed() > armed_for)
            && self.since.elapsed() >= runs_for
            && self.running.is_alive()
    }
}

/// Everything that runs.
pub(super) struct Stage {
    pub(super) nats: NatsServer,
    pub(super) main: Provider,
    pub(super) backup: Provider,
    broker: Broker,
    slots: Vec<Slot>,
    mood: Arc<Mutex<Mood>>,
    is_gone: bool,
    server_at: Option<Instant>,
    server_cont_at: Option<Instant>,
    /// When the server or a router was not there: waits may be that much longer.
    pub(super) down: Vec<(std::time::SystemTime, std::time::SystemTime)>,
    down_since: Option<std::time::SystemTime>,
    /// Calls under way, of late.
    in_flight: VecDeque<(Instant, usize)>,
    /// As many attempts may be lost by what was done.
    pub(super) lost_at_most: usize,
}

impl Stage {
    pub(super) async fn start(teams: &[&str], seed: u64, sections: &str) -> Self {
        let nats = NatsServer::start().await;
        let (main, backup) = tokio::join!(Provider::start(), Provider::start());
        let config = teams.iter().fold(Config::new(), |config, team| config.team(team));
        let config = config
            .timing(SOON, SOON)
            .provider("sim", &main.base_url(), IN_FLIGHT, &[("m-1", PRICE)])
            .raw("[providers.sim.timeouts]\nconnect_ms = 1000\ntotal_ms = 4000\n")
            .provider("backup", &backup.base_url(), IN_FLIGHT, &[("b-1", BACKUP)])
            .raw("[retry]\nretry_after_max_ms = 2000\nbackoff_max_ms = 2000\n")
            .model("small", &["sim/m-1"])
            .model("pair", &["sim/m-1", "backup/b-1"])
            .raw(sections);
        let broker = Broker::new(&config, &nats.url());
        let (router, worker) = (Role::Router, Role::Worker);
        let roles = [router, router, router, worker, worker, worker, Role::Ledger, Role::Ask];
        let mut slots = Vec::new();
        for role in roles {
            let running = broker.run(role).await;
            slots.push(Slot::new(role, running));
        }
        let mood = Arc::new(Mutex::new(Mood::default()));
        let told = Arc::clone(&mood);
        main.script(move |call| {
            let mood = *told.lock().unwrap_or_else(PoisonError::into_inner);
            behave(mood, call, seed)
        });
        backup.script(|call| Behaviour::Delay(Duration::from_millis(call.number as u64 * 37 % 60)));
        Self {
            nats,
            main,
            backup,
            broker,
            slots,
            mood,
            is_gone: false,
            server_at: None,
            server_cont_at: None,
            down: Vec::new(),
            down_since: None,
            in_flight: VecDeque::new(),
            lost_at_most: 0,
        }
    }

    /// Makes a fault happen; false if there is nothing now that it could happen to.
    pub(super) async fn fire(&mut self, fault: &Fault, rng: &mut Rng, table: &mut Table) -> bool {
        let later = |rng: &mut Rng| Instant::now() + Duration::from_millis(rng.between(50, 1_500));
        match fault {
            Fault::Kill(role) => {
                let at = later(rng);
                let Some(slot) = self.pick(*role, rng) else { return false };
                slot.running.kill9();
                (slot.start_at, slot.cont_at, slot.armed) = (Some(at), None, None);
            }
            Fault::Stop(role, time) => {
                let Some(slot) = self.pick(*role, rng) else { return false };
                slot.running.stop();
                (slot.cont_at, slot.armed) = (Some(Instant::now() + *time), None);
            }
            Fault::Restart(role) => {
                let Some(slot) = self.pick(*role, rng) else { return false };
                slot.running.term();
                // It is started again when it has ended.
                (slot.start_at, slot.armed) = (Some(Instant::now()), None);
            }
            Fault::Point(name, role, pass, is_stop) => {
                let Some(slot) = self.pick(*role, rng) else { return false };
                let signal = if *is_stop { "stop" } else { "kill" };
                slot.restart(Some(&format!("{name}:{pass}:{signal}")));
                (slot.start_at, slot.cont_at) = (None, None);
                slot.armed = Some((Instant::now(), fault.clone()));
                // It counts at its point when it is reached.
                table.add(format_args!("kill -9 {}", role.name()));
                self.note_loss(*role == Role::Worker);
                return true;
            }
            Fault::KillServer => {
                if self.server_at.is_some() {
                    return false;
                }
                self.nats.kill9();
                (self.server_at, self.server_cont_at) = (Some(later(rng)), None);
            }
            Fault::StopServer(time) => {
                if self.server_at.is_some() || self.server_cont_at.is_some() {
                    return false;
                }
                self.nats.stop();
                self.server_cont_at = Some(Instant::now() + *time);
            }
            Fault::Provider(trouble, time) => {
                let until = Some(Instant::now() + *time);
                *self.mood.lock().unwrap_or_else(PoisonError::into_inner) =
                    Mood { trouble: Some(*trouble), until };
                if *trouble == Trouble::Gone && !self.is_gone {
                    self.main.stop().await;
                    self.is_gone = true;
                }
            }
        }
        table.add(fault);
        self.note_loss(fault.loses_calls());
        true
    }

    /// What is called now may get no result.
    fn note_loss(&mut self, loses_calls: bool) {
        if loses_calls {
            let lately = self.in_flight.iter().map(|(_, calls)| *calls).max().unwrap_or_default();
            self.lost_at_most += lately + CLAIMED_MAX;
        }
    }

    /// A process of the role that nothing is done to now, nor soon.
    fn pick(&mut self, role: Role, rng: &mut Rng) -> Option<&mut Slot> {
        let is_free = |index: &usize| self.slots[*index].role == role && self.slots[*index].is_free();
        let free: Vec<usize> = (0..self.slots.len()).filter(is_free).collect();
        if free.is_empty() { None } else { Some(&mut self.slots[*rng.pick(&free)]) }
    }

    /// Lets time pass: what is due to come back comes back.
    pub(super) async fn tend(&mut self, rng: &mut Rng, table: &mut Table) {
        let now = Instant::now();
        self.in_flight.push_back((now, self.main.in_flight() + self.backup.in_flight()));
        self.in_flight.retain(|(at, _)| now - *at < LATELY);
        let mut losses = 0;
        for slot in &mut self.slots {
            let is_alive = slot.running.is_alive();
            if let Some((_, fault)) = slot.armed.take_if(|_| !is_alive || is_standing(&slot.running)) {
                // It may have ended by itself before it came there, when there was no server to connect to.
                if is_alive || slot.running.process().was_killed() {
                    table.add(&fault);
                }
                losses += usize::from(slot.role == Role::Worker);
                let wait = Duration::from_millis(rng.between(200, 3_500));
                if is_alive {
                    slot.cont_at = Some(now + wait);
                } else {
                    slot.start_at = Some(now + wait / 4);
                }
            }
            // It came by its point when something else had been done to it meanwhile.
            if is_alive && slot.cont_at.is_none() && is_standing(&slot.running) {
                slot.cont_at = Some(now);
            }
            if slot.cont_at.take_if(|at| *at <= now).is_some() {
                slot.running.cont();
            }
            // It may have ended by itself as well, when there was no server to connect to.
            if !is_alive && slot.start_at.is_none_or(|at| at <= now) {
                slot.restart(None);
                slot.start_at = None;
            } else if is_alive && slot.start_at.is_some_and(|at| at + Duration::from_secs(45) < now) {
                slot.start_at = None;
            }
        }
        for _ in 0..losses {
            self.note_loss(true);
        }
        if self.server_at.take_if(|at| *at <= now).is_some() {
            self.nats.restart().await;
        }
        if self.server_cont_at.take_if(|at| *at <= now).is_some() {
            self.nats.cont();
        }
        let over = {
            let mut mood = self.mood.lock().unwrap_or_else(PoisonError::into_inner);
            let over = mood.until.is_some_and(|until| until <= now);
            if over {
                *mood = Mood::default();
            }
            over
        };
        if over && self.is_gone {
            self.main.restart().await;
            self.is_gone = false;
        }
        self.note_down();
    }

    /// Until a router that came back looks after everything again, some seconds pass.
    fn note_down(&mut self) {
        let is_down = self.server_at.is_some()
            || self.server_cont_at.is_some()
            || self.slots.iter().any(|slot| {
                slot.role == Role::Router
                    && (slot.start_at.is_some() || slot.cont_at.is_some() || !slot.running.is_alive())
            });
        let now = std::time::SystemTime::now();
        match (is_down, self.down_since) {
            (true, None) => self.down_since = Some(now),
            (false, Some(since)) => {
                let until = now + Duration::from_secs(5);
                match self.down.last_mut() {
                    Some(last) if last.1 >= since => last.1 = until,
                    _ => self.down.push((since, until)),
                }
                self.down_since = None;
            }
            _ => {}
        }
    }

    /// No more faults: everything runs.
    pub(super) async fn calm(&mut self, rng: &mut Rng, table: &mut Table) {
        *self.mood.lock().unwrap_or_else(PoisonError::into_inner) = Mood::default();
        if self.is_gone {
            self.main.restart().await;
            self.is_gone = false;
        }
        let soon = Some(Instant::now());
        let mut losses = 0;
        for slot in &mut self.slots {
            slot.cont_at = slot.cont_at.and(soon);
            // What did not come by its point would while all is looked at.
            slot.armed = None;
            if slot.has_point {
                table.add(format_args!("kill -9 {}", slot.role.name()));
                slot.restart(None);
                (slot.start_at, slot.cont_at) = (None, None);
                losses += usize::from(slot.role == Role::Worker);
            }
        }
        for _ in 0..losses {
            self.note_loss(true);
        }
        self.server_at = self.server_at.and(soon);
        self.server_cont_at = self.server_cont_at.and(soon);
        self.tend(rng, table).await;
    }

    /// Lets the broker compare its counters, its ledger and the usage events by itself.
    ///
    /// # Errors
    /// What it said, if there is a difference or it could not be looked for.
    pub(super) async fn reconcile(&self, wait: Duration) -> Result<(), String> {
        let (server, wait) = (self.nats.url(), format!("{}s", wait.as_secs()));
        let mut command = self.broker.command(&[
            "reconcile",
            "--json",
            "--server",
            server.as_str(),
            "--wait",
            wait.as_str(),
        ]);
        let ended = tokio::task::spawn_blocking(move || command.output()).await;
        let ended = ended.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        if ended.status.success() {
            return Ok(());
        }
        let (stdout, stderr) =
            (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        Err(format!("{} {stdout} {stderr}", ended.status))
    }

    /// What the processes had to say, for whoever looks for the reason.
    pub(super) fn logs(&self) -> String {
        self.slots.iter().map(|slot| slot.running.process().logs()).collect::<Vec<_>>().join("\n")
    }
}

/// Whether a process was stopped by a signal.
fn is_standing(running: &Running) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.process().pid())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}

fn behave(mood: Mood, call: &Call, seed: u64) -> Behaviour {
    let mut rng = Rng::new(seed ^ call.number as u64, "behaviour");
    let usual = Behaviour::Delay(Duration::from_millis(rng.between(5, 120)));
    let Some(trouble) = mood.trouble else { return usual };
    let sometimes =
        |rng: &mut Rng, behaviour: Behaviour| if rng.chance(40) { behaviour } else { usual.clone() };
    match trouble {
        Trouble::Gone => usual,
        Trouble::Overloaded => Behaviour::error(503, "overloaded", None),
        Trouble::Shaky => sometimes(&mut rng, Behaviour::error(500, "shaky", None)),
        Trouble::Storm => {
            let wish = *rng.pick(&[
                "0",
                "1",
                "-1",
                "1000000000",
                "99999999999999999999",
                "soon",
                "Fri, 31 Dec 9999 23:59:59 GMT",
            ]);
            let storm = Behaviour::Status {
                status: 429,
                headers: vec![("retry-after".to_owned(), wish.to_owned())],
                body: String::new(),
            };
            sometimes(&mut rng, storm)
        }
        Trouble::Stalls => sometimes(&mut rng, Behaviour::Hang),
        Trouble::Truncates => sometimes(&mut rng, Behaviour::TruncatedBody),
        Trouble::Malforms => sometimes(&mut rng, Behaviour::MalformedJson),
        Trouble::Drips => Behaviour::Drip(Duration::from_millis(rng.between(100, 1_500))),
        Trouble::Cuts => sometimes(&mut rng, Behaviour::CloseBeforeResponse),
    }
}
