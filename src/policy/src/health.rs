//! Whether a target can be called: a circuit breaker for each (provider, model), shared by all processes.
//!
//! Closed, open, half-open with a ramp: an open breaker admits one call after a while, then two, four and so on, each
//! stage only after all calls of the last one have ended, most of them with an answer. After an outage the whole backlog is waiting, and would
//! be one more outage. Only failures of the provider count; a refusal of one request does not, and a 429 is flow
//! control: it pauses the provider for as long as it asks (see [`crate::failure`]).

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use tollgate_protocol::{ErrorCode, Timestamp};

mod window;

pub use window::{Outcome, Window};

/// Longest stage of a ramp, in milliseconds: permits of processes that died must not block for ever.
pub const STAGE_MS_MAX: i64 = 30_000;
/// The same for a target whose answers were seen to take longer: twice as long as the longest, up to this.
const SLOW_MS_MAX: i64 = 1_200_000;
/// A stage of so many calls at a time that succeeds closes the breaker, however many places the provider has.
pub const RAMP_MAX: u32 = 32;
/// The first wait of an open breaker, in milliseconds; it doubles with each failed probe.
const OPEN_MS_BASE: u64 = 1_000;
/// Longest wait of an open breaker, in milliseconds, for the first failed probes and for those of a long outage.
const OPEN_MS_MAX: (u64, u64) = (10_000, 60_000);
/// So many failed probes make a long outage: about ten minutes.
const LONG_OUTAGE: u32 = 60;

/// What is known of a provider as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderHealth {
    /// Since when an operator has it paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_since: Option<Timestamp>,
    /// Until when it asked not to be called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled_until: Option<Timestamp>,
}

/// What is known of one model of a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetHealth {
    /// The provider.
    pub provider: String,
    /// The model.
    pub model: String,
    /// Whether it may be called.
    pub breaker: Breaker,
    /// What it failed with last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<ErrorCode>,
    /// Since when it is down, or up again.
    pub since: Timestamp,
    /// How long a stage of this outage may take, in milliseconds, if its calls were seen to take long.
    #[serde(default)]
    pub stage_ms: i64,
}

/// The state of a circuit breaker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Breaker {
    /// Calls go through.
    Closed,
    /// None does, before `until`.
    Open {
        /// When the next probe may be made.
        until: Timestamp,
        /// Probes that failed since anything was answered.
        trips: u32,
    },
    /// Some do, to see whether it is up again.
    HalfOpen {
        /// The stage's number, never used again: when it began, in microseconds since 1970. A late failure of an older
        /// stage counts for nothing.
        stage: u64,
        /// Calls of this stage.
        allowed: u32,
        /// Those that were permitted.
        granted: u32,
        /// Those that were answered.
        succeeded: u32,
        /// Those that failed: half of them at most, or the stage would be over.
        #[serde(default)]
        failed: u32,
        /// As in `Open`.
        trips: u32,
        /// When the stage began.
        stage_since: Timestamp,
    },
}

/// A permit to call a target that is not known to be up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The stage it is for.
    pub stage: u64,
}

/// Whether a target can be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// It can.
    Up,
    /// With a permit.
    Probe,
    /// It cannot.
    Down {
        /// Why.
        why: Why,
        /// Until when, if that is known.
        until: Option<Timestamp>,
    },
}

/// Why a target cannot be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// An operator paused its provider.
    Paused,
    /// Its provider asked for a pause.
    Throttled,
    /// It fails.
    Broken(Option<ErrorCode>),
}

/// Whether a target can be called. What nothing is known of is up.
pub fn availability(
    provider: Option<&ProviderHealth>,
    target: Option<&TargetHealth>,
    now: Timestamp,
) -> Availability {
    if let Some(provider) = provider {
        if provider.paused_since.is_some() {
            return Availability::Down { why: Why::Paused, until: None };
        }
        if let Some(until) = provider.throttled_until.filter(|until| *until > now) {
            return Availability::Down { why: Why::Throttled, until: Some(until) };
        }
    }
    let Some(target) = target else { return Availability::Up };
    let down = |until| Availability::Down { why: Why::Broken(target.code), until: Some(until) };
    match target.breaker {
        Breaker::Closed => Availability::Up,
        Breaker::Open { until, .. } if until > now => down(until),
        Breaker::Open { .. } => Availability::Probe,
        Breaker::HalfOpen { allowed, granted, .. } if granted < allowed => Availability::Probe,
        Breaker::HalfOpen { stage_since, .. } => {
            let end =
                stage_since + TimeDelta::milliseconds(STAGE_MS_MAX.max(target.stage_ms.min(SLOW_MS_MAX)));
            if end <= now { Availability::Probe } else { down(end) }
        }
    }
}

impl TargetHealth {
    /// Takes one permit. `None`: there is none now.
    pub fn grant(&self, now: Timestamp) -> Option<(Self, Probe)> {
        if availability(None, Some(self), now) != Availability::Probe {
            return None;
        }
        let (stage, allowed, granted, succeeded, failed, trips, stage_since) = match self.breaker {
            Breaker::HalfOpen { stage, allowed, granted, succeeded, failed, trips, stage_since }
                if granted < allowed =>
            {
                (stage, allowed, granted, succeeded, failed, trips, stage_since)
            }
            // Its permits were lost with whoever had them. What was answered shows how much can be asked for.
            Breaker::HalfOpen { stage, succeeded, trips, .. } => {
                (next_stage(stage, now), succeeded.max(1), 0, 0, 0, trips, now)
            }
            Breaker::Open { trips, .. } => (next_stage(0, now), 1, 0, 0, 0, trips, now),
            Breaker::Closed => return None,
        };
        let granted = granted + 1;
        let breaker = Breaker::HalfOpen { stage, allowed, granted, succeeded, failed, trips, stage_since };
        Some((Self { breaker, ..self.clone() }, Probe { stage }))
    }

