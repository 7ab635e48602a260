//! Usage and lifecycle events, with CloudEvents headers (NATS binding, binary mode).

use async_nats::HeaderMap;
use tollgate_protocol::event::{LifecycleEvent, ProviderEvent};
use tollgate_protocol::usage::{CE_TYPE, UsageEvent};

use crate::publish::{PublishError, Published};
use crate::retry::Patience;
use crate::{Bus, headers};

/// The stream of usage events, without its prefix.
pub const USAGE: &str = "USAGE";
/// The stream of lifecycle events, without its prefix.
pub const EVENT: &str = "EVENT";

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
