//! One request to its provider's stream.

use std::time::Duration;

use async_nats::HeaderMap;
use tollgate_bus::publish::PublishError;
use tollgate_bus::retry::Patience;
use tollgate_policy::answer::End;
use tollgate_policy::order::Place;
use tollgate_protocol::job::Job;
use tollgate_protocol::response::Status;
use tollgate_protocol::{ErrorCode, Identity, Problem};

use crate::Context;
use crate::gates::Seen;
use crate::intake::Item;

/// How long a dispatch is tried before the item goes back into the order.
const PATIENCE: Patience = Patience(Duration::from_secs(5));

/// A dispatch that is over.
pub(crate) struct Dispatched {
    pub(crate) provider: String,
    pub(crate) priority: tollgate_protocol::Priority,
    pub(crate) seen: Seen,
    /// The item, if it was not taken.
    pub(crate) item: Option<Box<Item>>,
    /// What the stream had already: whoever brought it there hears of its usage.
    pub(crate) repeated: Option<(Identity, Place)>,
}

/// Publishes, and acknowledges the lane's message once the dispatch message is stored.
pub(crate) async fn dispatch(context: &Context, item: Box<Item>) -> Dispatched {
    let (provider, priority) = (item.place.gate.clone(), item.place.priority);
    let subject = context.bus.subjects().dispatch(&provider, priority);
    let published = context
        .bus
        .publish(&subject, HeaderMap::new(), Some(&item.message_id), item.payload.clone(), PATIENCE)
        .await;
    let seen = match published {
        Ok(published) => {
            tollgate_bus::point("router.dispatch.stored");
            let repeated = published.duplicate.then(|| (item.identity.clone(), item.place.clone()));
            item.message.ack().await;
            return Dispatched { provider, priority, seen: Seen::Taken, item: None, repeated };
        }
        Err(PublishError::SubjectFull | PublishError::StreamFull) => Seen::Full,
        // Possible only on a server whose max_payload is smaller than it should be.
        Err(PublishError::TooLarge { .. }) => {
            context.end_oversized(*item).await;
            return Dispatched { provider, priority, seen: Seen::Taken, item: None, repeated: None };
        }
        Err(error) => {
            tracing::warn!(%error, provider, "a provider's stream does not take messages, trying again");
            Seen::Broken
        }
    };
    Dispatched { provider, priority, seen, item: Some(item), repeated: None }
}

impl Context {
    /// A request that no message of the server can carry to a worker.
    async fn end_oversized(&self, item: Item) {
        let Ok(job) = Job::decode(&item.payload) else { return };
        let text = "with what belongs to it, the request is larger than the nats-server's max_payload";
        let problem = Problem::at(ErrorCode::RequestTooLarge, "body", text);
        self.end(item.message, &job, End::Unpaid(Status::Rejected, problem)).await;
    }
}
