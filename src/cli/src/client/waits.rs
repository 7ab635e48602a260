//! What a request may wait for, as far as that can be seen from outside.
//!
//! No router is asked: what routers go by is looked at here as well, each thing at a moment of its own. So all of it is
//! said as something that may be. What only a router knows, such as whose turn it is, is not said at all.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tollgate_bus::Bus;
use tollgate_bus::bucket::CONFIG;
use tollgate_config::Settings;
use tollgate_health::Health;
use tollgate_policy::budget::{Reserve, Scope, WhenSpent};
use tollgate_policy::estimate;
use tollgate_policy::health::Availability;
use tollgate_policy::route::awaited;
use tollgate_protocol::applied::KEY;
use tollgate_protocol::budget::{BudgetQuestion, BudgetState, TOTAL, Unit};
use tollgate_protocol::job::{Job, Target};
use tollgate_protocol::request::{OnLimit, Request};
use tollgate_protocol::{Meta, Price, Team, Timestamp};

use super::config::kept;
use super::provider::why_text;
use super::{budget, status};

/// So many reasons are said: one that is true is enough, and a second one comes next.
const SAID_MAX: usize = 2;
/// How long the ledger may take to say what is spent. Without it everything else is said.
const LEDGER_WAIT: Duration = Duration::from_secs(2);
/// Where it is not known what a request needs: little is left if it is less than this part of the limit.
const LITTLE: i64 = 10;

/// Something that a request may wait for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Reason {
    /// `not_before`, `target`, `budget`, `limit` or `provider`.
    pub(crate) what: &'static str,
    /// Which one; empty for a time.
    pub(crate) name: String,
    /// In words, to stand behind "may wait".
    pub(crate) text: String,
}

/// What of a request decides whether it may go on.
#[derive(Clone, Debug)]
pub(crate) struct Asks {
    team: Team,
    meta: Meta,
    /// Where it may go, in order; none if that is not known here.
    targets: Vec<Target>,
    /// What these cost, as far as that is known here.
    prices: BTreeMap<Target, Price>,
    body_bytes: usize,
    /// The most output tokens, as far as that follows from it.
    allowed: Option<u64>,
    not_before: Option<Timestamp>,
    rejects_on_limit: bool,
}

impl Asks {
    /// Of one that a router has seen.
    pub(crate) async fn of_job(bus: &Bus, job: &Job) -> Self {
        Self {
            team: job.identity.team.clone(),
            meta: job.meta.clone(),
            targets: awaited(job),
            prices: in_force(bus).await.map_or_else(BTreeMap::new, |settings| settings.catalog.prices),
            body_bytes: job.body_bytes(),
            allowed: estimate::allowed(job.output_tokens_max, job.choices),
            not_before: None,
            rejects_on_limit: job.rejects_on_limit,
        }
    }

    /// Of one as its client wrote it.
    pub(crate) async fn of_request(bus: &Bus, request: &Request) -> Self {
        let (team, model) = (&request.head.identity.team, request.facts.model.as_str());
        let settings = in_force(bus).await;
        let targets = match &settings {
            Some(Settings { catalog, teams, .. }) => {
                catalog.resolve(teams, team, model, &request.fallbacks).unwrap_or_default()
            }
            // What other names stand for is in the files of the processes.
            None => named(model).into_iter().collect(),
        };
        Self {
            team: team.clone(),
            meta: request.head.meta.clone(),
            targets,
            prices: settings.map_or_else(BTreeMap::new, |settings| settings.catalog.prices),
            body_bytes: request.body.as_str().len(),
            allowed: estimate::allowed(request.facts.output_tokens_max, request.facts.choices),
            not_before: request.not_before,
            rejects_on_limit: request.on_limit == OnLimit::Reject,
        }
    }

