//! The streams, as data: created if absent, compared if there, and never changed in a way that loses a
//! message.
//!
//! Lowering a stream's bound below what it holds deletes accepted requests, oldest first (measured), so the
//! only change that is ever made to a bound is to raise it. Anything else that differs is refused, by name.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Republish, RetentionPolicy, StorageType, SubjectTransform,
};
use tollgate_protocol::Priority;
use tollgate_protocol::subject::{LANES, Subjects};

use crate::pull::PullFrom;
use crate::{Bus, counter, event, pace, record};

mod compare;

pub use compare::Difference;

/// The stream of requests, without its prefix.
pub const REQUESTS: &str = "REQ";
/// The stream of what comes again later, without its prefix.
pub const RETRY: &str = "RETRY";
/// The stream of cancellations, without its prefix.
pub const CANCEL: &str = "CANCEL";
/// The stream of dead letters, without its prefix.
pub const DEAD: &str = "DEAD";

/// Entries of a counter that are kept; its total is of all that ever were.
const COUNTER_ENTRIES_MAX: i64 = 1_000_000;
const CONSUMERS_MAX: i32 = 1_000;
/// Messages of one lane in hand, over all routers. What a router holds is bounded there: what stepped aside stays in hand
/// without a place, some thousands in each router, and no number of routers may end the delivery of a lane with that.
const LANE_PENDING_MAX: i64 = 65_536;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What the sizes of the streams depend on.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Most requests of a team that wait at one priority.
    pub team_requests_max: u64,
    /// Most bytes of requests that wait, over all teams; no limit of their own if `None`.
    pub requests_bytes_max: Option<u64>,
    /// Longer than any entry of the record stream may live.
    pub record_max_age: Duration,
    /// How long usage events are kept.
    pub usage_max_age: Duration,
    /// Each provider with its `max_in_flight`.
    pub providers: Vec<(String, u32)>,
    /// Copies of each stream: 1, or 3 in a cluster.
    pub replicas: usize,
}

/// Why the topology is not as it must be.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// A stream is there, but it is another one.
    #[error(
        "stream {stream} exists with other settings: {}. Nothing was changed; remove the stream if it is not Tollgate's, or use another subject_prefix",
        list(differences)
    )]
    Differs {
        /// The stream.
        stream: String,
        /// What is different.
        differences: Vec<Difference>,
    },
    /// The server refused.
    #[error("stream {stream} cannot be set up: {reason}")]
    Refused {
        /// The stream.
        stream: String,
        /// The server's reason.
        reason: String,
    },
}

fn list(differences: &[Difference]) -> String {
    differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// A bound that is higher than asked for, and stays so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The stream.
    pub stream: String,
    /// What stays as it is.
    pub difference: Difference,
}

/// The places of a provider's dispatch stream: (per subject, in all). A little more than `max_in_flight`,
/// so that a worker finds the next message waiting, and little enough that order is still made by routers.
pub fn dispatch_bounds(max_in_flight: u32) -> (i64, i64) {
    let (places, extra) = (i64::from(max_in_flight), i64::from((max_in_flight / 8).max(1)));
    (places + extra, places + 3 * extra)
}

