//! Where a request is that has no answer yet, and what has happened to it.

use serde_json::{Value, json};
use tollgate_bus::scan::Stored;
use tollgate_bus::{Bus, event, topology};
use tollgate_health::Health;
use tollgate_policy::health::Availability;
use tollgate_protocol::header::Headers;
use tollgate_protocol::job::Job;
use tollgate_protocol::request::{Decoded, Delivered, decode};
use tollgate_protocol::{Identity, Sequence};

use super::provider::why_text;
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
        return Ok(Some(Whereabouts {
            text: format!("it waits until {until}"),
            json: json!({"state": "parked", "until": until}),
        }));
    }
    let team = &identity.team;
    let is_it = |stored: &Stored| Job::decode(&stored.payload).is_ok_and(|job| job.identity == *identity);
    let hold = subjects.under(&format!("retry.hold.*.*.{team}"));
    if let Some((_, found)) = look(bus, &retry, &hold, is_it).await? {
        return Ok(Some(held(bus, &found).await));
    }
    let due = subjects.under(&format!("retry.due.*.*.{team}"));
    if look(bus, &retry, &due, is_it).await?.is_some() {
        let text = "it is due, and waits for a router".to_owned();
        return Ok(Some(Whereabouts { text, json: json!({"state": "due"}) }));
    }
    let names = super::status::dispatch_streams(bus).await?;
    for (provider, stream) in names {
        if look(bus, &stream, &subjects.dispatch_filter(&provider), is_it).await?.is_some() {
            return Ok(Some(Whereabouts {
                text: format!("it is with the workers of {provider}"),
                json: json!({"state": "dispatched", "provider": provider}),
            }));
        }
    }
    let lanes = subjects.under(&format!("lane.*.*.{team}"));
    let queued = look(bus, &subjects.stream(topology::REQUESTS), &lanes, |stored| {
        let Some((priority, team)) = subjects.parse_lane(&stored.subject) else { return false };
        let decoded = decode(&Delivered {
            team,
            priority,
            sequence: stored.source.sequence,
            accepted_at: stored.stored_at,
            ttl_ms_default: 1,
            headers: &stored.header_view(),
            payload: &stored.payload,
        });
        match decoded {
            Decoded::Request(request) => request.head.identity == *identity,
            Decoded::Rejected(head, _) => head.identity == *identity,
            Decoded::Acknowledgement => false,
        }
    })
    .await?;
    Ok(queued.map(|(ahead, _)| Whereabouts {
        text: format!("it is queued, behind {ahead} others of its team"),
        json: json!({"state": "queued", "ahead": ahead}),
    }))
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
        return Whereabouts { text: "it is held".into(), json: json!({"state": "held", "since": since}) };
    };
    let health = Health::new(bus);
    let known = health.load().await.is_ok();
    let now = tollgate_bus::now();
    let targets: Vec<Value> = tollgate_policy::route::awaited(&job)
        .iter()
        .map(|target| match health.availability(&target.provider, &target.model, now) {
            Availability::Down { why, until } if known => {
                json!({"target": target.to_string(), "why": why_text(why), "until": until})
            }
            Availability::Probe if known => json!({"target": target.to_string(), "why": "it is tried again"}),
            _ => json!({"target": target.to_string(), "why": ""}),
        })
        .collect();
    let words: Vec<String> = targets
        .iter()
        .map(|target| {
            let text = |name: &str| target[name].as_str().unwrap_or_default().to_owned();
            let until = target["until"].as_str().map(|until| format!(", tried again at {until}"));
            format!("{} ({}{})", text("target"), text("why"), until.unwrap_or_default())
        })
        .collect();
    Whereabouts {
        text: format!("it waits since {since} until one of its targets is up: {}", words.join(", ")),
        json: json!({"state": "held", "since": since, "deadline": job.deadline, "targets": targets}),
    }
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
