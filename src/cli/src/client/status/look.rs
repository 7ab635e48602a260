//! Asks the server what there is. Counts are taken from where they cost the server little: subject counts
//! of the request stream, numbers of consumers, and for responses the pending count of one direct get.

use std::time::Duration;

use async_nats::jetstream::consumer;
use async_nats::jetstream::stream::Stream;
use futures_util::{StreamExt, TryStreamExt};
use serde::Deserialize;
use tollgate_bus::bucket::CONFIG;
use tollgate_bus::topology::{REQUESTS, RETRY};
use tollgate_bus::{Bus, event, record};
use tollgate_health::Health;
use tollgate_protocol::Priority;
use tollgate_protocol::applied::KEY;

use super::{Dispatch, Roles, Server, Status, Waiting};
use crate::client::config::kept;
use crate::client::stored;
use crate::failure::Failure;

const PING_WAIT: Duration = Duration::from_millis(400);

/// The state of an installation now.
pub(crate) async fn look(bus: &Bus) -> Result<Status, Failure> {
    let info = bus.client().server_info();
    let mut status = Status {
        server: Server { name: info.server_name, version: info.version, store_bytes: None },
        ..Status::default()
    };
    status.server.store_bytes = bus.jetstream().query_account().await.ok().map(|account| account.storage);
    let requests = stream(bus, REQUESTS, &mut status).await;
    if let Some(requests) = requests {
        status.waiting = waiting(bus, &requests).await;
        let lanes = consumers(&requests).await;
        status.waiting.in_routers = lanes.iter().map(|lane| lane.num_ack_pending as u64).sum();
        status.roles.router_pulls = lanes.iter().map(|lane| lane.num_waiting as u64).sum();
    }
    if let Some(retry) = stream(bus, RETRY, &mut status).await {
        status.retry = retry.cached_info().state.messages;
    }
    if let Some(record) = stream(bus, record::STREAM, &mut status).await {
        let name = &record.cached_info().config.name;
        status.responses = stored::count(bus, name, &bus.subjects().responses()).await.unwrap_or(0);
    }
    if let Some(usage) = stream(bus, event::USAGE, &mut status).await {
        status.usage_events = usage.cached_info().state.messages;
        let readers = consumers(&usage).await;
        let behind = |reader: &consumer::Info| reader.num_pending + reader.num_ack_pending as u64;
        status.usage_lag = readers.iter().map(behind).min();
        status.roles.ledger_pulls = readers.iter().map(|reader| reader.num_waiting as u64).sum();
    }
    stream(bus, event::EVENT, &mut status).await;
    status.dispatch = dispatch(bus).await?;
    status.roles.worker_pulls = status.dispatch.iter().map(|provider| provider.idle_pulls).sum();
    (status.roles.services, status.in_use) = tokio::join!(services(bus), kept::in_use(bus));
    // A broker of an older version has no such bucket.
    let applied = bus.version(CONFIG, KEY, None).await.ok().flatten();
    status.config = applied.filter(|version| version.value.is_some()).map(|version| version.revision);
    Ok(status)
}

async fn stream(bus: &Bus, kind: &str, status: &mut Status) -> Option<Stream> {
    let name = bus.subjects().stream(kind);
    match bus.jetstream().get_stream(&name).await {
        Ok(stream) => Some(stream),
        Err(error) => {
            tracing::debug!(stream = name, %error, "no such stream");
            status.missing_streams.push(name);
            None
        }
    }
}

async fn consumers(stream: &Stream) -> Vec<consumer::Info> {
    stream.consumers().try_collect().await.unwrap_or_default()
}

