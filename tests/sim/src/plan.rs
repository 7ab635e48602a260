//! What a seed stands for: an installation, a load, and what goes wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono_tz::Tz;
use tollgate_model::Micros;
use tollgate_policy::budget::{Budget, Budgets, Measure, Per, Reserve, Scope, WhenSpent};
use tollgate_protocol::job::Target;
use tollgate_protocol::{Price, Priority};

use crate::rng::Rng;

/// A millisecond.
pub const MS: Micros = 1_000;
/// A second.
pub const SECOND: Micros = 1_000 * MS;

/// A worker's silence for so long means that it is dead, in milliseconds.
pub const LEASE_MS: u64 = 3_000;
/// After so long a message is delivered again that nobody acknowledged.
pub const ACK_WAIT: Micros = 1_500 * MS;
/// How long one acknowledgement is waited for.
pub const TRY_TIMEOUT: Micros = 500 * MS;
/// Until then, requests are published and things go wrong.
pub const FAULTS_END: Micros = 25 * SECOND;
/// How long after its deadline a request may be answered, once nothing goes wrong any more.
pub const LATE: Micros = 15 * SECOND;

/// Every so manieth seed is one of fair order.
const BACKLOG_EVERY: u64 = 20;
/// Of a thousand other seeds so many have a limit of requests per minute.
const PACED: u64 = 167;
/// What such limits are: slots of half a second to 25 ms, many of them in a run.
const PER_MINUTE: [i64; 7] = [120, 300, 450, 600, 1_000, 1_200, 2_400];

/// A request as its client wants it.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its number.
    pub number: u64,
    /// Its team.
    pub team: String,
    /// Its user.
    pub user: String,
    /// Its priority.
    pub priority: Priority,
    /// Its targets, in order.
    pub targets: Vec<Target>,
    /// How long it may take.
    pub ttl_ms: u64,
    /// Bytes of its body.
    pub body_bytes: usize,
    /// The most output tokens.
    pub output_tokens_max: Option<u64>,
    /// Tells it from another body under the same identity.
    pub variant: u64,
    /// Whether it is to be rejected.
    pub is_invalid: bool,
}

/// A request and when what happens to it.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The request.
    pub request: Request,
    /// When it is published.
    pub at: Micros,
    /// When it is published again; another body, if so.
    pub again: Vec<(Micros, bool)>,
    /// When it is taken back.
    pub cancel: Option<Micros>,
}

/// A time at which a provider does not answer.
#[derive(Clone, Copy, Debug)]
pub struct Outage {
    /// From when.
    pub from: Micros,
    /// Until when.
    pub until: Micros,
}

/// A provider.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Its name.
    pub name: String,
    /// Calls at a time.
    pub max_in_flight: u32,
    /// Calls of a thousand that fail.
    pub failing: u64,
    /// Longest call.
    pub call_max: Micros,
    /// When it is down.
    pub outages: Vec<Outage>,
}

/// How often what goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Writes of a thousand before or after which the process dies.
    pub crash: u64,
    /// The same, stopped for a while.
    pub stop: u64,
    /// Messages of a thousand that are lost on the way to the server.
    pub lost_there: u64,
    /// The same for what the server says.
    pub lost_back: u64,
    /// The longest way of a message.
    pub latency_max: Micros,
    /// How often a process dies or is stopped at most.
    pub most: u32,
    /// Restarts of the server.
    pub restarts: u64,
    /// Clocks may jump so far.
    pub skew_ms: u64,
}

/// Everything.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// The providers.
    pub providers: Vec<Provider>,
    /// What targets cost.
    pub prices: BTreeMap<Target, Price>,
    /// Teams and their weights.
    pub teams: BTreeMap<String, u32>,
    /// The budgets.
    pub budgets: Budgets,
    /// The requests.
    pub requests: Vec<Planned>,
    /// The faults.
    pub faults: Faults,
    /// How many routers and workers.
    pub routers: usize,
    /// The same of workers.
    pub workers: usize,
    /// Requests of a subject that the server takes.
    pub lane_max: usize,
    /// Messages of a lane that a router has in hand.
    pub prefetch: usize,
    /// Whether everybody waits all the time, so that the bounds of fair order hold between all.
    pub is_backlog: bool,
}

const MODELS: [&str; 2] = ["small", "large"];

