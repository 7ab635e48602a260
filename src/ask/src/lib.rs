//! Plain request/reply, durable underneath: a NATS micro service on `llm.ask.<team>.<priority>`.
//!
//! Stateless. An ask is published as a request whose `reply_to` is the caller's inbox, and forgotten:
//! whoever stores the terminal response replies. So this process may die at any moment after the publish,
//! and a caller whose ask died with it asks again with the same id.

mod translate;

use std::sync::Arc;
use std::time::Duration;

use async_nats::service::ServiceExt;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tollgate_bus::publish::PublishError;
use tollgate_bus::retry::Patience;
use tollgate_bus::{Bus, HeaderView, headers};
use tollgate_policy::answer;
use tollgate_protocol::request::{Decoded, Delivered, Head, decode};
use tollgate_protocol::{ErrorCode, Priority, Problem};
use tollgate_telemetry as telemetry;

pub use translate::{Translated, timeout, translate};

/// Asks whose publish is under way at once; more wait in the subscription.
const IN_FLIGHT_MAX: usize = 1_024;

/// What the service needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a caller waits that does not say.
    pub timeout: Duration,
    /// How long to finish what is in hand after being told to stop.
    pub drain: Duration,
}

/// Why the service cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The service or its endpoint was refused.
    #[error("cannot start the service on {subject}: {reason}")]
    Start {
        /// Where.
        subject: String,
        /// Why not.
        reason: String,
    },
}

/// Serves until `stop`.
pub async fn run(
    bus: Bus,
    settings: Settings,
    ready: impl FnOnce() + Send,
    stop: CancellationToken,
) -> Result<(), Error> {
    let subject = bus.subjects().ask_filter();
    let refused = |reason: String| Error::Start { subject: subject.clone(), reason };
    let service = bus
        .client()
        .service_builder()
        .description("LLM requests as plain request/reply")
        .start("tollgate-ask", env!("CARGO_PKG_VERSION"))
        .await
        .map_err(|error| refused(error.to_string()))?;
    let mut endpoint = service
        .endpoint_builder()
        .name("ask")
        .add(subject.clone())
        .await
        .map_err(|error| refused(error.to_string()))?;
    // Known to the server before this process calls itself ready.
    bus.client().flush().await.map_err(|error| refused(error.to_string()))?;
    ready();
    tracing::info!("ask is ready");

    let (tasks, places) = (TaskTracker::new(), Arc::new(Semaphore::new(IN_FLIGHT_MAX)));
    let settings = Arc::new(settings);
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        let request = tokio::select! {
            () = stop.cancelled() => break,
            request = endpoint.next() => request,
        };
        let Some(request) = request else { break };
        let (bus, settings) = (bus.clone(), Arc::clone(&settings));
        tasks.spawn(async move {
            forward(&bus, &settings, request.message).await;
            drop(place);
        });
    }
    tasks.close();
    if tokio::time::timeout(settings.drain, tasks.wait()).await.is_err() {
        tracing::warn!(left = tasks.len(), "drain limit reached; these callers have to ask again");
    }
    if let Err(error) = bus.client().flush().await {
        tracing::debug!(%error, "last flush failed");
    }
    Ok(())
}

/// Publishes one ask as a request. Only what prevents that is replied to from here.
async fn forward(bus: &Bus, settings: &Settings, message: async_nats::Message) {
    let now = tollgate_bus::now();
    let view = HeaderView(message.headers.as_ref());
    let (team, priority) = bus.subjects().parse_ask(&message.subject).unwrap_or_default();
    let own = message.headers.iter().flat_map(async_nats::HeaderMap::iter).filter_map(|(name, values)| {
        let value = values.last()?;
        Some((name.to_string(), value.as_str().to_owned()))
    });
    let inbox = message.reply.as_ref().map(async_nats::Subject::as_str);
    let translated = translate(own.collect(), inbox, settings.timeout, uuid::Uuid::now_v7());
    let wanted = priority.parse::<Priority>().map_err(|()| {
        Problem::at(
            ErrorCode::InvalidField,
            "priority",
            "priority: expected high, normal or low in the subject",
        )
    });
    let problem = match (translated, wanted) {
        (Err(problem), _) | (_, Err(problem)) => problem,
        (Ok(Translated { headers: pairs, wait }), Ok(priority)) => {
            let map = headers::headers(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            let subject = bus.subjects().under(&format!("req.{team}.{priority}"));
            let patience = Patience(wait.min(Patience::NORMAL.0));
            let id = uuid::Uuid::new_v4().simple().to_string();
            match bus.offer(&subject, map, Some(&id), message.payload.clone(), patience).await {
                Ok(_) => return telemetry::count_ask(true),
                Err(error) => problem_of(&error),
            }
        }
    };
    telemetry::count_ask(false);
    tracing::debug!(code = %problem.code, "an ask was not accepted");
    let Some(inbox) = inbox.filter(|inbox| translate::is_inbox(inbox)) else { return };
    let delivered = Delivered {
        team,
        priority: priority.parse().unwrap_or_default(),
        sequence: 0,
        accepted_at: now,
        ttl_ms_default: u64::try_from(settings.timeout.as_millis()).unwrap_or(u64::MAX),
        headers: &view,
        payload: &message.payload,
    };
    refuse(bus, inbox, head_of(decode(&delivered)), problem).await;
}

/// An error reply in the form the caller's body asks for.
async fn refuse(bus: &Bus, inbox: &str, head: Option<Box<Head>>, problem: Problem) {
    let Some(head) = head else {
        let body = serde_json::to_vec(&problem.to_openai()).unwrap_or_default();
        return bus.reply(inbox, async_nats::HeaderMap::new(), Bytes::from(body)).await;
    };
    let response = answer::rejection(&head, problem, tollgate_bus::now());
    bus.reply_with(inbox, &response, head.bare, head.encoding).await;
}

fn head_of(decoded: Decoded) -> Option<Box<Head>> {
    match decoded {
        Decoded::Request(request) => Some(Box::new(request.head)),
        Decoded::Rejected(head, _) => Some(head),
        Decoded::Acknowledgement => None,
    }
}

/// Why a request was not accepted, for its caller.
fn problem_of(error: &PublishError) -> Problem {
    match error {
        PublishError::SubjectFull | PublishError::StreamFull => {
            Problem::new(ErrorCode::QueueFull, "the team's queue for this priority is full; ask again later")
        }
        PublishError::StoreFull(_) => Problem::new(
            ErrorCode::BrokerUnavailable,
            "the broker's store is full; ask again later with the same id",
        ),
        PublishError::TooLarge { .. } => {
            Problem::at(ErrorCode::RequestTooLarge, "body", "the request is larger than a message may be")
        }
        PublishError::Permission(_) => Problem::new(
            ErrorCode::BrokerUnavailable,
            "the ask service may not publish requests: check its permissions",
        ),
        PublishError::NoAnswer(_) | PublishError::Refused { .. } | PublishError::WrongLastSequence => {
            Problem::new(
                ErrorCode::BrokerUnavailable,
                "the request could not be stored; ask again with the same id",
            )
        }
    }
}
