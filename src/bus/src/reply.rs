//! Replies to inboxes: an extra, never the proof. The stored response is.

use async_nats::HeaderMap;
use bytes::Bytes;

use crate::Bus;

impl Bus {
    /// Sends to an inbox, if there still is anybody. The subject was checked to be an inbox when the
    /// request was read.
    pub async fn reply(&self, inbox: &str, headers: HeaderMap, payload: Bytes) {
        if payload.len() > self.connection().max_payload() {
            tracing::warn!(size = payload.len(), "reply is too large; the stored response has it");
            return;
        }
        if let Err(error) = self.client().publish_with_headers(inbox.to_owned(), headers, payload).await {
            tracing::debug!(%error, "reply was not sent");
        }
    }
}
