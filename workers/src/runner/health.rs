//! What calls say about their targets, noted where others see it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
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
    /// Who waits for what a provider said is left, one after the other: the first looks for all.
    queue: tokio::sync::Mutex<()>,
    /// A call has ended, so that more may be known of that.
    heard: watch::Sender<()>,
}

impl Observed {
    /// Of a provider with so many keys.
    pub(super) fn new(keys: usize) -> Self {
        Self {
            windows: Mutex::default(),
            budget: Mutex::default(),
            keys: Mutex::new(KeyRing::new(keys)),
            quotas: Mutex::new(vec![Quota::default(); keys.max(1)]),
            queue: tokio::sync::Mutex::default(),
            heard: watch::Sender::default(),
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

    /// Begins a call with the key of now, by what the provider said is left for it.
    fn begin(&self, now: Timestamp) -> Result<(), Timestamp> {
        let key = self.keys().pick(now).unwrap_or_default();
        self.quotas().get_mut(key).map_or(Ok(()), |quota| quota.begin(now))
    }

    /// Waits until a call may begin by what the provider said is left, in the order in which it is asked for. With a `most`
    /// it begins after that in any case.
    async fn wait_for_quota(&self, most: Option<Duration>) {
        let Some(most) = most else { return self.wait_for_distance().await };
        let _ = tokio::time::timeout(most, self.wait_for_distance()).await;
    }

    async fn wait_for_distance(&self) {
        let _first = self.queue.lock().await;
        let mut heard = self.heard.subscribe();
        loop {
            let now = tollgate_bus::now();
            let Err(at) = self.begin(now) else { return };
            tokio::select! {
                () = tokio::time::sleep((at - now).to_std().unwrap_or_default()) => {}
                _ = heard.changed() => {}
            }
        }
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
            quota.note(left, tokens, now, rules.retry_after_ms_max, self.max_in_flight);
        }
        // Also if nothing is said: another key may be the one to use now.
        self.observed.heard.send_replace(());
    }

    /// Waits until a call may begin by what the provider said is left, or for so long.
    pub(super) async fn wait_for_quota(&self, most: Option<Duration>) {
        self.observed.wait_for_quota(most).await;
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
            attempt.excused = retry::is_excused(class, attempt, &self.history, last_success);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn left(remaining: u64) -> [Left; 1] {
        [Left { is_of_tokens: false, limit: 600, remaining, full_in_ms: 600 * 300_000 }]
    }

    /// One low answer holds nobody longer than it takes until a better one is here.
    #[tokio::test]
    async fn who_waits_goes_on_when_an_answer_says_that_there_is_plenty() {
        let observed = Arc::new(Observed::new(1));
        let note = |remaining| {
            let mut quotas = observed.quotas();
            quotas[0].note(&left(remaining), 1, tollgate_bus::now(), 300_000, 8);
            drop(quotas);
            observed.heard.send_replace(());
        };
        note(0);
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let observed = Arc::clone(&observed);
            waiting.spawn(async move { observed.wait_for_quota(None).await });
        }
        let (soon, in_time) = (Duration::from_millis(100), Duration::from_secs(20));
        assert!(tokio::time::timeout(soon, waiting.join_next()).await.is_err(), "nothing is left");
        note(2);
        for _ in 0..2 {
            tokio::time::timeout(in_time, waiting.join_next()).await.unwrap().unwrap().unwrap();
        }
        assert!(tokio::time::timeout(soon, waiting.join_next()).await.is_err(), "two were left");
        note(500);
        tokio::time::timeout(in_time, waiting.join_all()).await.unwrap();
    }

    /// What was said before an outage may be for longer than a stage of recovery lives, and only an answer says more.
    #[tokio::test]
    async fn a_probe_does_not_wait_out_what_was_said_before() {
        let observed = Observed::new(1);
        observed.quotas()[0].note(&left(0), 1, tollgate_bus::now(), 300_000, 8);
        let in_time = Duration::from_secs(20);
        let probe = observed.wait_for_quota(Some(Duration::from_millis(1)));
        tokio::time::timeout(in_time, probe).await.unwrap();
        let others = observed.wait_for_quota(None);
        assert!(
            tokio::time::timeout(Duration::from_millis(20), others).await.is_err(),
            "they keep the distance"
        );
    }
}