    /// Whether a budget or a limit is for it, as far as that is known.
    fn concerns(&self, scope: &Scope) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        let meta = &self.meta;
        let is_of_target = scope.provider.is_some() || scope.model.is_some();
        is(&scope.team, Some(self.team.as_str()))
            && is(&scope.project, meta.project.as_deref())
            && is(&scope.key, meta.key.as_deref())
            && is(&scope.user, meta.user.as_deref())
            && scope.tag.as_ref().is_none_or(|(name, value)| meta.tags.get(name) == Some(value))
            && (!is_of_target || self.of_scope(scope).next().is_some())
    }

    fn of_scope<'a>(&'a self, scope: &'a Scope) -> impl Iterator<Item = &'a Target> {
        self.targets.iter().filter(|target| scope.has_target(&target.provider, &target.model))
    }

    /// What it can cost at most in this scope, if its targets and their prices are known.
    fn most(&self, scope: &Scope) -> Option<i64> {
        let cost = |target: &Target| {
            let price = self.prices.get(target)?;
            Some(estimate::bound(self.body_bytes, self.allowed, price).0)
        };
        self.of_scope(scope).map(cost).collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// What there is of a budget or a limit, if that may be too little.
    fn short_of(&self, state: &BudgetState) -> Option<Reason> {
        let scope = Scope::of_labels(&state.scope).filter(|scope| self.concerns(scope))?;
        let is_money = state.unit == Unit::NanoUsd;
        let rejects = state.when_spent == WhenSpent::Reject.as_str();
        // It would have been rejected, and does not wait.
        if !is_money && (rejects || self.rejects_on_limit) {
            return None;
        }
        let (what, name) = (if is_money { "budget" } else { "limit" }, state.name.clone());
        if !state.is_open {
            let text = format!("for {what} {name}: the ledger has not counted yet what was spent before it");
            return Some(Reason { what, name, text });
        }
        let (limit, reserved) = (state.limit_nano_usd, state.reserved_nano_usd);
        let left = limit.saturating_sub(state.spent_nano_usd).saturating_sub(reserved);
        let is_strict = state.reserve == Reserve::Strict.as_str();
        let most = if is_money { self.most(&scope) } else { None };
        let is_short = match most {
            // With nothing reserved for others a spent budget rejects.
            _ if rejects && reserved <= 0 => false,
            _ if left <= 0 => true,
            // One more is one.
            _ if state.unit == Unit::InFlight => false,
            // The rest is enough for whoever may cost more than estimated, if nobody gives anything back.
            _ if !is_strict && reserved <= 0 => false,
            Some(most) if is_strict => most > left,
            // What is estimated is mostly much less than the most it can be; how much, only routers know.
            _ => left < limit / LITTLE,
        };
        let amount = |amount: i64| budget::amount(state.unit, amount);
        let per = if state.per == TOTAL { String::new() } else { format!(" this {}", state.per) };
        let held = if reserved > 0 && state.unit != Unit::InFlight {
            format!(", {} is reserved", amount(reserved))
        } else {
            String::new()
        };
        let text = format!("for {what} {name}: {} left of {}{per}{held}", amount(left.max(0)), amount(limit));
        is_short.then_some(Reason { what, name, text })
    }
}

/// The first things that a request may wait for.
pub(crate) async fn reasons(bus: &Bus, asks: &Asks) -> Vec<Reason> {
    let now = tollgate_bus::now();
    let mut reasons: Vec<Reason> =
        asks.not_before.and_then(|time| too_early(time, now)).into_iter().collect();
    let health = Health::new(bus);
    let is_known = health.load().await.is_ok();
    if is_known {
        reasons.extend(down(&health, &asks.targets, now));
    }
    let asked = budget::ask(bus, BudgetQuestion::default());
    if let Ok(Ok(list)) = tokio::time::timeout(LEDGER_WAIT, asked).await {
        reasons.extend(list.budgets.iter().chain(&list.limits).filter_map(|state| asks.short_of(state)));
    }
    if reasons.len() < SAID_MAX {
        let is_up =
            |target: &&Target| health.availability(&target.provider, &target.model, now) == Availability::Up;
        if let Some(target) = asks.targets.iter().find(is_up) {
            reasons.extend(no_place(bus, &target.provider).await);
        }
    }
    reasons.truncate(SAID_MAX);
    reasons
}

