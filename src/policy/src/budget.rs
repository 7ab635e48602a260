//! Budgets and limits: which ones a request has to fit into, what it may cost at most, and whether it may go.
//!
//! A budget is a scope, a limit and a window. Every budget whose scope matches a request must have room for it. What a
//! request may cost is added to the counter of the budget's window before it is dispatched; the server returns the new
//! total, and only if that is within the limit may the request go. So any number of routers share a budget without a
//! lock, and what is reserved and spent together never passes the limit.
//!
//! A limit is the same with another unit: tokens of a minute, or requests in flight. Requests of a minute are numbered
//! instead, see [`crate::pace`].

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Datelike, Days, Months, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Timelike};
pub use chrono_tz::Tz;
use tollgate_protocol::budget::{Counter, Spent, TOTAL, Try, Unit};
use tollgate_protocol::job::{Job, Target};
use tollgate_protocol::usage::UsageEvent;
use tollgate_protocol::{ErrorCode, Meta, NanoUsd, Price, Problem, Timestamp};

use crate::estimate;
pub use needs::{Need, Needs};

/// How the beginning of a window is written in its counter's subject.
const WINDOW_FORMAT: &str = "%Y%m%dT%H%M%SZ";

/// Which requests a budget is for: those that have all that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The team.
    pub team: Option<String>,
    /// The project.
    pub project: Option<String>,
    /// The virtual key.
    pub key: Option<String>,
    /// The user.
    pub user: Option<String>,
    /// A tag and its value.
    pub tag: Option<(String, String)>,
    /// The provider that is called.
    pub provider: Option<String>,
    /// The model that is called, or `provider/model`.
    pub model: Option<String>,
}

impl Scope {
    /// Whether it is for requests of this team with these labels, whatever is called.
    pub(crate) fn has(&self, team: &str, meta: &Meta) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        is(&self.team, Some(team))
            && is(&self.project, meta.project.as_deref())
            && is(&self.key, meta.key.as_deref())
            && is(&self.user, meta.user.as_deref())
            && self.tag.as_ref().is_none_or(|(name, value)| meta.tags.get(name) == Some(value))
    }

    /// Whether it is for calls of this model.
    pub fn has_target(&self, provider: &str, model: &str) -> bool {
        let is_model = |wanted: &String| match wanted.split_once('/') {
            Some((of, name)) => of == provider && name == model,
            None => wanted == model,
        };
        self.provider.as_deref().is_none_or(|wanted| wanted == provider)
            && self.model.as_ref().is_none_or(is_model)
    }
}

/// How long a window of a budget is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// From the full minute.
    Minute,
    /// From the full hour.
    Hour,
    /// From midnight.
    Day,
    /// From Monday.
    Week,
    /// From the first.
    Month,
    /// For ever.
    Total,
}

impl Per {
    /// Every one.
    pub const ALL: [Self; 6] = [Self::Minute, Self::Hour, Self::Day, Self::Week, Self::Month, Self::Total];

    /// The text in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Total => TOTAL,
        }
    }

    /// Behind an amount, in words.
    pub fn in_words(self) -> String {
        if self == Self::Total { "in all".to_owned() } else { format!("per {}", self.as_str()) }
    }
}

/// What becomes of a request whose budget is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenSpent {
    /// It waits: until the window turns, the limit is raised, or its deadline.
    Hold,
    /// It is rejected with `budget_exceeded`.
    Reject,
    /// It goes to its next target that costs less, if that fits; else it waits.
    Downgrade,
}

impl WhenSpent {
    /// The text in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Reject => "reject",
            Self::Downgrade => "downgrade",
        }
    }
}

/// What is reserved for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// What such requests are seen to cost. A call can cost more than that.
    Estimate,
    /// What it can cost at most.
    Strict,
}

impl Reserve {
    /// The text in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Estimate => "estimate",
            Self::Strict => "strict",
        }
    }
}