    /// Whether a permit is of the stage that is under way.
    pub fn is_current(&self, probe: Probe) -> bool {
        matches!(self.breaker, Breaker::HalfOpen { stage, .. } if stage == probe.stage)
    }

    /// A permitted call has ended. `max_in_flight` are the provider's places: a ramp ends there. `None`: nothing
    /// changes, its stage is over.
    pub fn probed(
        &self,
        probe: Probe,
        is_answered: bool,
        code: Option<ErrorCode>,
        now: Timestamp,
        chance: u64,
        max_in_flight: u32,
    ) -> Option<Self> {
        let Breaker::HalfOpen { stage, allowed, granted, succeeded, failed, trips, stage_since } =
            self.breaker
        else {
            return None;
        };
        if stage != probe.stage {
            return self.late(probe, is_answered, now);
        }
        let (succeeded, failed) = if is_answered { (succeeded + 1, failed) } else { (succeeded, failed + 1) };
        // More than half of them: a target that fails now and then is up, and a few requests that always fail, which come by
        // in turn with the others, must not take it down for all.
        if failed * 2 > allowed {
            // What answered something is not as far away as what answers nothing.
            let trips = if allowed > 1 || succeeded > 0 { 0 } else { trips.saturating_add(1) };
            return Some(self.open(code, trips, now, chance));
        }
        let breaker = if succeeded + failed < allowed {
            Breaker::HalfOpen { stage, allowed, granted, succeeded, failed, trips, stage_since }
        } else if allowed.saturating_mul(2) > max_in_flight.min(RAMP_MAX) {
            Breaker::Closed
        } else {
            Breaker::HalfOpen {
                stage: next_stage(stage, now),
                allowed: allowed * 2,
                granted: 0,
                succeeded: 0,
                failed: 0,
                trips,
                stage_since: now,
            }
        };
        match breaker {
            Breaker::Closed => Some(Self { breaker, since: now, stage_ms: 0, ..self.clone() }),
            breaker => Some(Self { breaker, ..self.clone() }),
        }
    }

    /// A call of an older stage has ended. An answer shows how long calls take: stages live as long as that needs, or a
    /// slow target would never get beyond its first.
    fn late(&self, probe: Probe, is_answered: bool, now: Timestamp) -> Option<Self> {
        let began = i64::try_from(probe.stage).unwrap_or(i64::MAX);
        let is_of_outage = began >= self.since.timestamp_micros();
        let took_ms = now.timestamp_micros().saturating_sub(began) / 1_000;
        let stage_ms = took_ms.saturating_mul(2).min(SLOW_MS_MAX);
        (is_answered && is_of_outage && stage_ms > self.stage_ms.max(STAGE_MS_MAX))
            .then(|| Self { stage_ms, ..self.clone() })
    }

    /// A permit was not used: somebody else may have it. `None`: its stage is over.
    pub fn give_back(&self, probe: Probe) -> Option<Self> {
        let Breaker::HalfOpen { stage, allowed, granted, succeeded, failed, trips, stage_since } =
            self.breaker
        else {
            return None;
        };
        (stage == probe.stage && granted > succeeded + failed).then(|| {
            let granted = granted - 1;
            let breaker =
                Breaker::HalfOpen { stage, allowed, granted, succeeded, failed, trips, stage_since };
            Self { breaker, ..self.clone() }
        })
    }

    /// Too many calls failed. `None`: that is known already.
    pub fn trip(&self, code: ErrorCode, now: Timestamp, chance: u64) -> Option<Self> {
        (self.breaker == Breaker::Closed)
            .then(|| Self { since: now, ..self.open(Some(code), 0, now, chance) })
    }

    /// A target that nothing is known of.
    pub fn unknown(provider: &str, model: &str, now: Timestamp) -> Self {
        Self {
            provider: provider.into(),
            model: model.into(),
            breaker: Breaker::Closed,
            code: None,
            since: now,
            stage_ms: 0,
        }
    }

    /// Between half of it and all of it, so that the probes of many targets do not fall together.
    fn open(&self, code: Option<ErrorCode>, trips: u32, now: Timestamp, chance: u64) -> Self {
        let most = if trips < LONG_OUTAGE { OPEN_MS_MAX.0 } else { OPEN_MS_MAX.1 };
        let wait = (OPEN_MS_BASE << trips.min(16)).min(most);
        let wait = wait / 2 + chance % (wait / 2 + 1);
        let until = now + TimeDelta::milliseconds(i64::try_from(wait).unwrap_or_default());
        Self { breaker: Breaker::Open { until, trips }, code: code.or(self.code), ..self.clone() }
    }
}

/// Higher than any before, also when clocks go back.
fn next_stage(last: u64, now: Timestamp) -> u64 {
    u64::try_from(now.timestamp_micros()).unwrap_or_default().max(last.saturating_add(1))
}

impl ProviderHealth {
    /// It asked not to be called before `until`. `None`: it asked for as much before.
    pub fn throttle(&self, until: Timestamp) -> Option<Self> {
        (self.throttled_until.is_none_or(|known| known < until))
            .then(|| Self { throttled_until: Some(until), ..self.clone() })
    }
}

#[cfg(test)]
mod tests;