/// Every stream of an installation. `first_sequence` is used where a stream is created: sequences of work
/// queues must not repeat when a stream is deleted and made again.
pub fn streams(subjects: &Subjects, plan: &Plan, first_sequence: u64) -> Vec<Config> {
    let under = |rest: &str| subjects.under(rest);
    let base = |kind: &str, subjects_of: Vec<String>| Config {
        name: subjects.stream(kind),
        subjects: subjects_of,
        storage: StorageType::File,
        num_replicas: plan.replicas,
        max_consumers: CONSUMERS_MAX,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_bytes: -1,
        allow_direct: true,
        // An optimisation, never the proof; the server keeps every id of the window in memory.
        duplicate_window: Duration::from_secs(30),
        ..Config::default()
    };
    let republish = |kind: &str| {
        Some(Republish {
            source: under(&format!("{kind}.>")),
            destination: under(&format!("live.{kind}.>")),
            headers_only: false,
        })
    };
    let mut streams = vec![
        Config {
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            discard_new_per_subject: true,
            max_messages_per_subject: i64::try_from(plan.team_requests_max).unwrap_or(i64::MAX),
            max_bytes: plan.requests_bytes_max.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
            duplicate_window: Duration::from_millis(100),
            first_sequence: Some(first_sequence),
            subject_transform: Some(SubjectTransform {
                source: under("req.*.*"),
                destination: under(&format!(
                    "lane.{{{{wildcard(2)}}}}.{{{{partition({LANES},1)}}}}.{{{{wildcard(1)}}}}"
                )),
            }),
            ..base(
                REQUESTS,
                Priority::ALL.iter().map(|priority| under(&format!("req.*.{priority}"))).collect(),
            )
        },
        Config {
            retention: RetentionPolicy::WorkQueue,
            allow_message_schedules: true,
            allow_message_ttl: true,
            first_sequence: Some(first_sequence),
            ..base(RETRY, vec![under("retry.>")])
        },
        Config {
            max_messages_per_subject: 1,
            allow_message_ttl: true,
            // Each entry has its own time to live; this is for those of a program with a defect.
            max_age: plan.record_max_age,
            republish: republish("res"),
            ..base(record::STREAM, vec![under("run.*.*.*"), under("res.*.*.*")])
        },
        Config {
            max_age: plan.usage_max_age,
            republish: republish("usage"),
            ..base(event::USAGE, vec![under("usage.>")])
        },
        Config {
            // A log whose total the server keeps. With one entry per subject a restart would forget the ids of the others,
            // and add them again.
            allow_message_counter: true,
            max_messages_per_subject: COUNTER_ENTRIES_MAX,
            // Long enough for a router and the ledger to find the same try to be over.
            duplicate_window: Duration::from_secs(120),
            republish: republish("budget"),
            ..base(counter::STREAM, vec![under("budget.*.*")])
        },
        Config {
            // Nobody asks for a number of a cell that is over. Only the total matters: an id that a restart forgets wastes
            // one number.
            allow_message_counter: true,
            max_messages_per_subject: 1,
            max_age: Duration::from_secs(600),
            duplicate_window: Duration::from_secs(120),
            ..base(pace::STREAM, vec![under("pace.*.*")])
        },
        Config { max_age: DAY * 7, ..base(event::EVENT, vec![under("event.>")]) },
        Config {
            // Taken from by whichever router is free; a repeat replaces what it repeats.
            retention: RetentionPolicy::WorkQueue,
            max_messages_per_subject: 1,
            max_age: plan.record_max_age,
            ..base(CANCEL, vec![under("cancel.*.*.*")])
        },
        Config { max_messages_per_subject: 1, max_age: DAY * 30, ..base(DEAD, vec![under("dead.*.*.*")]) },
    ];
    streams.extend(plan.providers.iter().map(|(provider, max_in_flight)| {
        let (per_subject, in_all) = dispatch_bounds(*max_in_flight);
        Config {
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            discard_new_per_subject: true,
            max_messages_per_subject: per_subject,
            max_messages: in_all,
            first_sequence: Some(first_sequence),
            ..base(&format!("DISPATCH_{provider}"), vec![subjects.dispatch_filter(provider)])
        }
    }));
    streams
}

/// One lane of requests.
pub fn lane_consumer(subjects: &Subjects, priority: Priority, lane: u32, ack_wait: Duration) -> PullFrom {
    PullFrom {
        stream: subjects.stream(REQUESTS),
        consumer: consumer(
            format!("lane-{priority}-{lane}"),
            subjects.lane_filter(priority, lane),
            ack_wait,
            LANE_PENDING_MAX,
        ),
    }
}

