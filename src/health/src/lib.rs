//! The health of all targets, shared by all processes through a key-value bucket.
//!
//! Each process watches the bucket and decides by its copy. Changes are compare-and-swap writes, so that of many who
//! see the same failure one opens the breaker and tells it. Without the bucket everybody goes on with what was known.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_nats::jetstream::kv::Operation;
use futures_util::StreamExt;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tollgate_bus::{Bus, topology};
use tollgate_policy::health::{Availability, Breaker, Probe, ProviderHealth, TargetHealth, availability};
use tollgate_policy::retry::Standing;
use tollgate_protocol::event::{ProviderEvent, ProviderKind};
use tollgate_protocol::job::Target;
use tollgate_protocol::{ErrorCode, Sequence, Timestamp};

mod bucket;

pub use bucket::ensure;
use bucket::{Swapped, read, store, target_key};

/// Tries of one change: other processes may be faster each time.
const TRIES_MAX: usize = 20;
/// How long a start waits for what is known.
const LOAD_WAIT: Duration = Duration::from_secs(3);
/// How soon a watch that broke is begun again.
const WATCH_AGAIN: Duration = Duration::from_millis(500);

/// Everything that is known, with the revision of each document.
#[derive(Debug, Default)]
struct Known {
    providers: HashMap<String, (ProviderHealth, Sequence)>,
    targets: HashMap<(String, String), (TargetHealth, Sequence)>,
}

/// The shared health, as this process knows it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Health {
    bus: Bus,
    known: Arc<RwLock<Known>>,
    changes: Arc<watch::Sender<u64>>,
    /// One change at a time: those of this process need not race each other.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// What changing a document came to.
enum Changed {
    /// It is written.
    Written,
    /// There was nothing to change.
    Same,
    /// The bucket did not answer, or others were faster every time.
    Failed,
}

impl Health {
    /// Nothing is known before [`Health::run`] has read the bucket.
    pub fn new(bus: &Bus) -> Self {
        Self {
            bus: bus.clone(),
            known: Arc::default(),
            changes: Arc::new(watch::Sender::new(0)),
            turn: Arc::default(),
        }
    }

