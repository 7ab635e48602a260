//! Where a request is that has no answer yet, and what has happened to it.

use serde_json::{Value, json};
use tollgate_bus::scan::Stored;
use tollgate_bus::{Bus, event, topology};
use tollgate_health::Health;
use tollgate_policy::health::Availability;
use tollgate_protocol::header::Headers;
use tollgate_protocol::job::{Job, Target};
use tollgate_protocol::request::{Decoded, Delivered, TTL_MS_MAX, decode};
use tollgate_protocol::{Identity, Sequence};

use super::waits::{self, Asks, Reason};
use crate::failure::Failure;

const BATCH: usize = 500;
const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// So many messages of a queue are looked at: a request deep in a long one is said to be there, not where.
const LOOKED_AT_MAX: usize = 20_000;

/// What was found.
pub(crate) struct Whereabouts {
    /// In words.
    pub(crate) text: String,
    /// For a program.
    pub(crate) json: Value,
    /// What it may wait for there, if that is not in the words already.
    pub(crate) may_wait: Vec<Reason>,
}

impl Whereabouts {
    fn new(text: impl Into<String>, json: Value) -> Self {
        Self { text: text.into(), json, may_wait: Vec::new() }
    }

    fn with(mut self, may_wait: Vec<Reason>) -> Self {
        self.json["may_wait"] = json!(may_wait);
        self.may_wait = may_wait;
        self
    }
}

fn unreadable(error: impl std::fmt::Display) -> Failure {
    Failure::failed(format!("the streams cannot be read: {error}"))
}

/// Looks for a request in everything that waits.
pub(crate) async fn find(bus: &Bus, identity: &Identity) -> Result<Option<Whereabouts>, Failure> {
    let subjects = bus.subjects();
    let retry = subjects.stream(topology::RETRY);
    if let Some(found) =
        bus.last_stored(&retry, &subjects.retry_at_all(identity)).await.map_err(unreadable)?
    {
        let until = found
            .header_view()
            .get("Nats-Schedule")
            .unwrap_or_default()
            .trim_start_matches("@at ")
            .to_owned();
        let text = format!("it waits until {until}{}", parked_for(&found));
        return Ok(Some(Whereabouts::new(text, json!({"state": "parked", "until": until}))));
    }
    let team = &identity.team;
    let is_it = |stored: &Stored| Job::decode(&stored.payload).is_ok_and(|job| job.identity == *identity);
    let hold = subjects.under(&format!("retry.hold.*.*.{team}"));
    if let Some((_, found)) = look(bus, &retry, &hold, is_it).await? {
        return Ok(Some(held(bus, &found).await));
    }
    let due = subjects.under(&format!("retry.due.*.*.{team}"));
    if let Some((_, found)) = look(bus, &retry, &due, is_it).await? {
        let place = Whereabouts::new("it is due, and with the routers", json!({"state": "due"}));
        let Ok(job) = Job::decode(&found.payload) else { return Ok(Some(place)) };
        let asks = Asks::of_job(bus, &job).await;
        return Ok(Some(place.with(waits::reasons(bus, &asks).await)));
    }
    let names = super::status::dispatch_streams(bus).await?;
    for (provider, stream) in names {
        let filter = subjects.dispatch_filter(&provider);
        if let Some((ahead, found)) = look(bus, &stream, &filter, is_it).await? {
            let place = Whereabouts::new(
                format!("it is with the workers of {provider}, who have {ahead} older ones"),
                json!({"state": "dispatched", "provider": provider, "ahead": ahead}),
            );
            let job = Job::decode(&found.payload).ok();
            let target = job.as_ref().and_then(Job::current_target);
            return Ok(Some(match target {
                Some(target) => place.with(waits::of_target(bus, target).await),
                None => place,
            }));
        }
    }
    let lanes = subjects.under(&format!("lane.*.*.{team}"));
    let queued =
        look(bus, &subjects.stream(topology::REQUESTS), &lanes, |stored| match request(bus, stored) {
            Decoded::Request(request) => request.head.identity == *identity,
            Decoded::Rejected(head, _) => head.identity == *identity,
            Decoded::Acknowledgement => false,
        })
        .await?;
    let Some((ahead, found)) = queued else { return Ok(None) };
    let text = format!("it is queued, behind {ahead} others of its team");
    let place = Whereabouts::new(text, json!({"state": "queued", "ahead": ahead}));
    Ok(Some(match request(bus, &found) {
        Decoded::Request(request) => {
            let asks = Asks::of_request(bus, &request).await;
            place.with(waits::reasons(bus, &asks).await)
        }
        Decoded::Rejected(..) | Decoded::Acknowledgement => place,
    }))
}

