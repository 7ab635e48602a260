//! The loop guard: how often the same body was asked for by the same caller within a minute.
//!
//! An agent that runs in a circle asks the same thing again and again, each time under a new id. A limit of equal bodies
//! lets so many of them begin in a minute of the clock; further ones wait for a later minute, and it is told. How many wait
//! has a bound; those beyond it are rejected.
//!
//! Most bodies are asked for once, so a router counts by itself until it sees a body for the second time; from then on all
//! routers count together, in a counter that the server keeps. So what each of them saw once is not in the sum: with `R`
//! routers, up to `R - 1` more than the limit can begin.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta};
use tollgate_protocol::job::Job;
use tollgate_protocol::{Digest, Timestamp};

use crate::budget::{Budget, Budgets, Measure};
use crate::index::request_hash;

/// Bodies of a minute that a router remembers; further ones are not counted in that minute.
const REMEMBERED_MAX: usize = 65_536;
/// The latest minute that one is put off to: there it is counted again.
const AHEAD_MAX: i64 = 10;
/// Of the same body from the same caller, so many are held in a minute, or what those minutes have room for if that is
/// more: they lie outside of their team's queue and its bound.
const HELD_MAX: i64 = 1_000;
const MINUTE_SECONDS: i64 = 60;
/// How far clocks may be apart.
const CLOCKS_SECONDS: i64 = 2;

/// The bodies that a router has seen in this minute.
#[derive(Debug, Default)]
pub struct Repeats {
    minute: i64,
    seen: HashMap<Digest, Seen>,
}

#[derive(Debug)]
struct Seen {
    /// The first request with it.
    first: u64,
    /// Whether that is in the shared counter.
    is_counted: bool,
}

/// A request that is to be counted under one limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// The limit, by its number.
    pub limit: usize,
    /// The counter.
    pub cell: String,
    /// How much is added.
    pub amount: i64,
    /// Under which id: a request counts once in a minute, however often it is delivered. Published again, it counts
    /// again: else the second copy of one that is held would go at once.
    pub id: String,
    minute: i64,
}

/// A request that does not begin in this minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany {
    /// It is looked at again then.
    pub until: Timestamp,
    /// Whether it is the first of this minute: that is what is told.
    pub is_first: bool,
    /// Whether as many are held as may be: then it is rejected.
    pub is_full: bool,
}

impl Repeats {
    /// Under which limits this request is to be counted. Notes the digest of its body in it, if there is such a limit.
    pub fn counts(&mut self, budgets: &Budgets, job: &mut Job, now: Timestamp) -> Vec<Count> {
        // One that was called already is no new request.
        if job.run > 0 || !job.history.is_empty() {
            return Vec::new();
        }
        let minute = now.timestamp().div_euclid(MINUTE_SECONDS);
        if minute != self.minute {
            (self.minute, self.seen) = (minute, HashMap::new());
        }
        let mut counts = Vec::new();
        for (limit, of) in budgets.0.iter().enumerate() {
            if !of.is_for_repeats(job.identity.team.as_str(), &job.meta) {
                continue;
            }
            // It is elsewhere, from a time when there was no such limit.
            let Some(body) = body_of(job) else { return Vec::new() };
            let (team, caller) = (job.identity.team.as_str(), caller(job).unwrap_or_default());
            let of_caller = Digest::of(format!("{}\0{team}\0{caller}\0{body}", of.name).as_bytes());
            let request = request_hash(&job.identity);
            let is_known = self.seen.contains_key(&of_caller);
            if !is_known && self.seen.len() >= REMEMBERED_MAX {
                continue;
            }
            let seen = self.seen.entry(of_caller).or_insert(Seen { first: request, is_counted: false });
            if seen.first == request {
                continue;
            }
            let amount = if seen.is_counted { 1 } else { 2 };
            seen.is_counted = true;
            let name: String = of_caller.to_string().chars().take(32).collect();
            let cell = format!("{}-{name}", minute * MINUTE_SECONDS);
            let id = format!("repeat/{cell}/{}/{}", job.identity, job.sequence);
            counts.push(Count { limit, cell, amount, id, minute });
        }
        counts
    }
}

impl Count {
    /// Whether that is too many. `total`: what the counter has now; `None` if the request is in it already, which says that
    /// somebody has decided about it.
    pub fn judge(&self, limit: &Budget, total: Option<i64>) -> Option<TooMany> {
        let total = total?;
        let over = total - limit.limit;
        if over <= 0 {
            return None;
        }
        let ahead = 1 + ((over - 1) / limit.limit.max(1)).min(AHEAD_MAX - 1);
        let begins = DateTime::from_timestamp(self.minute * MINUTE_SECONDS, 0)?;
        Some(TooMany {
            // By any clock of ours it is that minute then.
            until: begins + TimeDelta::minutes(ahead) + TimeDelta::seconds(CLOCKS_SECONDS),
            is_first: total - self.amount <= limit.limit,
            is_full: over > held_max(limit),
        })
    }
}

/// Notes the digest of a body, before that is put elsewhere, if equal bodies are counted.
pub fn note_body(budgets: &Budgets, job: &mut Job) {
    if budgets.0.iter().any(|limit| limit.is_for_repeats(job.identity.team.as_str(), &job.meta)) {
        body_of(job);
    }
}

/// How many of a body and caller a limit holds in a minute.
pub fn held_max(limit: &Budget) -> i64 {
    limit.limit.saturating_mul(AHEAD_MAX).max(HELD_MAX)
}

fn body_of(job: &mut Job) -> Option<Digest> {
    if job.body_digest.is_none() && !job.body.is_empty() {
        job.body_digest = Some(Digest::of(&job.body));
    }
    job.body_digest
}

/// Who asks: its key, or who it says it asks for.
pub fn caller(job: &Job) -> Option<&str> {
    job.meta.key.as_deref().or(job.meta.user.as_deref())
}

impl Budget {
    /// Whether it counts equal bodies, of such requests.
    fn is_for_repeats(&self, team: &str, meta: &tollgate_protocol::Meta) -> bool {
        self.measure == Measure::Repeats && self.scope.has(team, meta)
    }
}

#[cfg(test)]
mod tests;