    /// Follows the bucket until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        loop {
            let watched = tokio::select! {
                () = stop.cancelled() => return,
                watched = self.watch() => watched,
            };
            if let Err(error) = watched {
                tracing::debug!(error, "the health of the targets cannot be followed, trying again");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(WATCH_AGAIN) => {}
            }
        }
    }

    async fn watch(&self) -> Result<(), String> {
        let disconnections = self.bus.connection().health().disconnections;
        let store = store(&self.bus).await?;
        let mut entries = store.watch_with_history(">").await.map_err(|error| error.to_string())?;
        loop {
            let entry = tokio::select! {
                entry = entries.next() => entry,
                // A server that was restarted may have forgotten that somebody watches.
                () = self.bus.connection().reconnected_since(disconnections) => return Ok(()),
            };
            let Some(entry) = entry else { return Ok(()) };
            let entry = entry.map_err(|error| error.to_string())?;
            match entry.operation {
                Operation::Put => self.note(&entry.key, &entry.value, entry.revision),
                // Somebody wants to begin anew.
                Operation::Delete | Operation::Purge => self.forget(&entry.key),
            }
        }
    }

    /// Reads the bucket once, for who does not follow it.
    pub async fn load(&self) -> Result<(), String> {
        let store = store(&self.bus).await?;
        let mut keys = store.keys().await.map_err(|error| error.to_string())?;
        while let Some(key) = keys.next().await {
            let key = key.map_err(|error| error.to_string())?;
            if let Some(entry) = store.entry(&key).await.map_err(|error| error.to_string())? {
                self.note(&key, &entry.value, entry.revision);
            }
        }
        Ok(())
    }

    /// Reads the bucket before anything is decided by it. One that does not answer soon holds nothing up.
    pub async fn load_soon(&self) {
        match tokio::time::timeout(LOAD_WAIT, self.load()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error, "the health of the targets is not known yet"),
            Err(_) => tracing::warn!("the health of the targets is not known yet: no answer"),
        }
    }

    fn note(&self, key: &str, value: &[u8], revision: Sequence) {
        if let Some(provider) = key.strip_prefix("provider.") {
            if let Some(health) = read(key, value) {
                self.note_provider(provider, health, revision);
            }
        } else if let Some(health) = read::<TargetHealth>(key, value) {
            self.note_target(health, revision);
        }
    }

    /// A document is there no more, or is in a new bucket that counts from one again.
    fn forget(&self, key: &str) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.providers.retain(|provider, _| format!("provider.{provider}") != key);
        known.targets.retain(|(provider, model), _| target_key(provider, model) != key);
        drop(known);
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn note_provider(&self, provider: &str, health: ProviderHealth, revision: Sequence) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.providers.get(provider).is_none_or(|(_, last)| *last < revision) {
            known.providers.insert(provider.to_owned(), (health, revision));
            drop(known);
            self.changes.send_modify(|changes| *changes += 1);
        }
    }

    fn note_target(&self, health: TargetHealth, revision: Sequence) {
        let key = (health.provider.clone(), health.model.clone());
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.targets.get(&key).is_none_or(|(_, last)| *last < revision) {
            known.targets.insert(key, (health, revision));
            drop(known);
            self.changes.send_modify(|changes| *changes += 1);
        }
    }

    /// Told of each change.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether a target can be called.
    pub fn availability(&self, provider: &str, model: &str, now: Timestamp) -> Availability {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let of_provider = known.providers.get(provider).map(|(health, _)| health);
        // Nothing has failed: the usual case, without building a key.
        let target = match known.targets.is_empty() {
            true => None,
            false => known.targets.get(&(provider.to_owned(), model.to_owned())).map(|(health, _)| health),
        };
        availability(of_provider, target, now)
    }

    /// Whether a call may be made now: its target is up, or it has a permit.
    pub fn may_call(&self, provider: &str, model: &str, probe: Option<Probe>, now: Timestamp) -> bool {
        match self.availability(provider, model, now) {
            Availability::Up => true,
            Availability::Probe | Availability::Down { .. } => {
                let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
                let of_provider = known.providers.get(provider).map(|(health, _)| health);
                let target = known.targets.get(&(provider.to_owned(), model.to_owned()));
                availability(of_provider, None, now) == Availability::Up
                    && probe.is_some_and(|probe| target.is_some_and(|(health, _)| health.is_current(probe)))
            }
        }
    }

    /// Targets, as they stand now.
    pub fn standings<'a>(&self, targets: &'a [Target], now: Timestamp) -> Vec<Standing<'a>> {
        let standing = |target: &'a Target| Standing {
            provider: &target.provider,
            model: &target.model,
            is_up: self.availability(&target.provider, &target.model, now) == Availability::Up,
        };
        targets.iter().map(standing).collect()
    }

    /// Everything that is known of providers and targets.
    pub fn all(&self) -> (Vec<(String, ProviderHealth)>, Vec<TargetHealth>) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut providers: Vec<_> =
            known.providers.iter().map(|(name, (health, _))| (name.clone(), health.clone())).collect();
        let mut targets: Vec<_> = known.targets.values().map(|(health, _)| health.clone()).collect();
        providers.sort_by(|one, other| one.0.cmp(&other.0));
        targets.sort_by(|one, other| (&one.provider, &one.model).cmp(&(&other.provider, &other.model)));
        (providers, targets)
    }

    /// Takes a permit to call a target that is not known to be up.
    pub async fn grant(&self, provider: &str, model: &str, now: Timestamp) -> Option<Probe> {
        let mut permit = None;
        let changed = self
            .change_target(provider, model, now, |health| {
                let (next, probe) = health.grant(now)?;
                permit = Some(probe);
                Some(next)
            })
            .await;
        permit.filter(|_| matches!(changed, Changed::Written))
    }

    /// A permit was not used.
    pub async fn give_back(&self, target: &Target, probe: Probe, now: Timestamp) {
        self.change_target(&target.provider, &target.model, now, |health| health.give_back(probe)).await;
    }

    /// A permitted call has ended.
    pub async fn probed(&self, target: &Target, probe: Probe, ended: Ended) {
        let Ended { is_answered, code, now, chance, max_in_flight } = ended;
        let (provider, model) = (target.provider.as_str(), target.model.as_str());
        let mut is_up = false;
        let changed = self
            .change_target(provider, model, now, |health| {
                let next = health.probed(probe, is_answered, code, now, chance, max_in_flight)?;
                is_up = next.breaker == Breaker::Closed;
                Some(next)
            })
            .await;
        if matches!(changed, Changed::Written) && is_up {
            tracing::info!(provider, model, "the target is up again");
            self.tell(ProviderKind::ProviderUp, provider, Some(model), None, None, now).await;
        }
    }

    /// Too many calls of a target failed.
    pub async fn trip(&self, provider: &str, model: &str, code: ErrorCode, now: Timestamp, chance: u64) {
        let mut until = None;
        let changed = self
            .change_target(provider, model, now, |health| {
                let next = health.trip(code, now, chance)?;
                if let Breaker::Open { until: next_probe, .. } = next.breaker {
                    until = Some(next_probe);
                }
                Some(next)
            })
            .await;
        if matches!(changed, Changed::Written) {
            tracing::warn!(provider, model, %code, "the target is down");
            self.tell(ProviderKind::ProviderDown, provider, Some(model), Some(code), until, now).await;
        }
    }

    /// A provider asked not to be called before `until`.
    pub async fn throttle(&self, provider: &str, until: Timestamp, now: Timestamp) {
        let changed = self.change_provider(provider, |health| health.throttle(until)).await;
        if matches!(changed, Changed::Written) {
            let code = Some(ErrorCode::ProviderThrottled);
            self.tell(ProviderKind::ProviderThrottled, provider, None, code, Some(until), now).await;
        }
    }

    /// Stops all calls of a provider, or has them go on. `false`: the bucket did not answer.
    pub async fn set_paused(&self, provider: &str, is_paused: bool, now: Timestamp) -> bool {
        let changed = self
            .change_provider(provider, |health| {
                let paused_since = is_paused.then_some(now);
                (health.paused_since.is_some() != is_paused)
                    .then(|| ProviderHealth { paused_since, ..health.clone() })
            })
            .await;
        if matches!(changed, Changed::Written) {
            let kind = if is_paused { ProviderKind::ProviderPaused } else { ProviderKind::ProviderResumed };
            self.tell(kind, provider, None, None, None, now).await;
        }
        !matches!(changed, Changed::Failed)
    }

    async fn change_target(
        &self,
        provider: &str,
        model: &str,
        now: Timestamp,
        change: impl FnMut(&TargetHealth) -> Option<TargetHealth>,
    ) -> Changed {
        let id = (provider.to_owned(), model.to_owned());
        let known = |known: &Known| known.targets.get(&id).cloned();
        let new = || TargetHealth::unknown(provider, model, now);
        let note = |health, revision| self.note_target(health, revision);
        self.change(&target_key(provider, model), known, new, note, change).await
    }

    async fn change_provider(
        &self,
        provider: &str,
        change: impl FnMut(&ProviderHealth) -> Option<ProviderHealth>,
    ) -> Changed {
        let known = |known: &Known| known.providers.get(provider).cloned();
        let note = |health, revision| self.note_provider(provider, health, revision);
        self.change(&format!("provider.{provider}"), known, ProviderHealth::default, note, change).await
    }

    /// Changes a document by compare-and-swap, as often as others are faster.
    async fn change<T: Serialize>(
        &self,
        key: &str,
        known: impl Fn(&Known) -> Option<(T, Sequence)>,
        new: impl Fn() -> T,
        note: impl Fn(T, Sequence),
        mut change: impl FnMut(&T) -> Option<T>,
    ) -> Changed {
        let _turn = self.turn.lock().await;
        let mut gone_at = 0;
        for _ in 0..TRIES_MAX {
            let known = known(&self.known.read().unwrap_or_else(PoisonError::into_inner));
            let (health, revision) = known.unwrap_or_else(|| (new(), gone_at));
            let Some(next) = change(&health) else { return Changed::Same };
            match self.swap(key, &next, revision).await {
                Swapped::Written(revision) => {
                    note(next, revision);
                    return Changed::Written;
                }
                Swapped::Other(value, revision) => self.note(key, &value, revision),
                Swapped::Gone(revision) => {
                    self.forget(key);
                    gone_at = revision;
                }
                Swapped::Failed => return Changed::Failed,
            }
        }
        Changed::Failed
    }

    async fn tell(
        &self,
        kind: ProviderKind,
        provider: &str,
        model: Option<&str>,
        code: Option<ErrorCode>,
        until: Option<Timestamp>,
        now: Timestamp,
    ) {
        let event = ProviderEvent {
            kind,
            provider: provider.to_owned(),
            model: model.map(str::to_owned),
            code,
            waiting: waiting_for(&self.bus, provider).await,
            until,
            time: now,
        };
        self.bus.publish_provider_event(&event).await;
    }
}

/// How a permitted call ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Whether the target answered.
    pub is_answered: bool,
    /// What it failed with.
    pub code: Option<ErrorCode>,
    /// When.
    pub now: Timestamp,
    /// A random number.
    pub chance: u64,
    /// The provider's places.
    pub max_in_flight: u32,
}

/// How many requests wait for a provider, as far as that can be told: those in its stream, and all held ones.
async fn waiting_for(bus: &Bus, provider: &str) -> u64 {
    let mut waiting = 0;
    if let Ok(stream) = bus.jetstream().get_stream(bus.subjects().dispatch_stream(provider)).await {
        waiting += stream.cached_info().state.messages;
    }
    let retry = bus.subjects().stream(topology::RETRY);
    if let Ok(stream) = bus.jetstream().get_stream_no_info(&retry).await
        && let Ok(held) = stream.info_with_subjects(bus.subjects().retry_hold_all()).await
    {
        let counts = held.filter_map(async |count| count.ok().map(|(_, count)| count as u64));
        waiting += counts.fold(0, async |sum, count| sum + count).await;
    }
    waiting
}
