//! Usage and lifecycle events, with CloudEvents headers (NATS binding, binary mode).

use async_nats::HeaderMap;
use tollgate_protocol::Timestamp;
use tollgate_protocol::event::{BudgetEvent, LifecycleEvent, ProviderEvent};
use tollgate_protocol::header::Headers;
use tollgate_protocol::usage::{CE_TYPE, UsageEvent};

use crate::publish::{EXPECTED_LAST, PublishError, Published};
use crate::retry::Patience;
use crate::{Bus, headers};

/// The stream of usage events, without its prefix.
pub const USAGE: &str = "USAGE";
/// The stream of lifecycle events, without its prefix.
pub const EVENT: &str = "EVENT";

/// Events that are looked at together.
const SCAN_BATCH: usize = 500;
const SCAN_BYTES_MAX: usize = 4 * 1024 * 1024;

impl Bus {
    /// Stores a usage event. The same event twice is stored twice at most, and counted once.
    pub async fn publish_usage(
        &self,
        event: &UsageEvent,
        source: &str,
        traceparent: Option<&str>,
    ) -> Result<Published, PublishError> {
        let subject = self.subjects().usage(
            &event.team,
            event.provider.as_deref().unwrap_or("_"),
            event.model.as_deref().unwrap_or("_"),
        );
        let ce_id = event.ce_id();
        let mut map = cloud_event(CE_TYPE, source, &ce_id, &event.time, &event.identity().to_string());
        if let Some(traceparent) = traceparent {
            headers::put(&mut map, tollgate_protocol::header::TRACEPARENT, traceparent);
        }
        let payload = encode(event)?;
        self.publish(&subject, map, Some(&event.message_id()), payload, Patience::PAID).await
    }

    /// Stores a lifecycle event. It informs; nothing depends on it, so a failure is only logged.
    pub async fn publish_event(&self, event: &LifecycleEvent, source: &str, message_id: &str) {
        let subject = self.subjects().event(&event.team, event.kind.as_str());
        let identity = format!("{}.{}.{}", event.team, event.group, event.id);
        let kind = format!("dev.tollgate.event.{}.v1", event.kind.as_str());
        let map = cloud_event(&kind, source, message_id, &event.time, &identity);
        let Ok(payload) = encode(event) else { return };
        if let Err(error) = self.publish(&subject, map, Some(message_id), payload, Patience::NORMAL).await {
            tracing::warn!(%error, kind = event.kind.as_str(), "lifecycle event was not stored");
        }
    }
}

impl Bus {
    /// Stores an event about a provider. It informs; nothing depends on it.
    pub async fn publish_provider_event(&self, event: &ProviderEvent) {
        let kind = event.kind.as_str();
        let subject = self.subjects().provider_event(kind);
        let id = format!("{}.{kind}.{}", event.provider, event.time.timestamp_micros());
        let ce_type = format!("dev.tollgate.event.{kind}.v1");
        let map = cloud_event(&ce_type, "tollgate/health", &id, &event.time, &event.provider);
        let Ok(payload) = encode(event) else { return };
        if let Err(error) = self.publish(&subject, map, Some(&id), payload, Patience::NORMAL).await {
            tracing::warn!(%error, kind, "provider event was not stored");
        }
    }
}

/// How an event about a budget was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alerted {
    /// It is stored now.
    Now,
    /// It was stored before.
    Before,
}

impl Bus {
    /// Stores an event about a budget once, however often it is tried and by whom: it is looked for from `since` on, and
    /// written only if nothing came after what was seen. Nobody can see that from its id alone: a server remembers ids for
    /// seconds.
    pub async fn alert(&self, event: &BudgetEvent, since: Timestamp) -> Result<Alerted, String> {
        let kind = event.kind.as_str();
        let subject = self.subjects().budget_event(event.team.as_ref(), kind);
        let stream = self.subjects().stream(EVENT);
        let id = event.ce_id();
        // From the leader, and before the search: what is stored later makes the write fail.
        let last = self.last_stored(&stream, &subject).await.map_err(|error| error.to_string())?;
        let is_to_be_seen = last.as_ref().is_some_and(|last| last.stored_at >= since);
        let last = last.map_or(0, |last| last.source.sequence);
        let mut seen = 0;
        let mut found = self.scan_since(&stream, &subject, since, SCAN_BATCH, SCAN_BYTES_MAX).await;
        loop {
            let batch = found.map_err(|error| error.to_string())?;
            if batch.iter().any(|stored| stored.header_view().get("ce-id") == Some(id.as_str())) {
                return Ok(Alerted::Before);
            }
            seen = batch.last().map_or(seen, |stored| stored.source.sequence);
            if seen >= last || batch.is_empty() {
                break;
            }
            found = self.scan(&stream, &subject, seen + 1, SCAN_BATCH, SCAN_BYTES_MAX).await;
        }
        if is_to_be_seen && seen < last {
            return Err("the copy that was read lags behind".into());
        }
        let ce_type = format!("dev.tollgate.event.{kind}.v1");
        let mut map = cloud_event(&ce_type, "tollgate/ledger", &id, &event.time, &event.budget);
        headers::put(&mut map, EXPECTED_LAST, &last.to_string());
        let payload = encode(event).map_err(|error| error.to_string())?;
        let stored = self.publish(&subject, map, None, payload, Patience::NORMAL).await;
        stored.map(|_| Alerted::Now).map_err(|error| error.to_string())
    }
}

fn encode<T: serde::Serialize>(event: &T) -> Result<bytes::Bytes, PublishError> {
    serde_json::to_vec(event)
        .map(Into::into)
        .map_err(|error| PublishError::Refused { code: 0, description: error.to_string() })
}

fn cloud_event(
    kind: &str,
    source: &str,
    id: &str,
    time: &tollgate_protocol::Timestamp,
    subject: &str,
) -> HeaderMap {
    let time = time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    headers::headers([
        ("ce-specversion", "1.0"),
        ("ce-type", kind),
        ("ce-source", source),
        ("ce-id", id),
        ("ce-time", &time),
        ("ce-subject", subject),
        ("ce-datacontenttype", "application/json"),
        ("Content-Type", "application/json"),
    ])
}
