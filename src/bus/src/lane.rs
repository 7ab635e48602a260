//! How a lane stands: what waits there by team, and how far its consumer has come.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tollgate_protocol::Sequence;

use crate::Bus;
use crate::publish::ReplyError;
use crate::pull::PullFrom;
use crate::scan::ScanError;

/// A lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Messages by subject, those that were delivered and not acknowledged among them.
    pub stored: BTreeMap<String, u64>,
    /// The last message that was delivered to anybody.
    pub delivered: Sequence,
    /// How many were not.
    pub pending: u64,
    /// The last message of the stream.
    pub last: Sequence,
}

#[derive(Deserialize)]
struct StreamReply {
    state: Option<StreamState>,
    error: Option<ReplyError>,
}

#[derive(Deserialize)]
struct StreamState {
    last_seq: Sequence,
    // The server leaves it out, or says null, if there is nothing.
    subjects: Option<BTreeMap<String, u64>>,
}

#[derive(Deserialize)]
struct ConsumerReply {
    delivered: Option<Delivered>,
    #[serde(default)]
    num_pending: u64,
    error: Option<ReplyError>,
}

#[derive(Deserialize)]
struct Delivered {
    stream_seq: Sequence,
}

impl Bus {
    /// How a lane stands. The server names 100,000 subjects at most.
    pub async fn lane(&self, from: &PullFrom) -> Result<Standing, ScanError> {
        let name = from.consumer.durable_name.as_deref().unwrap_or_default();
        let ask = serde_json::json!({"subjects_filter": from.consumer.filter_subject});
        let stream: StreamReply = self.api(&format!("STREAM.INFO.{}", from.stream), ask.to_string()).await?;
        let consumer: ConsumerReply =
            self.api(&format!("CONSUMER.INFO.{}.{name}", from.stream), String::new()).await?;
        match (stream.state, consumer.delivered) {
            (Some(state), Some(delivered)) => Ok(Standing {
                stored: state.subjects.unwrap_or_default(),
                delivered: delivered.stream_seq,
                pending: consumer.num_pending,
                last: state.last_seq,
            }),
            _ => {
                let error = stream.error.or(consumer.error).map(|error| error.description);
                Err(ScanError::of(error.unwrap_or_else(|| "the answer is not whole".to_owned())))
            }
        }
    }

    async fn api<T: DeserializeOwned>(&self, verb: &str, ask: String) -> Result<T, ScanError> {
        let reply =
            self.client().request(format!("$JS.API.{verb}"), ask.into()).await.map_err(ScanError::of)?;
        serde_json::from_slice(&reply.payload).map_err(ScanError::of)
    }
}