/// What a budget or a limit measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// What calls cost, in nano-dollars: a budget.
    Money,
    /// What they use, in tokens: a limit.
    Tokens,
    /// How many are under way: a limit.
    InFlight,
    /// How many begin in a minute: a limit. They are numbered, and nothing is settled.
    Rate,
    /// How many with the same body begin in a minute: a limit, see [`crate::repeats`]. They are numbered, too.
    Repeats,
}

impl Measure {
    /// What its counters count; `None` if there is nothing to settle.
    pub fn unit(self) -> Option<Unit> {
        match self {
            Self::Money => Some(Unit::NanoUsd),
            Self::Tokens => Some(Unit::Tokens),
            Self::InFlight => Some(Unit::InFlight),
            Self::Rate | Self::Repeats => None,
        }
    }
}

/// A budget, or a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Its name: 1 to 64 of `A-Z a-z 0-9 _ -`, no other has it.
    pub name: String,
    /// What it measures.
    pub measure: Measure,
    /// What it is for.
    pub scope: Scope,
    /// What may be spent in a window, in what it measures; at least 0, and at least 1 for a limit.
    pub limit: i64,
    /// The window.
    pub per: Per,
    /// Where the windows of the calendar begin.
    pub timezone: Tz,
    /// What follows when it is spent.
    pub when_spent: WhenSpent,
    /// What is reserved.
    pub reserve: Reserve,
    /// When it is told how much is spent: percent of the limit, ascending.
    pub alerts: Vec<u32>,
}

/// A window: from its beginning to its end, which is not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// How it is named in the counter's subject.
    pub name: String,
    /// When it began; `None` for one without a beginning.
    pub start: Option<Timestamp>,
    /// When it ends; `None` for one without an end.
    pub end: Option<Timestamp>,
}

impl Budget {
    /// Whether a request has to have room in it when it is dispatched. What a provider's account takes in a minute is seen
    /// to by its workers, call by call; equal bodies are counted before anything else.
    pub fn is_for_admission(&self) -> bool {
        !self.is_for_calls() && self.measure != Measure::Repeats
    }

    fn is_for_calls(&self) -> bool {
        self.measure == Measure::Rate && self.scope.provider.is_some()
    }

    /// Whether a worker sees to it when it calls this model for such a request.
    pub fn is_for_call(&self, team: &str, meta: &Meta, provider: &str, model: &str) -> bool {
        self.is_for_calls() && self.scope.has(team, meta) && self.scope.has_target(provider, model)
    }

    /// An amount of it, as text.
    fn text(&self, amount: i64) -> String {
        match self.measure {
            Measure::Money => NanoUsd(amount).to_string(),
            Measure::Tokens => format!("{amount} tokens"),
            Measure::InFlight => format!("{amount} in flight"),
            Measure::Rate => format!("{amount} requests"),
            Measure::Repeats => format!("{amount} requests with the same body"),
        }
    }

    /// The window that `now` is in.
    pub fn window(&self, now: Timestamp) -> Window {
        let local = now.with_timezone(&self.timezone).naive_local();
        let midnight = local.date().and_time(NaiveTime::MIN);
        let (start, end) = match self.per {
            Per::Total => return Window { name: TOTAL.into(), start: None, end: None },
            // Hours and minutes go on through a change of the clock; their windows are those of the time zone's offset.
            Per::Minute | Per::Hour => {
                let seconds = if self.per == Per::Minute { 60 } else { 3_600 };
                let into = i64::from(local.num_seconds_from_midnight()) % seconds;
                let start = now - TimeDelta::seconds(into) - nanos(now);
                return window(start, start + TimeDelta::seconds(seconds));
            }
            Per::Day => (midnight, midnight + Days::new(1)),
            Per::Week => {
                let monday = midnight - Days::new(local.weekday().num_days_from_monday().into());
                (monday, monday + Days::new(7))
            }
            Per::Month => {
                let first = midnight - Days::new(u64::from(local.day0()));
                (first, first + Months::new(1))
            }
        };
        window(self.instant(start), self.instant(end))
    }

