//! What is published, drawn from the seed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use serde_json::json;

use super::rng::Rng;
use crate::client::Client;
use crate::request::{Encoding, Identity, Request};
use crate::wait::eventually;

/// Several, so that several lanes are busy.
pub(super) const TEAMS: [&str; 3] = ["red", "green", "blue"];

/// Time to live of a request that asks for none here: longer than any run.
const LONG_MS: u64 = 600_000;

/// More than any answer here has.
const MAX_TOKENS: u64 = 16;

/// How long the server may refuse, or be away, altogether.
const STORED_WITHIN: Duration = Duration::from_secs(120);

/// One request, and what is done with it.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) request: Request,
    pub(super) ttl_ms: u64,
    /// Published a second time after so long.
    pub(super) again: Option<Duration>,
    /// Taken back after so long.
    pub(super) cancel: Option<Duration>,
    /// Not to be called before so long after it was published.
    pub(super) not_before: Option<Duration>,
    /// Asked for by plain request/reply, and published only if that is not answered.
    pub(super) ask: bool,
}

impl Planned {
    pub(super) fn draw(n: usize, rng: &mut Rng) -> Self {
        let team = *rng.pick(&TEAMS);
        let priority = *rng.pick(&["high", "normal", "low"]);
        // A model that is not there is rejected by a router.
        let model = if rng.chance(3) {
            "none"
        } else if rng.chance(30) {
            "pair"
        } else {
            "small"
        };
        let encoding = if rng.chance(50) { Encoding::Json } else { Encoding::MessagePack };
        let millis = |rng: &mut Rng, low, high| Duration::from_millis(rng.between(low, high));
        let ttl_ms = if rng.chance(8) { rng.between(1_000, 5_000) } else { LONG_MS };
        let identity = Identity::new(team, "chaos", &format!("r{n}"));
        // What an answer may have is known, so that a budget can be strict.
        let messages = json!([{"role": "user", "content": format!("chaos request {n}")}]);
        let body = json!({"model": model, "max_tokens": MAX_TOKENS, "messages": messages});
        let request =
            Request::with_body(&identity, body).priority(priority).encoding(encoding).field("ttl_ms", ttl_ms);
        let not_before = (ttl_ms == LONG_MS && rng.chance(3)).then(|| millis(rng, 500, 4_000));
        Self {
            request,
            ttl_ms,
            again: rng.chance(5).then(|| millis(rng, 1, 5_000)),
            cancel: rng.chance(4).then(|| millis(rng, 1, 3_000)),
            not_before,
            ask: not_before.is_none() && rng.chance(3),
        }
    }
}

/// What was published and acknowledged: from then on it must be answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Accepted(Arc<Mutex<BTreeSet<Identity>>>);

impl Accepted {
    fn add(&self, identity: &Identity) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(identity.clone());
    }

    pub(super) fn all(&self) -> BTreeSet<Identity> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Publishes a request, and does with it what was drawn; ends when it is accepted and all of that is done.
pub(super) async fn publish(client: Client, planned: Planned, accepted: Accepted) {
    let Planned { mut request, again, cancel, not_before, ask, .. } = planned;
    if let Some(wait) = not_before {
        let at = chrono::Utc::now() + chrono::TimeDelta::from_std(wait).expect("a few seconds");
        request = request.field("not_before", json!(at.to_rfc3339()));
    }
    if ask {
        let subject = request.subject().replacen(".req.", ".ask.", 1);
        let asked = async_nats::Request::new()
            .headers(request.header_map())
            .payload(request.payload())
            .timeout(Some(Duration::from_secs(3)));
        // Whether it was accepted is not known if nothing came back; published again, it is the same request.
        let _ = client.nats().send_request(subject, asked).await;
    }
    until_stored(&client, &request).await;
    accepted.add(&request.identity);
    let repeat = async {
        if let Some(wait) = again {
            tokio::time::sleep(wait).await;
            until_stored(&client, &request).await;
        }
    };
    let take_back = async {
        if let Some(wait) = cancel {
            tokio::time::sleep(wait).await;
            let subject = request.identity.cancel_subject();
            let client = client.clone();
            let look = move || {
                let (client, subject) = (client.clone(), subject.clone());
                async move { client.try_publish_raw(&subject, Default::default(), "").await.ok() }.boxed()
            };
            eventually(STORED_WITHIN, "a cancellation to be stored", look).await;
        }
    };
    tokio::join!(repeat, take_back);
}

/// The same request again is the same request, so whoever got no acknowledgement publishes it again.
async fn until_stored(client: &Client, request: &Request) {
    // Owned by each look, so that a task can have it.
    let (client, request) = (client.clone(), request.clone());
    let look = move || {
        let (client, request) = (client.clone(), request.clone());
        async move { client.try_publish(&request).await.ok() }.boxed()
    };
    eventually(STORED_WITHIN, "a request to be stored", look).await;
}
