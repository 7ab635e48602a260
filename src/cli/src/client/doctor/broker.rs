//! What the server says about itself and about the installation on it.

use std::time::Duration;

use async_nats::Request;
use async_nats::jetstream::stream::Config;
use serde::Deserialize;
use tollgate_bus::retry::Patience;
use tollgate_bus::{Bus, PublishError, topology};
use tollgate_config::Settings;
use tollgate_protocol::Timestamp;
use tollgate_protocol::request::BODY_BYTES_MAX;

use super::Check;
use crate::client::config::kept;
use crate::client::status::{self, Status};

/// An envelope around the largest body.
const ENVELOPE_BYTES: usize = 64 * 1024;
/// How long storing something may take.
const ROOM_PATIENCE: Patience = Patience(Duration::from_secs(5));
/// Deadlines are given by one clock and kept by another.
const SKEW_MS_MAX: i64 = 2_000;

/// All checks, in the order in which one depends on the other.
pub(super) async fn checks(bus: &Bus, settings: Option<&Settings>) -> Vec<Check> {
    let info = bus.client().server_info();
    let mut checks = vec![
        Check::good("nats-server", format!("version {} at {}:{}", info.version, info.host, info.port)),
        max_payload(info.max_payload),
        store(bus).await,
    ];
    let status = match status::look(bus).await {
        Ok(status) => status,
        Err(failure) => {
            checks.push(Check::bad("streams", failure.message, "check the permissions of these credentials"));
            return checks;
        }
    };
    checks.extend(room(bus).await);
    checks.push(clock(bus).await);
    checks.push(streams(bus, settings).await);
    checks.push(queues(&status));
    checks.push(roles(&status));
    checks.push(configuration(&status));
    checks
}

/// Which teams, budgets, models and prices are in force, and whether for everybody.
fn configuration(status: &Status) -> Check {
    let name = "configuration in force";
    let Some(version) = status.config else {
        let others = status.in_use.iter().any(|process| process.version != 0);
        return match others {
            false => Check::good(name, "that of each process's own file; nothing is applied"),
            true => Check::warning(name, "nothing is applied, but a process uses a version", "restart it"),
        };
    };
    if status.in_use.iter().all(|process| process.version == version) {
        return Check::good(name, format!("version {version}, in use by {} processes", status.in_use.len()));
    }
    let advice =
        "make the file of that process fit (providers above all) and restart it, or apply another version";
    Check::bad(name, kept::told(&status.in_use, version).join("\n    "), advice)
}

fn max_payload(bytes: usize) -> Check {
    if bytes >= BODY_BYTES_MAX + ENVELOPE_BYTES {
        return Check::good("message size", format!("up to {bytes} bytes"));
    }
    Check::warning(
        "message size",
        format!("up to {bytes} bytes, but a request body may have {BODY_BYTES_MAX}"),
        "set max_payload: 8MB in the nats-server's configuration (nats/tollgate.conf)",
    )
}

async fn store(bus: &Bus) -> Check {
    let account = match bus.jetstream().query_account().await {
        Ok(account) => account,
        Err(error) => {
            let advice = "start the nats-server with JetStream, or use an account that has it";
            return Check::bad("JetStream", error.to_string(), advice);
        }
    };
    let used = account.storage;
    match u64::try_from(account.limits.max_storage.unwrap_or(-1)) {
        Ok(limit) if limit > 0 && used > limit / 10 * 9 => Check::bad(
            "JetStream",
            format!("{used} of {limit} bytes are used"),
            "raise max_store of the nats-server: a full store accepts no requests",
        ),
        Ok(limit) if limit > 0 => Check::good("JetStream", format!("{used} of {limit} bytes are used")),
        _ => Check::good("JetStream", format!("{used} bytes are used; the account has no limit of its own")),
    }
}

/// Whether something can be stored is known only by storing it: a server does not tell clients how full it is. `None`: there
/// is nothing to store it in yet, or these credentials may not.
async fn room(bus: &Bus) -> Option<Check> {
    match bus.has_room(ROOM_PATIENCE).await {
        Ok(()) => Some(Check::good("store", "it takes messages")),
        Err(PublishError::StoreFull(reason)) => Some(Check::bad(
            "store",
            format!("it is full, and nothing is accepted: {reason}"),
            "raise max_file_store of the nats-server or the account's limit, or delete streams that are not Tollgate's; what was accepted goes on then",
        )),
        Err(_) => None,
    }
}

/// The server tells its time in every description of a stream.
async fn clock(bus: &Bus) -> Check {
    #[derive(Deserialize)]
    struct Described {
        ts: Timestamp,
    }
    let subject = format!("$JS.API.STREAM.INFO.{}", bus.subjects().stream(topology::REQUESTS));
    let before = tollgate_bus::now();
    let request = Request::new().timeout(Some(Duration::from_secs(5)));
    let reply = bus.client().send_request(subject, request).await;
    let after = tollgate_bus::now();
    let described = reply.ok().and_then(|reply| serde_json::from_slice::<Described>(&reply.payload).ok());
    match described {
        Some(described) => skew(before, described.ts, after),
        None => Check::warning(
            "clock",
            "the server did not tell its time",
            "look again once the streams are there",
        ),
    }
}

/// The server's time was taken between the two of ours.
fn skew(before: Timestamp, server: Timestamp, after: Timestamp) -> Check {
    let ahead = (server - after).num_milliseconds().max(0);
    let behind = (before - server).num_milliseconds().max(0);
    match (ahead, behind) {
        (0, 0) => Check::good("clock", "the server's and ours agree"),
        (ahead, 0) if ahead > SKEW_MS_MAX => apart(format!("the server's is {ahead} ms ahead of ours")),
        (0, behind) if behind > SKEW_MS_MAX => apart(format!("the server's is {behind} ms behind ours")),
        (ahead, behind) => Check::good("clock", format!("{} ms apart", ahead.max(behind))),
    }
}

