//! Which requests are somewhere: in a queue, with workers, or waiting for something.

use std::collections::BTreeSet;

use tollgate_bus::scan::Stored;
use tollgate_bus::{Bus, topology};
use tollgate_protocol::job::Job;
use tollgate_protocol::request::{Decoded, Delivered, decode};
use tollgate_protocol::{Identity, Sequence};

use crate::client::status;
use crate::failure::Failure;

const BATCH: usize = 500;
const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// So many messages of a stream are looked at. Of what lies deeper nothing is said.
const LOOKED_AT_MAX: usize = 1_000_000;

/// Those of the accounts whose request is nowhere. What cannot be looked through to its end counts as everywhere.
pub(super) async fn absent(bus: &Bus, accounts: BTreeSet<String>) -> Result<BTreeSet<String>, Failure> {
    let mut missing = accounts;
    let subjects = bus.subjects();
    // In the order in which requests come back: from the workers to what waits, and from the lanes to the workers.
    for (provider, stream) in status::dispatch_streams(bus).await? {
        look(bus, &stream, &subjects.dispatch_filter(&provider), job, &mut missing).await?;
    }
    let retry = subjects.stream(topology::RETRY);
    for filter in [subjects.retry_hold_all(), subjects.under("retry.at.>"), subjects.retry_due_all()] {
        look(bus, &retry, &filter, job, &mut missing).await?;
    }
    // A team's requests are in one lane; a name that is no identity is of no team, and of no request.
    let teams: BTreeSet<String> = identities(&missing).map(|identity| identity.team.to_string()).collect();
    for team in teams {
        let filter = subjects.under(&format!("lane.*.*.{team}"));
        let request = |stored: &Stored| request(bus, stored);
        look(bus, &subjects.stream(topology::REQUESTS), &filter, request, &mut missing).await?;
    }
    for (provider, stream) in status::dispatch_streams(bus).await? {
        look(bus, &stream, &subjects.dispatch_filter(&provider), job, &mut missing).await?;
    }
    Ok(missing)
}

fn identities(accounts: &BTreeSet<String>) -> impl Iterator<Item = Identity> {
    accounts.iter().filter_map(|account| Identity::from_tokens(account))
}

fn job(stored: &Stored) -> Option<Identity> {
    Job::decode(&stored.payload).ok().map(|job| job.identity)
}

fn request(bus: &Bus, stored: &Stored) -> Option<Identity> {
    let (priority, team) = bus.subjects().parse_lane(&stored.subject)?;
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
        Decoded::Request(request) => Some(request.head.identity),
        Decoded::Rejected(head, _) => Some(head.identity),
        Decoded::Acknowledgement => None,
    }
}

/// Takes what is found from `missing`.
async fn look(
    bus: &Bus,
    stream: &str,
    filter: &str,
    identity: impl Fn(&Stored) -> Option<Identity>,
    missing: &mut BTreeSet<String>,
) -> Result<(), Failure> {
    let (mut next, mut seen): (Sequence, usize) = (1, 0);
    while !missing.is_empty() {
        let found = bus
            .scan(stream, filter, next, BATCH, BATCH_BYTES_MAX)
            .await
            .map_err(|error| Failure::unreachable(format!("the streams cannot be read: {error}")))?;
        if found.is_empty() {
            break;
        }
        for stored in &found {
            next = stored.source.sequence + 1;
            if let Some(identity) = identity(stored) {
                missing.remove(&identity.to_string());
            }
        }
        seen += found.len();
        if seen >= LOOKED_AT_MAX {
            missing.clear();
        }
    }
    Ok(())
}
