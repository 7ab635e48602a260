//! What calls say about their targets, noted where others see it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tollgate_health::Ended;
use tollgate_policy::failure::{Class, Health};
use tollgate_policy::health::{Outcome, Window};
use tollgate_policy::keys::KeyRing;
use tollgate_policy::quota::{Left, Quota};
use tollgate_policy::retry::{self, Rules};
use tollgate_policy::retry_budget::RetryBudget;
use tollgate_protocol::job::Target;
use tollgate_protocol::response::Attempt;
use tollgate_protocol::{ErrorCode, Timestamp};

use super::Shop;
use super::call::Seen;
use super::job::Work;

/// What this process has seen of a provider.
#[derive(Debug)]
pub(super) struct Observed {
    windows: Mutex<HashMap<String, Window>>,
    budget: Mutex<RetryBudget>,
    keys: Mutex<KeyRing>,
    /// By key.
    quotas: Mutex<Vec<Quota>>,
}

impl Observed {
    /// Of a provider with so many keys.
    pub(super) fn new(keys: usize) -> Self {
        Self {
            windows: Mutex::default(),
            budget: Mutex::default(),
            keys: Mutex::new(KeyRing::new(keys)),
            quotas: Mutex::new(vec![Quota::default(); keys.max(1)]),
        }
    }

    fn keys(&self) -> MutexGuard<'_, KeyRing> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn quotas(&self) -> MutexGuard<'_, Vec<Quota>> {
        self.quotas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn windows(&self) -> MutexGuard<'_, HashMap<String, Window>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn budget(&self) -> MutexGuard<'_, RetryBudget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a model last answered.
    fn last_success(&self, model: &str) -> Option<Timestamp> {
        self.windows().get(model)?.last_success()
    }

    /// Notes how a call ended. `true`: its target is to be taken for down.
    fn note(&self, model: &str, outcome: Outcome, now: Timestamp) -> bool {
        self.windows().entry(model.to_owned()).or_default().note(outcome, now)
    }
}

impl Shop {
    /// The key to use now; `Err`: when one can be used again.
    pub(super) fn key_now(&self, now: Timestamp) -> Result<usize, Timestamp> {
        self.observed.keys().pick(now)
    }

    /// Whether no other key of the provider helps now.
    fn is_last_key(&self, now: Timestamp) -> bool {
        self.endpoint.keys() <= 1 || self.key_now(now).is_err()
    }

    /// Notes what a call with this key came to; says whether another one can be used at once.
    pub(super) fn note_key(&self, key: usize, class: Option<Class>, now: Timestamp, rules: &Rules) -> bool {
        let mut keys = self.observed.keys();
        match class {
            None => keys.answered(key, now),
            Some(class) => keys.failed(key, class, now, rules.retry_after_ms_max),
        }
        keys.pick(now).is_ok_and(|next| next != key)
    }

    /// Notes what the provider says is left for a key after a call of so many tokens.
    pub(super) fn note_left(&self, key: usize, left: &[Left], tokens: u64, now: Timestamp, rules: &Rules) {
        if let Some(quota) = self.observed.quotas().get_mut(key) {
            quota.note(left, tokens, now, rules.retry_after_ms_max);
        }
    }

    /// When a call with the key of now may begin by what the provider said is left.
    pub(super) fn quota_turn(&self, now: Timestamp) -> Timestamp {
        let key = self.key_now(now).unwrap_or_default();
        self.observed.quotas().get_mut(key).map_or(now, |quota| quota.turn(now))
    }

    /// Whether the provider's retry budget has one left; takes it.
    pub(super) fn may_retry(&self, now: Timestamp) -> bool {
        self.observed.budget().withdraw(now)
    }

    /// A request's first call earns retries for all.
    pub(super) fn earn_retries(&self, now: Timestamp) {
        self.observed.budget().deposit(now);
    }
}

impl Work<'_> {
    /// Whether a failure is held against the request.
    pub(super) fn excuse(&self, attempt: &mut Attempt, seen: Seen) {
        if let Seen::Failure(class) = seen {
            let last_success = self.shop.observed.last_success(&attempt.model);
            attempt.excused = retry::is_excused(class, attempt.started_at, last_success);
        }
    }

    /// Notes what a call says about its target.
    pub(super) async fn note_health(&mut self, provider: &str, model: &str, seen: Seen) {
        let now = tollgate_bus::now();
        let observed = &self.shop.observed;
        let health = &self.context.health;
        let (is_alive, class) = match seen {
            Seen::Nothing => return,
            Seen::Answer => (true, None),
            Seen::Failure(class) => match class.rule().health {
                Health::Alive => (true, Some(class)),
                Health::Failing if !class.rule().is_of_key || self.shop.is_last_key(now) => {
                    (false, Some(class))
                }
                Health::Failing | Health::Unknown => return,
                Health::Paused => {
                    return self.pause(class, now).await;
                }
            },
        };
        let outcome = if is_alive { Outcome::Success } else { Outcome::Failure };
        let trips = observed.note(model, outcome, now);
        let code = class.map(Class::code);
        if let Some(probe) = self.permit.take() {
            let target = Target { provider: provider.to_owned(), model: model.to_owned() };
            let ended = Ended {
                is_answered: is_alive,
                code,
                now,
                chance: super::chance(),
                max_in_flight: self.shop.max_in_flight,
            };
            health.probed(&target, probe, ended).await;
        } else if trips && let Some(code) = code {
            health.trip(provider, model, code, now, super::chance()).await;
        }
    }

    /// The provider asks for a pause that no other key helps against: nobody calls it until then.
    async fn pause(&self, class: Class, now: Timestamp) {
        if !self.shop.is_last_key(now) {
            return;
        }
        let pause_ms = match class {
            Class::Throttled { retry_after_ms: Some(wish) } if wish > retry::QUICK_DELAY_MS_MAX => {
                wish.min(self.context.settings.rules.retry_after_ms_max)
            }
            // During recovery the permit of a call that was only throttled is free again at once: the next call is not.
            _ if self.permit.is_some() => {
                let is_throttled = |attempt: &&Attempt| attempt.code == Some(ErrorCode::ProviderThrottled);
                let before = self.history.iter().rev().take_while(is_throttled).count();
                retry::recovery_pause_ms(before, super::chance())
            }
            _ => return,
        };
        let until = retry::later(now, pause_ms, Timestamp::MAX_UTC);
        self.context.health.throttle(&self.shop.name, until, now).await;
    }
}
