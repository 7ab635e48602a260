//! Publishes the usage events of requests that no attempt ended.
//!
//! Whoever stores a response puts that event into its headers, so that storing the answer and deciding
//! what it counts as are one write. From there it is moved to the usage stream: published first,
//! acknowledged after. A crash between the two publishes it again, and it counts once.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tollgate_bus::heartbeat::Heartbeats;
use tollgate_bus::pull::{Held, PullFrom};
use tollgate_bus::{Bus, record};
use tollgate_protocol::header::{self, Headers};
use tollgate_protocol::subject::Subjects;
use tollgate_protocol::usage::{Kind, UsageEvent};

use crate::metrics;

/// The durable consumer's name.
const CONSUMER: &str = "ledger-unpaid";
/// The CloudEvents source of what the ledger publishes.
const SOURCE: &str = "tollgate/ledger";
/// Most events that are being published at a time.
const IN_FLIGHT_MAX: usize = 256;
const ACK_WAIT: Duration = Duration::from_secs(30);
/// How long publishing may go on after `stop`. What is not done by then is done by the next ledger.
const GRACE: Duration = Duration::from_secs(5);
/// How long an event that could not be published waits before it is tried again.
const HAND_BACK: Duration = Duration::from_secs(2);

/// Works until `stop`, and returns when nothing is in flight any more.
pub(super) async fn publish(bus: &Bus, stop: &CancellationToken) {
    let heartbeats = Heartbeats::default();
    let (into, mut responses) = mpsc::channel(IN_FLIGHT_MAX);
    let places = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let tasks = TaskTracker::new();
    let pulling =
        bus.pull(consumer(bus.subjects()), places, IN_FLIGHT_MAX, heartbeats.clone(), into, stop.clone());
    let publishing = async {
        while let Some(response) = responses.recv().await {
            let (bus, stop) = (bus.clone(), stop.clone());
            tasks.spawn(async move { one(&bus, response, &stop).await });
        }
        tasks.close();
        tasks.wait().await;
    };
    let beating = heartbeats.run(bus.client().clone(), ACK_WAIT, stop.clone());
    tokio::join!(pulling, publishing, beating);
}

fn consumer(subjects: &Subjects) -> PullFrom {
    PullFrom {
        stream: subjects.stream(record::STREAM),
        consumer: pull::Config {
            durable_name: Some(CONSUMER.into()),
            description: Some("requests that no attempt ended, on their way to the usage stream".into()),
            filter_subject: subjects.responses(),
            headers_only: true,
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_deliver: -1,
            max_ack_pending: 4_096,
            max_waiting: 512,
            ..pull::Config::default()
        },
    }
}

/// What a stored response asks for.
#[derive(Debug)]
enum Unpaid {
    /// Nothing: its last attempt has published its own event.
    Nothing,
    /// This event.
    Event(Box<UsageEvent>),
    /// Something that is not such an event, for this reason.
    Unreadable(String),
}

/// Reads the headers of a response that is stored under `subject`. An event that is about another request
/// than the response is not believed: clients could be able to write where the response is.
fn unpaid(subjects: &Subjects, subject: &str, headers: &(impl Headers + ?Sized)) -> Unpaid {
    let Some(text) = headers.get(header::UNPAID) else { return Unpaid::Nothing };
    match serde_json::from_str::<UsageEvent>(text) {
        Err(error) => Unpaid::Unreadable(error.to_string()),
        Ok(event) if event.kind != Kind::Unpaid || event.attempt != 0 || event.corrects.is_some() => {
            Unpaid::Unreadable(format!("it is of kind {} and attempt {}", event.kind.as_str(), event.attempt))
        }
        Ok(event) if subjects.response(&event.identity()) != subject => {
            Unpaid::Unreadable("it is about another request".into())
        }
        Ok(event) => Unpaid::Event(Box::new(event)),
    }
}

async fn one(bus: &Bus, response: Held, stop: &CancellationToken) {
    let headers = response.header_view();
    match unpaid(bus.subjects(), &response.subject, &headers) {
        Unpaid::Nothing => response.ack().await,
        Unpaid::Unreadable(reason) => {
            metrics::note_unreadable_header();
            tracing::error!(
                subject = response.subject,
                reason,
                "the unpaid event of a response cannot be read"
            );
            response.ack().await;
        }
        Unpaid::Event(event) => {
            let publishing = bus.publish_usage(&event, SOURCE, headers.get(header::TRACEPARENT));
            let published = tokio::select! {
                published = publishing => published,
                () = async { stop.cancelled().await; tokio::time::sleep(GRACE).await } => return response.abandon(),
            };
            match published {
                Ok(_) => response.ack().await,
                Err(error) => {
                    tracing::error!(%error, request = %event.identity(), "usage event of a response was not stored");
                    response.hand_back(HAND_BACK).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{event, unpaid as unpaid_event};
    use tollgate_protocol::response::Status;

    fn read(subject: &str, header: &str) -> Unpaid {
        unpaid(&Subjects::default(), subject, [(header::UNPAID, header)].as_slice())
    }

    #[test]
    fn only_an_unpaid_event_of_the_same_request_is_published() {
        let own = header::ascii_json(&unpaid_event("r1", Status::Rejected)).unwrap();
        assert!(matches!(read("llm.res.research._.r1", &own), Unpaid::Event(_)));
        assert!(matches!(read("llm.res.research._.r2", &own), Unpaid::Unreadable(_)));
        assert!(matches!(read("llm.res.research._.r1", "{"), Unpaid::Unreadable(_)));
        let attempt = header::ascii_json(&event("r1", 1)).unwrap();
        assert!(matches!(read("llm.res.research._.r1", &attempt), Unpaid::Unreadable(_)));
        assert!(matches!(unpaid(&Subjects::default(), "llm.res.research._.r1", &()), Unpaid::Nothing));
    }
}