/// What one may wait for that lies with a provider's workers.
pub(crate) async fn of_target(bus: &Bus, target: &Target) -> Vec<Reason> {
    let health = Health::new(bus);
    match health.load().await {
        Ok(()) => down(&health, std::slice::from_ref(target), tollgate_bus::now()).into_iter().collect(),
        Err(_) => Vec::new(),
    }
}

/// What is applied for all processes. Else each has its own file, which nobody sees from here.
async fn in_force(bus: &Bus) -> Option<Settings> {
    let version = bus.version(CONFIG, KEY, None).await.ok()??;
    let (_, document) = kept::read(&version).ok()??;
    document.settings().ok()
}

fn named(model: &str) -> Option<Target> {
    let (provider, model) = model.split_once('/')?;
    Some(Target { provider: provider.to_owned(), model: model.to_owned() })
}

fn too_early(time: Timestamp, now: Timestamp) -> Option<Reason> {
    let text = format!("until {}, as it asked for (not_before)", time.to_rfc3339());
    (time > now).then(|| Reason { what: "not_before", name: String::new(), text })
}

/// None of its targets is up.
fn down(health: &Health, targets: &[Target], now: Timestamp) -> Option<Reason> {
    let is_down =
        |target: &Target| health.availability(&target.provider, &target.model, now) != Availability::Up;
    if targets.is_empty() || !targets.iter().all(is_down) {
        return None;
    }
    let text = format!("until one of its targets is up: {}", told(&standings(Some(health), targets, now)));
    let names: Vec<String> = targets.iter().map(Target::to_string).collect();
    Some(Reason { what: "target", name: names.join(", "), text })
}

/// How targets stand; `health` is `None` if that is not known.
pub(crate) fn standings(health: Option<&Health>, targets: &[Target], now: Timestamp) -> Vec<Value> {
    let standing = |target: &Target| {
        let name = target.to_string();
        match health.map(|health| health.availability(&target.provider, &target.model, now)) {
            Some(Availability::Down { why, until }) => {
                json!({"target": name, "why": why_text(why), "until": until})
            }
            Some(Availability::Probe) => json!({"target": name, "why": "it is tried again"}),
            Some(Availability::Up) | None => json!({"target": name, "why": ""}),
        }
    };
    targets.iter().map(standing).collect()
}

/// The same in words.
pub(crate) fn told(standings: &[Value]) -> String {
    let word = |target: &Value| {
        let text = |name: &str| target[name].as_str().unwrap_or_default().to_owned();
        let until = target["until"].as_str().map(|until| format!(", tried again at {until}"));
        format!("{} ({}{})", text("target"), text("why"), until.unwrap_or_default())
    };
    standings.iter().map(word).collect::<Vec<_>>().join(", ")
}

/// All calls that a provider takes at a time are under way, or others wait for its workers already.
async fn no_place(bus: &Bus, provider: &str) -> Option<Reason> {
    let dispatch = status::dispatch(bus).await.ok()?.into_iter().find(|of| of.provider == provider)?;
    let most = dispatch.max_in_flight.and_then(|most| u64::try_from(most).ok());
    let is_full = most.is_some_and(|most| dispatch.in_flight >= most);
    let of = most.map_or_else(String::new, |most| format!(" of {most}"));
    let text = format!(
        "for a place at {provider}: {}{of} calls are under way, {} wait for a worker",
        dispatch.in_flight, dispatch.waiting
    );
    (is_full || dispatch.waiting > 0).then(|| Reason { what: "provider", name: provider.to_owned(), text })
}

#[cfg(test)]
mod tests;