fn apart(found: String) -> Check {
    Check::bad("clock", found, "synchronise the clocks (NTP): deadlines are kept by them")
}

async fn streams(bus: &Bus, settings: Option<&Settings>) -> Check {
    let providers = settings
        .map(|settings| {
            let providers = settings.providers.iter();
            providers.map(|(name, provider)| (name.clone(), provider.max_in_flight)).collect()
        })
        .unwrap_or_default();
    let plan = topology::Plan {
        team_requests_max: 1,
        requests_bytes_max: None,
        record_max_age: Duration::from_secs(16 * 86_400),
        usage_max_age: Duration::from_secs(86_400),
        providers,
        replicas: 1,
    };
    let (mut missing, mut different, mut well) = (Vec::new(), Vec::new(), 0);
    for wanted in topology::streams(bus.subjects(), &plan, 1) {
        match bus.jetstream().get_stream(&wanted.name).await {
            Ok(stream) => match differences(&wanted, &stream.cached_info().config) {
                found if found.is_empty() => well += 1,
                found => different.push(format!("{}: {}", wanted.name, found.join(", "))),
            },
            Err(_) => missing.push(wanted.name),
        }
    }
    if !different.is_empty() {
        let advice =
            "these are not Tollgate's: use another subject_prefix, or remove them if nobody needs them";
        return Check::bad("streams", different.join("; "), advice);
    }
    if !missing.is_empty() {
        let found = format!("missing: {}", missing.join(", "));
        return Check::bad(
            "streams",
            found,
            "start `tollgate up`, or a role with `tollgate run`: it makes them",
        );
    }
    Check::good("streams", format!("{well} are there and as they should be"))
}

/// What makes a stream another one. Bounds are left out: they may be higher than planned.
fn differences(wanted: &Config, found: &Config) -> Vec<String> {
    let sorted = |subjects: &[String]| {
        let mut subjects = subjects.to_vec();
        subjects.sort();
        subjects
    };
    let republish = |config: &Config| {
        config.republish.as_ref().map(|republish| (republish.source.clone(), republish.destination.clone()))
    };
    [
        ("subjects", sorted(&wanted.subjects) == sorted(&found.subjects)),
        ("retention", wanted.retention == found.retention),
        ("discard", wanted.discard == found.discard),
        ("allow_direct", wanted.allow_direct == found.allow_direct),
        ("allow_msg_ttl", wanted.allow_message_ttl == found.allow_message_ttl),
        ("allow_msg_schedules", wanted.allow_message_schedules == found.allow_message_schedules),
        ("republish", republish(wanted) == republish(found)),
    ]
    .into_iter()
    .filter(|(_, same)| !same)
    .map(|(setting, _)| format!("{setting} differs"))
    .collect()
}

fn queues(status: &Status) -> Check {
    let waiting = &status.waiting;
    let all = waiting.high + waiting.normal + waiting.low;
    let unserved: Vec<&str> = status
        .dispatch
        .iter()
        .filter(|provider| provider.max_in_flight.is_none())
        .map(|provider| provider.provider.as_str())
        .collect();
    let found = format!("{all} requests wait, {} come again later", status.retry);
    if unserved.is_empty() {
        return Check::good("queues", found);
    }
    Check::warning(
        "queues",
        format!("{found}; no worker ever served {}", unserved.join(", ")),
        "start `tollgate run worker` with a configuration that has these providers",
    )
}

fn roles(status: &Status) -> Check {
    let absent = status.roles.absent();
    if absent.is_empty() {
        return Check::good("roles", "router, worker and ledger wait for work");
    }
    let busy = status.dispatch.iter().any(|provider| provider.in_flight > 0);
    let found = format!("no {} waits for work", absent.join(", no "));
    if busy && absent == ["worker"] {
        return Check::good("roles", "router and ledger wait for work, all workers are busy");
    }
    Check::bad("roles", found, "start `tollgate up`, or `tollgate run` with the role that is missing")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::doctor::State;
    use tollgate_protocol::subject::Subjects;

    #[test]
    fn clocks_apart_are_told() {
        let at = |text: &str| format!("2026-01-01T00:00:{text}Z").parse::<Timestamp>().unwrap();
        for (server, state) in
            [("10.5", State::Good), ("11.9", State::Good), ("14.1", State::Bad), ("07.0", State::Bad)]
        {
            assert_eq!(skew(at("10.0"), at(server), at("11.0")).state, state, "{server}");
        }
    }

    #[test]
    fn a_stream_of_somebody_else_is_told() {
        let plan = topology::Plan {
            team_requests_max: 9,
            requests_bytes_max: None,
            record_max_age: Duration::from_secs(16 * 86_400),
            usage_max_age: Duration::from_secs(1),
            providers: vec![("sim".into(), 8)],
            replicas: 1,
        };
        for wanted in topology::streams(&Subjects::default(), &plan, 1) {
            assert!(differences(&wanted, &wanted).is_empty());
            let other = Config { subjects: vec!["other".into()], ..wanted.clone() };
            assert_eq!(differences(&wanted, &other), ["subjects differs"]);
        }
    }

    #[test]
    fn a_small_payload_is_a_warning() {
        assert_eq!(max_payload(1_048_576).state, State::Warning);
        assert_eq!(max_payload(8 * 1_048_576).state, State::Good);
    }

    #[test]
    fn an_absent_role_is_named() {
        let check = roles(&Status::default());
        assert_eq!(check.state, State::Bad);
        assert_eq!(check.found, "no router, no worker, no ledger waits for work");
    }
}