impl Plan {
    /// What a seed stands for.
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 1);
        if seed % BACKLOG_EVERY == BACKLOG_EVERY - 1 {
            return backlog(seed, &mut rng);
        }
        let providers = providers(&mut rng);
        let prices = prices(&providers);
        let teams: BTreeMap<String, u32> = ["ants", "bees", "cows"]
            .iter()
            .take(rng.of(1..4) as usize)
            .map(|team| ((*team).to_owned(), rng.of(1..4) as u32))
            .collect();
        let budgets = paced(seed, &teams, budgets(&mut rng, &teams));
        let faults = faults(&mut rng);
        let requests = requests(&mut rng, &teams, &prices);
        let (routers, workers) = (rng.of(1..3) as usize, rng.of(1..4) as usize);
        let lane_max = if rng.per_mille(200) { 3 } else { 1_000 };
        let (prefetch, is_backlog) = (8, false);
        Self {
            seed,
            providers,
            prices,
            teams,
            budgets,
            requests,
            faults,
            routers,
            workers,
            lane_max,
            prefetch,
            is_backlog,
        }
    }

    /// Its provider.
    pub fn provider(&self, name: &str) -> Option<&Provider> {
        self.providers.iter().find(|provider| provider.name == name)
    }
}

fn prices(providers: &[Provider]) -> BTreeMap<Target, Price> {
    let mut prices = BTreeMap::new();
    for (index, provider) in providers.iter().enumerate() {
        for (dearer, model) in MODELS.iter().enumerate() {
            let unit = 1_000_000_000 * (1 + 3 * dearer as u64 + index as u64);
            let price = Price { input: unit, cached_input: unit / 2, output: 4 * unit };
            let target = Target { provider: provider.name.clone(), model: (*model).to_owned() };
            prices.insert(target, price);
        }
    }
    prices
}

/// One router, one provider, no faults, and requests of every team at every priority that wait all the time.
fn backlog(seed: u64, rng: &mut Rng) -> Plan {
    let providers = vec![Provider {
        name: "alpha".to_owned(),
        max_in_flight: rng.of(1..6) as u32,
        failing: 0,
        call_max: 100 * MS,
        outages: Vec::new(),
    }];
    let prices = prices(&providers);
    let teams: BTreeMap<String, u32> = ["ants", "bees", "cows"]
        .iter()
        .take(rng.of(2..4) as usize)
        .map(|team| ((*team).to_owned(), rng.of(1..6) as u32))
        .collect();
    let priorities: &[Priority] = if rng.per_mille(500) { &[Priority::Normal] } else { &Priority::ALL };
    let target = Target { provider: "alpha".to_owned(), model: "small".to_owned() };
    let mut requests = Vec::new();
    for _ in 0..90 / priorities.len() {
        for team in teams.keys() {
            for priority in priorities {
                let number = requests.len() as u64;
                let request = Request {
                    number,
                    team: team.clone(),
                    user: "u0".to_owned(),
                    priority: *priority,
                    targets: vec![target.clone()],
                    ttl_ms: 600_000,
                    body_bytes: rng.of(20..200) as usize,
                    output_tokens_max: Some(rng.of(5..60)),
                    variant: 0,
                    is_invalid: false,
                };
                requests.push(Planned { request, at: rng.of(0..20 * MS), again: Vec::new(), cancel: None });
            }
        }
    }
    Plan {
        seed,
        providers,
        prices,
        teams,
        budgets: Budgets::default(),
        requests,
        faults: Faults { latency_max: 2 * MS, ..Faults::default() },
        routers: 1,
        workers: 1,
        lane_max: 10_000,
        prefetch: 10_000,
        is_backlog: true,
    }
}

fn providers(rng: &mut Rng) -> Vec<Provider> {
    let many = rng.of(1..3);
    let provider = |name: &str, rng: &mut Rng| {
        let failing = if rng.per_mille(500) { rng.pick(&[50, 200, 500]) } else { 0 };
        let mut outages = Vec::new();
        if rng.per_mille(300) {
            let from = rng.of(0..10 * SECOND);
            outages.push(Outage { from, until: from + rng.of(SECOND..12 * SECOND) });
        }
        Provider {
            name: name.to_owned(),
            max_in_flight: rng.of(1..5) as u32,
            failing,
            call_max: rng.pick(&[50 * MS, 400 * MS, 2_500 * MS]),
            outages,
        }
    };
    ["alpha", "beta"].iter().take(many as usize).map(|name| provider(name, rng)).collect()
}