    /// The counter of the window that `now` is in.
    pub fn counter(&self, now: Timestamp) -> Counter {
        Counter { budget: self.name.clone(), window: self.window(now).name }
    }

    /// When it is this time in the budget's time zone; where the clock skips it, the first instant after.
    fn instant(&self, local: NaiveDateTime) -> Timestamp {
        let hours = (0..4).map(|hour| local + TimeDelta::hours(hour));
        let found = hours.filter_map(|local| self.timezone.from_local_datetime(&local).earliest()).next();
        found.map_or_else(|| local.and_utc(), |instant: DateTime<Tz>| instant.to_utc())
    }
}

/// When the window of a counter began; `None` for one without a beginning.
pub fn window_start(name: &str) -> Option<Timestamp> {
    NaiveDateTime::parse_from_str(name, WINDOW_FORMAT).ok().map(|time| time.and_utc())
}

fn nanos(now: Timestamp) -> TimeDelta {
    TimeDelta::nanoseconds(i64::from(now.timestamp_subsec_nanos()))
}

fn window(start: Timestamp, end: Timestamp) -> Window {
    Window { name: start.format(WINDOW_FORMAT).to_string(), start: Some(start), end: Some(end) }
}

/// All budgets and limits, rates last: what has a number in a minute is not to be refused by another one any more. Cheap to
/// clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Budgets(pub Arc<[Budget]>);

impl Budgets {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this one is a limit of requests per minute.
    pub fn is_rate(&self, index: usize) -> bool {
        self.0.get(index).is_some_and(|budget| budget.measure == Measure::Rate)
    }

    /// Whether this one is for some requests of a team and not for others.
    pub fn is_for_part_of_a_team(&self, index: usize) -> bool {
        self.0.get(index).is_some_and(|budget| {
            let whole = Scope { team: budget.scope.team.clone(), ..Scope::default() };
            budget.scope != whole
        })
    }

    /// The budget of this name.
    pub fn named(&self, name: &str) -> Option<&Budget> {
        self.0.iter().find(|budget| budget.name == name)
    }

    /// Those that a call is charged to.
    pub fn of_event<'a>(&'a self, event: &'a UsageEvent) -> impl Iterator<Item = &'a Budget> {
        self.0.iter().filter(|budget| budget.measure.unit().is_some()).filter(|budget| {
            let (provider, model) = (event.provider.as_deref(), event.model.as_deref());
            budget.scope.has(event.team.as_str(), &event.meta)
                && budget.scope.has_target(provider.unwrap_or_default(), model.unwrap_or_default())
        })
    }

    /// Whether the request of an event can have reserved in any of them, whatever was called.
    pub fn concern(&self, event: &UsageEvent) -> bool {
        let settled = |budget: &&Budget| budget.measure.unit().is_some();
        self.0.iter().filter(settled).any(|budget| budget.scope.has(event.team.as_str(), &event.meta))
    }
}

/// Whether a try to reserve holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is reserved.
    Reserved,
    /// Take it back, and try with this much: nothing else is open, and this is all that is left.
    Less(i64),
    /// Take it back. What is reserved for others fills the budget: wait until some of it is settled.
    Wait,
    /// Take it back. The budget is spent.
    Spent,
    /// Take it back. Not even an unspent budget has room for it.
    TooSmall,
}

/// Whether a budget is spent so far that no try can hold. Then its counter is left in peace.
pub fn is_spent(budget: &Budget, amount: i64, spent: &Spent) -> bool {
    match budget.reserve {
        Reserve::Strict => spent.spent_nano_usd.saturating_add(amount) > budget.limit,
        Reserve::Estimate => spent.spent_nano_usd >= budget.limit,
    }
}

/// Whether nothing is left of a budget, and all of that is not spent yet: a try cannot hold, and nobody is to be rejected. Tries
/// are in the counter themselves, and what is told of one is no reason for the next.
pub fn is_full(budget: &Budget, spent: &Spent) -> bool {
    spent.total_nano_usd >= budget.limit && spent.spent_nano_usd < budget.limit
}

/// How long a router may take to take back what a limit refused.
const TAKEN_BACK_MS: i64 = 10_000;