/// One lane of what is due again.
pub fn due_consumer(subjects: &Subjects, priority: Priority, lane: u32, ack_wait: Duration) -> PullFrom {
    PullFrom {
        stream: subjects.stream(RETRY),
        consumer: consumer(
            format!("due-{priority}-{lane}"),
            subjects.retry_due_filter(priority, lane),
            ack_wait,
            LANE_PENDING_MAX,
        ),
    }
}

/// What clients take back.
pub fn cancel_consumer(subjects: &Subjects, ack_wait: Duration) -> PullFrom {
    PullFrom {
        stream: subjects.stream(CANCEL),
        consumer: consumer("routers".into(), subjects.cancels(), ack_wait, 1_024),
    }
}

/// A provider's work. The server lets no more than `max_in_flight` messages be unacknowledged, over all
/// workers together: it is the semaphore.
pub fn dispatch_consumer(
    subjects: &Subjects,
    provider: &str,
    max_in_flight: u32,
    ack_wait: Duration,
) -> PullFrom {
    PullFrom {
        stream: subjects.dispatch_stream(provider),
        consumer: consumer(
            "workers".into(),
            subjects.dispatch_filter(provider),
            ack_wait,
            i64::from(max_in_flight),
        ),
    }
}

fn consumer(name: String, filter: String, ack_wait: Duration, max_ack_pending: i64) -> pull::Config {
    pull::Config {
        durable_name: Some(name),
        filter_subject: filter,
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait,
        // Never dead-letter by delivery count: it counts crashes of ours, not faults of the message.
        max_deliver: -1,
        max_ack_pending,
        max_waiting: 512,
        ..pull::Config::default()
    }
}

impl Bus {
    /// Creates what is missing, raises bounds, refuses everything else. Returns the bounds that stay higher
    /// than planned.
    pub async fn ensure_topology(&self, plan: &Plan) -> Result<Vec<Kept>, TopologyError> {
        let first_sequence = u64::try_from(crate::now().timestamp_millis()).unwrap_or(0) * 1_000;
        let mut kept = Vec::new();
        let mut violations = self.connection().violations();
        for wanted in streams(self.subjects(), plan, first_sequence) {
            let stream = wanted.name.clone();
            kept.extend(tokio::select! {
                biased;
                ensured = self.ensure_stream(wanted) => ensured?,
                // What is not permitted is not answered either.
                violation = violations.next() => {
                    return Err(TopologyError::Refused { stream, reason: violation.to_string() });
                }
            });
        }
        Ok(kept)
    }

    async fn ensure_stream(&self, wanted: Config) -> Result<Vec<Kept>, TopologyError> {
        let name = wanted.name.clone();
        let refused = |reason: String| TopologyError::Refused { stream: name.clone(), reason };
        let found = match self.jetstream().get_stream(&name).await {
            Ok(stream) => stream.cached_info().config.clone(),
            Err(error) if matches!(error.kind(), GetStreamErrorKind::JetStream(ref error) if error.error_code().0 == 10059) =>
            {
                match self.jetstream().create_stream(wanted.clone()).await {
                    Ok(_) => {
                        tracing::info!(stream = name, "created stream");
                        return Ok(Vec::new());
                    }
                    // Another process was faster, and what it made is compared; or the server does not want it.
                    Err(failed) => match self.jetstream().get_stream(&name).await {
                        Ok(stream) => stream.cached_info().config.clone(),
                        Err(_) => return Err(refused(failed.to_string())),
                    },
                }
            }
            Err(error) => return Err(refused(error.to_string())),
        };
        let verdict = compare::compare(&wanted, &found);
        if !verdict.refused.is_empty() {
            return Err(TopologyError::Differs { stream: name, differences: verdict.refused });
        }
        if let Some(raised) = verdict.raised {
            self.jetstream().update_stream(&raised).await.map_err(|error| refused(error.to_string()))?;
            tracing::info!(stream = name, "raised the stream's bounds");
        }
        Ok(verdict.kept.into_iter().map(|difference| Kept { stream: name.clone(), difference }).collect())
    }
}