/// A message of a lane, as a router reads it.
fn request(bus: &Bus, stored: &Stored) -> Decoded {
    let Some((priority, team)) = bus.subjects().parse_lane(&stored.subject) else {
        return Decoded::Acknowledgement;
    };
    decode(&Delivered {
        team,
        priority,
        sequence: stored.source.sequence,
        accepted_at: stored.stored_at,
        // What the routers take is in their files. No time that a request can name is after this one's.
        ttl_ms_default: TTL_MS_MAX,
        headers: &stored.header_view(),
        payload: &stored.payload,
    })
}

/// Why a request waits for a time that was never called, as far as its message shows it.
fn parked_for(found: &Stored) -> &'static str {
    match Job::decode(&found.payload) {
        // Whoever waits for a reply may have a copy that only looks again for the answer.
        Ok(job) if job.run > 0 || !job.history.is_empty() || job.reply_to.is_some() => "",
        Ok(job) if job.body_digest.is_none() => ", as it asked for (not_before)",
        Ok(_) => ", as it asked for (not_before), or because there were too many with the same body",
        Err(_) => "",
    }
}

/// The first message that is it, and how many there were before it.
async fn look(
    bus: &Bus,
    stream: &str,
    filter: &str,
    is_it: impl Fn(&Stored) -> bool,
) -> Result<Option<(usize, Stored)>, Failure> {
    let (mut next, mut seen): (Sequence, usize) = (1, 0);
    while seen < LOOKED_AT_MAX {
        let found = bus.scan(stream, filter, next, BATCH, BATCH_BYTES_MAX).await.map_err(unreadable)?;
        if found.is_empty() {
            return Ok(None);
        }
        for stored in found {
            next = stored.source.sequence + 1;
            if is_it(&stored) {
                return Ok(Some((seen, stored)));
            }
            seen += 1;
        }
    }
    Ok(None)
}

async fn held(bus: &Bus, found: &Stored) -> Whereabouts {
    let since = found.stored_at.to_rfc3339();
    let Ok(job) = Job::decode(&found.payload) else {
        return Whereabouts::new("it is held", json!({"state": "held", "since": since}));
    };
    let health = Health::new(bus);
    let known = health.load().await.is_ok().then_some(&health);
    let awaited = tollgate_policy::route::awaited(&job);
    let now = tollgate_bus::now();
    let targets = waits::standings(known, &awaited, now);
    let is_up = |health: &&Health| {
        let up =
            |target: &Target| health.availability(&target.provider, &target.model, now) == Availability::Up;
        awaited.iter().any(up)
    };
    if known.as_ref().is_some_and(is_up) {
        let asks = Asks::of_job(bus, &job).await;
        let place = Whereabouts::new(
            format!("it was held since {since}; a target is up again, and it is released in turn"),
            json!({"state": "held", "since": since, "deadline": job.deadline, "targets": targets}),
        );
        return place.with(waits::reasons(bus, &asks).await);
    }
    Whereabouts::new(
        format!("it waits since {since} until one of its targets is up: {}", waits::told(&targets)),
        json!({"state": "held", "since": since, "deadline": job.deadline, "targets": targets}),
    )
}

/// What has happened to a request, as its events tell, oldest first.
pub(crate) async fn events(bus: &Bus, identity: &Identity) -> Result<Vec<Value>, Failure> {
    let stream = bus.subjects().stream(event::EVENT);
    let filter = bus.subjects().under(&format!("event.{}.*", identity.team));
    let subject = identity.to_string();
    let (mut next, mut seen, mut events): (Sequence, usize, Vec<Value>) = (1, 0, Vec::new());
    while seen < LOOKED_AT_MAX {
        let found = bus.scan(&stream, &filter, next, BATCH, BATCH_BYTES_MAX).await.map_err(unreadable)?;
        if found.is_empty() {
            break;
        }
        for stored in found {
            (next, seen) = (stored.source.sequence + 1, seen + 1);
            if stored.header_view().get("ce-subject") == Some(subject.as_str()) {
                events.extend(serde_json::from_slice::<Value>(&stored.payload));
            }
        }
    }
    Ok(events)
}
