//! What follows a failed call: the same target again, another one, a pause, a wait for better times, or the end.

use std::ops::Range;

use chrono::TimeDelta;
use tollgate_protocol::record::{Dead, Next};
use tollgate_protocol::response::{Attempt, Outcome};
use tollgate_protocol::{ErrorCode, Timestamp};

use crate::failure::{Class, Remedy, Rule};

/// Calls of one target in a row, in quick succession, before another one or a longer pause.
pub const QUICK_TRIES: u32 = 3;
/// Longest delay of a retry by redelivery: the message keeps its place meanwhile.
pub const QUICK_DELAY_MS_MAX: u64 = 250;
const QUICK_DELAY_MS_BASE: u64 = 50;
/// The first of the longer pauses is up to this long.
const PAUSE_MS_BASE: u64 = 500;
/// Most lost attempts of one request in a row: something about it may be what kills its workers.
pub const LOST_MAX: usize = 5;
/// From so many lost attempts in a row on, the next one waits: those that were only in the same hands as the one
/// that kills find a worker of their own.
const LOST_TOGETHER: usize = 2;
const LOST_PAUSE_MS: u64 = 5_000;
/// Most calls for one request, whatever happens: the record holds all of them.
pub const ATTEMPTS_MAX: usize = 2_000;

/// Bounds from the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The longest pause that a provider may ask for, in milliseconds. It is called again after this time.
    pub retry_after_ms_max: u64,
    /// Longest delay between two tries of a request, in milliseconds.
    pub backoff_ms_max: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self { retry_after_ms_max: 300_000, backoff_ms_max: 60_000 }
    }
}

/// Where a request stands when a call of it failed.
#[derive(Clone, Debug)]
pub struct Situation<'a> {
    /// Its calls up to now, the failed one last.
    pub history: &'a [Attempt],
    /// Provider, model and whether it is up, of every target it has.
    pub targets: &'a [Standing<'a>],
    /// The targets among which it chooses now.
    pub candidates: Range<usize>,
    /// The targets for this kind of failure, if it has any and is not there yet.
    pub typed: Range<usize>,
    /// Index of the target that failed.
    pub target: usize,
    /// Whether another key of the same provider can be used at once.
    pub another_key: bool,
    /// Whether the provider's retry budget allows one more soon.
    pub budget: bool,
    /// Now.
    pub now: Timestamp,
    /// The request's deadline.
    pub deadline: Timestamp,
}

/// A target, as somebody sees it who has to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing<'a> {
    /// The provider.
    pub provider: &'a str,
    /// The model.
    pub model: &'a str,
    /// Whether it can be called now.
    pub is_up: bool,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum After {
    /// The request goes on.
    Go(Next),
    /// It fails, with the code of its last failure.
    Fail(Option<Dead>),
}

/// What follows a failed call. `chance` is a random number; delays are full jitter, `U(0, min(cap, base · 2ⁿ))`, so
/// that requests that failed together do not come back together.
pub fn after(class: Class, situation: &Situation<'_>, rules: &Rules, chance: u64) -> After {
    if situation.history.len() >= ATTEMPTS_MAX {
        return After::Fail(Some(Dead::Exhausted));
    }
    let rule = class.rule();
    let next_of = |mut range: Range<usize>| range.find(|index| situation.is_open(*index));
    match rule.remedy {
        Remedy::Nothing => After::Fail(None),
        Remedy::TypedTarget => match next_of(situation.typed.clone()) {
            Some(target) => After::Go(Next::Fallback { target }),
            None => After::Fail(None),
        },
        Remedy::NextTarget => match next_of(situation.target + 1..situation.candidates.end) {
            Some(target) => After::Go(Next::Fallback { target }),
            None => After::Fail(None),
        },
        Remedy::TryAgain => try_again(class, rule, situation, rules, chance),
    }
}

fn try_again(class: Class, rule: Rule, situation: &Situation<'_>, rules: &Rules, chance: u64) -> After {
    if rule.is_of_key && situation.another_key {
        return After::Go(Next::Retry { delay_ms: 0 });
    }
    let open: Vec<usize> = situation.candidates.clone().filter(|index| situation.is_open(*index)).collect();
    if open.is_empty() {
        return After::Fail(Some(Dead::Exhausted));
    }
    let is_up = |index: usize| situation.targets.get(index).is_some_and(|target| target.is_up);
    let left_ms = u64::try_from((situation.deadline - situation.now).num_milliseconds()).unwrap_or(0);
    // The same key would be refused again.
    let is_refused = rule.is_of_key && rule.tries_max.is_some();
    if open.contains(&situation.target)
        && !is_refused
        && is_up(situation.target)
        && situation.budget
        && let Some(delay_ms) = quick_delay_ms(class, situation.tries_in_a_row(), chance)
        && delay_ms < left_ms
    {
        return After::Go(Next::Retry { delay_ms });
    }
    if let Some(target) = open.iter().copied().find(|index| *index > situation.target && is_up(*index)) {
        return After::Go(Next::Fallback { target });
    }
    // What failed a few times already rests before it is held: else it would be the next call again that is to show
    // whether its target is up, and a handful of requests that always fail could keep that from the others.
    if !open.iter().copied().any(is_up) && situation.history.len() < QUICK_TRIES as usize {
        return After::Go(Next::Hold);
    }
    let delay_ms = pause_ms(class, situation.history.len(), rules, chance);
    After::Go(Next::Later { at: later(situation.now, delay_ms, situation.deadline) })
}