async fn waiting(bus: &Bus, requests: &Stream) -> Waiting {
    let mut waiting = Waiting::default();
    let Ok(subjects) = requests.info_with_subjects(bus.subjects().under("lane.>")).await else {
        return waiting;
    };
    let counts: Vec<(String, usize)> = subjects.try_collect().await.unwrap_or_default();
    for (subject, count) in counts {
        let Some((priority, _)) = bus.subjects().parse_lane(&subject) else { continue };
        let of = match priority {
            Priority::High => &mut waiting.high,
            Priority::Normal => &mut waiting.normal,
            Priority::Low => &mut waiting.low,
        };
        *of += count as u64;
    }
    waiting
}

/// Each provider that has a stream, and its name.
pub(crate) async fn dispatch_streams(bus: &Bus) -> Result<Vec<(String, String)>, Failure> {
    let names: Vec<String> = bus
        .jetstream()
        .stream_names()
        .try_collect()
        .await
        .map_err(|error| Failure::failed(format!("the server does not list its streams: {error}")))?;
    let of = |name: String| Some((bus.subjects().parse_dispatch_stream(&name)?.to_owned(), name));
    Ok(names.into_iter().filter_map(of).collect())
}

/// The work of each provider, and whether it rests.
pub(crate) async fn dispatch(bus: &Bus) -> Result<Vec<Dispatch>, Failure> {
    let mut dispatch = Vec::new();
    let health = Health::new(bus);
    let loaded = health.load().await;
    if let Err(error) = &loaded {
        tracing::debug!(error, "the health of the providers cannot be read");
    }
    let (providers, now) = (health.all().0, tollgate_bus::now());
    for (provider, name) in dispatch_streams(bus).await? {
        let Ok(stream) = bus.jetstream().get_stream(&name).await else { continue };
        let workers = consumers(&stream).await;
        let in_flight = workers.iter().map(|worker| worker.num_ack_pending as u64).sum();
        let known = providers.iter().find(|(name, _)| *name == provider).map(|(_, known)| known);
        dispatch.push(Dispatch {
            rest_known: loaded.is_ok(),
            paused_since: known.and_then(|known| known.paused_since),
            throttled_until: known.and_then(|known| known.throttled_until).filter(|until| *until > now),
            provider,
            waiting: stream.cached_info().state.messages.saturating_sub(in_flight),
            in_flight,
            max_in_flight: workers.iter().map(|worker| worker.config.max_ack_pending).max(),
            idle_pulls: workers.iter().map(|worker| worker.num_waiting as u64).sum(),
        });
    }
    dispatch.sort_by(|one, other| one.provider.cmp(&other.provider));
    Ok(dispatch)
}

#[derive(Deserialize)]
struct Pong {
    name: String,
    version: String,
}

/// Services that answer within a moment; each once, however many instances it has.
async fn services(bus: &Bus) -> Vec<String> {
    let client = bus.client();
    let inbox = client.new_inbox();
    let Ok(mut pongs) = client.subscribe(inbox.clone()).await else { return Vec::new() };
    if client.publish_with_reply("$SRV.PING", inbox, "".into()).await.is_err() {
        return Vec::new();
    }
    let mut names = std::collections::BTreeMap::<String, u32>::new();
    let listening = async {
        while let Some(pong) = pongs.next().await {
            if pong.status.is_some() {
                break;
            }
            if let Ok(pong) = serde_json::from_slice::<Pong>(&pong.payload) {
                *names.entry(format!("{} {}", pong.name, pong.version)).or_default() += 1;
            }
        }
    };
    // Nobody says how many will answer, so listening ends with the time.
    let _ = tokio::time::timeout(PING_WAIT, listening).await;
    names
        .into_iter()
        .map(|(name, count)| if count > 1 { format!("{name} ({count} times)") } else { name })
        .collect()
}

/// Whether somebody waits for work in each role; for `doctor`.
impl Roles {
    /// The roles that nobody seems to play.
    pub(crate) fn absent(&self) -> Vec<&'static str> {
        [("router", self.router_pulls), ("worker", self.worker_pulls), ("ledger", self.ledger_pulls)]
            .into_iter()
            .filter(|(_, pulls)| *pulls == 0)
            .map(|(role, _)| role)
            .collect()
    }
}