/// What becomes of a try that another router made for a request, and that is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orphan {
    /// It was within the limit, and holds, whatever else came since: its router has died, or relies on it as well.
    Holds,
    /// The limit refused it, and its router has died before it took it back: it is to be ended. If nobody did, several of them
    /// could fill a counter for as long as their requests wait for it.
    Refused,
    /// It holds if the counter is within its limit now.
    Open,
}

/// What becomes of one of which so much is known. By the limit that its router went by, which may be another one since.
pub fn orphan(known: Option<&Try>, now: Timestamp) -> Orphan {
    match known {
        Some(known) if known.total <= known.limit => Orphan::Holds,
        Some(known) if !known.is_taken && now.timestamp_millis() - known.stored_ms > TAKEN_BACK_MS => {
            Orphan::Refused
        }
        _ => Orphan::Open,
    }
}

/// What follows from a try: `total` is what the counter says with it.
pub fn judge(budget: &Budget, amount: i64, total: i64, spent: Option<&Spent>) -> Verdict {
    if total <= budget.limit {
        return Verdict::Reserved;
    }
    if budget.reserve == Reserve::Strict && amount > budget.limit {
        return Verdict::TooSmall;
    }
    // Until the ledger has told what is spent, nothing is known to be.
    let Some(spent) = spent else { return Verdict::Wait };
    match budget.reserve {
        _ if is_spent(budget, amount, spent) => Verdict::Spent,
        Reserve::Strict => Verdict::Wait,
        Reserve::Estimate => {
            let before = total.saturating_sub(amount);
            let left = budget.limit.saturating_sub(before);
            // What it needs is more than what is left, and nobody will give anything back.
            if before == spent.spent_nano_usd && left > 0 { Verdict::Less(left) } else { Verdict::Wait }
        }
    }
}

/// What a request is told whose budget is spent.
pub fn exceeded(budget: &Budget, spent: i64) -> Problem {
    let message = format!(
        "the budget {} is spent: {} of {} {}",
        budget.name,
        budget.text(spent),
        budget.text(budget.limit),
        budget.per.in_words()
    );
    Problem::new(ErrorCode::BudgetExceeded, message)
}

/// What a request is told that a limit has no room for, and that does not want to wait.
pub fn limited(limit: &Budget) -> Problem {
    let per = if limit.measure == Measure::InFlight { "" } else { " per minute" };
    let message = format!("the limit {} is reached: {}{per}", limit.name, limit.text(limit.limit));
    Problem::new(ErrorCode::RateLimited, message)
}

/// What a request is told that no window of its budget has room for.
pub fn too_small(budget: &Budget, amount: i64) -> Problem {
    let message = format!(
        "the request can cost up to {}, and the budget {} is {} {}; set max_tokens lower, or the budget higher",
        budget.text(amount),
        budget.name,
        budget.text(budget.limit),
        budget.per.in_words()
    );
    Problem::new(ErrorCode::BudgetTooSmall, message)
}

/// What a call of a request costs at most at a target; `None` if that has no price any more.
fn most(job: &Job, prices: &BTreeMap<Target, Price>, target: &Target) -> Option<NanoUsd> {
    let allowed = estimate::allowed(job.output_tokens_max, job.choices);
    Some(estimate::bound(job.body_bytes(), allowed, prices.get(target)?))
}

/// The next of a request's targets that costs less than its current one; `None` if there is none. `goes` says whether a
/// request that is addressed to a target goes there: from any other it would come back at once.
pub fn cheaper(job: &Job, prices: &BTreeMap<Target, Price>, goes: impl Fn(usize) -> bool) -> Option<usize> {
    let cost = |index: usize| most(job, prices, job.targets.get(index)?);
    let current = cost(job.target)?;
    job.candidates()
        .filter(|index| *index > job.target)
        .find(|index| cost(*index).is_some_and(|cost| cost < current) && goes(*index))
}

mod needs;
mod state;
#[cfg(test)]
pub(crate) mod tests;