fn budgets(rng: &mut Rng, teams: &BTreeMap<String, u32>) -> Budgets {
    if rng.per_mille(350) {
        return Budgets::default();
    }
    let count = rng.of(1..4);
    let budget = |number: u64, rng: &mut Rng| {
        let mut scope = Scope::default();
        match rng.of(0..5) {
            0 => {}
            1 | 2 => scope.team = teams.keys().next().cloned(),
            3 => scope.provider = Some("alpha".to_owned()),
            _ => scope.user = Some("u0".to_owned()),
        }
        // Limits are budgets in another unit, beside one of money at least. A request has some tens of tokens.
        let limit = match if number == 0 { 9 } else { rng.of(0..10) } {
            0 | 1 => Some((Measure::InFlight, rng.of(1..5), Per::Total, Reserve::Strict)),
            2 => Some((Measure::Tokens, rng.pick(&[300, 3_000]), Per::Minute, Reserve::Estimate)),
            _ => None,
        };
        if let Some((measure, limit, per, reserve)) = limit {
            return Budget {
                name: format!("l{number}"),
                scope,
                measure,
                limit: i64::try_from(limit).unwrap_or(1),
                per,
                timezone: Tz::UTC,
                when_spent: WhenSpent::Hold,
                reserve,
                alerts: Vec::new(),
            };
        }
        Budget {
            name: format!("b{number}"),
            scope,
            // A request costs some hundred thousand nano-dollars.
            measure: Measure::Money,
            limit: rng.pick(&[600_000, 2_000_000, 2_000_000, 10_000_000]),
            per: rng.pick(&[Per::Total, Per::Total, Per::Minute]),
            timezone: Tz::UTC,
            when_spent: rng.pick(&[WhenSpent::Hold, WhenSpent::Reject, WhenSpent::Downgrade]),
            reserve: if number == 0 {
                Reserve::Strict
            } else {
                rng.pick(&[Reserve::Strict, Reserve::Estimate])
            },
            alerts: Vec::new(),
        }
    };
    Budgets(Arc::from((0..count).map(|number| budget(number, rng)).collect::<Vec<_>>()))
}

/// With a limit of requests per minute of a team, in some seeds. It is drawn by itself: everything else that a seed stands
/// for is the same as without it.
fn paced(seed: u64, teams: &BTreeMap<String, u32>, budgets: Budgets) -> Budgets {
    let mut rng = Rng::new(seed, 6);
    if !rng.per_mille(PACED) {
        return budgets;
    }
    let names: Vec<&String> = teams.keys().collect();
    let limit = Budget {
        name: "p0".to_owned(),
        scope: Scope { team: Some(rng.pick(&names).clone()), ..Scope::default() },
        measure: Measure::Rate,
        limit: rng.pick(&PER_MINUTE),
        per: Per::Minute,
        timezone: Tz::UTC,
        when_spent: WhenSpent::Hold,
        reserve: Reserve::Strict,
        alerts: Vec::new(),
    };
    // Rates are last.
    Budgets(budgets.0.iter().cloned().chain([limit]).collect())
}

fn faults(rng: &mut Rng) -> Faults {
    // Some seeds have few kinds of fault: what one alone does is easier to see.
    let mut some = |often: u64, values: &[u64]| if rng.per_mille(often) { rng.pick(values) } else { 0 };
    Faults {
        crash: some(600, &[5, 15, 40]),
        stop: some(400, &[3, 10, 25]),
        lost_there: some(300, &[10, 40]),
        lost_back: some(500, &[10, 40, 100]),
        latency_max: [2 * MS, 20 * MS, 200 * MS][some(600, &[1, 2]) as usize],
        most: 12,
        restarts: some(300, &[1, 2]),
        skew_ms: some(200, &[500, 2_000]),
    }
}

fn requests(rng: &mut Rng, teams: &BTreeMap<String, u32>, prices: &BTreeMap<Target, Price>) -> Vec<Planned> {
    let count = rng.of(3..22);
    let teams: Vec<&String> = teams.keys().collect();
    let targets: Vec<&Target> = prices.keys().collect();
    let repeats = if rng.per_mille(500) { 250 } else { 0 };
    let cancels = if rng.per_mille(400) { 200 } else { 0 };
    let span = rng.pick(&[200 * MS, 5 * SECOND, 12 * SECOND]);
    let ttls: &[u64] = if rng.per_mille(300) { &[1_500, 4_000, 20_000] } else { &[9_000, 20_000, 40_000] };
    let request = |number: u64, rng: &mut Rng| {
        let mut chain: Vec<Target> = (0..rng.of(1..4)).map(|_| rng.pick(&targets).clone()).collect();
        let mut seen = Vec::new();
        chain.retain(|target| (!seen.contains(target)).then(|| seen.push(target.clone())).is_some());
        let at = rng.of(0..span);
        let again = |rng: &mut Rng| (at + rng.of(0..8 * SECOND), rng.per_mille(150));
        Planned {
            at,
            again: (0..3)
                .filter(|_| rng.per_mille(repeats))
                .collect::<Vec<_>>()
                .iter()
                .map(|_| again(rng))
                .collect(),
            cancel: rng.per_mille(cancels).then(|| at + rng.of(0..5 * SECOND)),
            request: Request {
                number,
                team: rng.pick(&teams).clone(),
                user: format!("u{}", rng.of(0..2)),
                priority: rng.pick(&Priority::ALL),
                targets: chain,
                ttl_ms: rng.pick(ttls),
                body_bytes: rng.of(20..400) as usize,
                output_tokens_max: if rng.per_mille(900) { Some(rng.of(5..60)) } else { None },
                variant: 0,
                is_invalid: rng.per_mille(30),
            },
        }
    };
    (0..count).map(|number| request(number, rng)).collect()
}