/// `None`: not by keeping the message.
fn quick_delay_ms(class: Class, tries: u32, chance: u64) -> Option<u64> {
    if tries >= QUICK_TRIES {
        return None;
    }
    let ceiling = (QUICK_DELAY_MS_BASE << tries.min(16)).min(QUICK_DELAY_MS_MAX);
    let jitter = chance % (ceiling + 1);
    match class {
        Class::Throttled { retry_after_ms: Some(wish) } if wish > QUICK_DELAY_MS_MAX => None,
        Class::Throttled { retry_after_ms: Some(wish) } => Some(wish.max(jitter)),
        _ => Some(jitter),
    }
}

/// The pause that a provider asked for is a floor, the bound of the configuration a ceiling.
fn pause_ms(class: Class, calls: usize, rules: &Rules, chance: u64) -> u64 {
    let doublings = u32::try_from(calls / QUICK_TRIES as usize).unwrap_or(u32::MAX).min(20);
    let ceiling = (PAUSE_MS_BASE << doublings).min(rules.backoff_ms_max).max(1);
    let jitter = chance % (ceiling + 1);
    match class {
        Class::Throttled { retry_after_ms: Some(wish) } => {
            wish.min(rules.retry_after_ms_max).saturating_add(jitter)
        }
        _ => jitter,
    }
}

/// `delay_ms` from `now`, at the latest at the deadline.
pub fn later(now: Timestamp, delay_ms: u64, deadline: Timestamp) -> Timestamp {
    let delay = chrono::TimeDelta::milliseconds(i64::try_from(delay_ms).unwrap_or(i64::MAX / 4));
    now.checked_add_signed(delay).map_or(deadline, |at| at.min(deadline))
}

/// How long a provider rests, in milliseconds, that throttles a call which was to show whether it is up again and does not
/// say for how long: half a second to a second, doubled for each time that the same request was throttled before, up to
/// half a minute.
pub fn recovery_pause_ms(throttled_before: usize, chance: u64) -> u64 {
    let most = 1_000_u64 << throttled_before.min(5);
    let most = most.min(30_000);
    most / 2 + chance % (most / 2 + 1)
}

/// What follows a lost attempt, the last of `history`.
pub fn after_lost(history: &[Attempt], now: Timestamp, deadline: Timestamp, chance: u64) -> AfterLost {
    match lost_in_a_row(history) {
        lost if lost >= LOST_MAX => AfterLost::Bury { times: lost },
        lost if lost >= LOST_TOGETHER => {
            let doublings = u32::try_from(lost - LOST_TOGETHER).unwrap_or(u32::MAX).min(8);
            let delay_ms = 1_000 + chance % ((LOST_PAUSE_MS << doublings) + 1);
            AfterLost::Later { at: later(now, delay_ms, deadline) }
        }
        _ => AfterLost::ClaimNext,
    }
}

/// See [`after_lost`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterLost {
    /// The next attempt can be claimed.
    ClaimNext,
    /// Not before this time.
    Later {
        /// When.
        at: Timestamp,
    },
    /// Something about the request may be what kills its workers.
    Bury {
        /// How often in a row.
        times: usize,
    },
}

/// How often the request's workers were lost in a row, up to now.
pub fn lost_in_a_row(history: &[Attempt]) -> usize {
    history.iter().rev().take_while(|attempt| attempt.outcome == Outcome::Lost).count()
}

impl Situation<'_> {
    /// Calls of the current target in a row at the end of the history, lost ones not counted: a lost worker says
    /// nothing about the provider.
    fn tries_in_a_row(&self) -> u32 {
        let Some(target) = self.targets.get(self.target) else { return u32::MAX };
        let tries = self.history.iter().rev().take_while(|attempt| is_of(attempt, target));
        count(tries.filter(|attempt| attempt.outcome != Outcome::Lost))
    }

    /// Whether a target has not failed this request for good.
    fn is_open(&self, index: usize) -> bool {
        self.targets.get(index).is_some_and(|target| !is_spent(self.history, target))
    }
}

/// Whether a target has failed a request so often, while it answered others, that it is not asked again.
pub fn is_spent(history: &[Attempt], target: &Standing<'_>) -> bool {
    let held_against = |code: ErrorCode| {
        count(history.iter().filter(|attempt| {
            is_of(attempt, target)
                && attempt.outcome == Outcome::Failed
                && attempt.code == Some(code)
                && !attempt.excused
        }))
    };
    Class::ALL
        .iter()
        .any(|class| class.rule().tries_max.is_some_and(|most| held_against(class.code()) >= most))
}

fn is_of(attempt: &Attempt, target: &Standing<'_>) -> bool {
    attempt.provider == target.provider && attempt.model == target.model
}

fn count<'a>(attempts: impl Iterator<Item = &'a Attempt>) -> u32 {
    u32::try_from(attempts.count()).unwrap_or(u32::MAX)
}

/// Whether a failure is not held against its request: the target answered nobody else since the request last failed there,
/// or since this call began, or it asked for a pause. `before` are the request's earlier attempts.
pub fn is_excused(
    class: Class,
    failed: &Attempt,
    before: &[Attempt],
    last_success: Option<Timestamp>,
) -> bool {
    let rule = class.rule();
    // No other answer fits into a call that fails within a millisecond; between two of them there is time for some.
    let is_there = |attempt: &&Attempt| attempt.provider == failed.provider && attempt.model == failed.model;
    let last_there = before.iter().rev().find(is_there).map(|attempt| {
        let took = TimeDelta::milliseconds(i64::try_from(attempt.duration_ms).unwrap_or(i64::MAX / 4));
        attempt.started_at.checked_add_signed(took).unwrap_or(attempt.started_at)
    });
    let since = last_there.map_or(failed.started_at, |last| last.min(failed.started_at));
    match rule.remedy {
        Remedy::TryAgain => rule.tries_max.is_none() || last_success.is_none_or(|last| last < since),
        Remedy::NextTarget | Remedy::TypedTarget | Remedy::Nothing => false,
    }
}

#[cfg(test)]
mod tests;
