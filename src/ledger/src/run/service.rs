//! The `usage.query` endpoint of the control plane, a NATS micro service.

use std::sync::{Arc, PoisonError};

use async_nats::HeaderMap;
use async_nats::service::endpoint::Endpoint;
use async_nats::service::{Request, Service, ServiceExt};
use futures_util::StreamExt;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tollgate_bus::bucket::{ALERTS, Swapped};
use tollgate_bus::{Bus, event, headers};
use tollgate_protocol::budget::{BudgetList, BudgetQuestion, Counter, OpenQuestion, Told};
use tollgate_protocol::{ErrorCode, Problem, header};

use super::in_background;
use super::settle::Shared;
use crate::query::{self, Answer, AsOf};
use crate::{Error, Ledger};

/// The service's name; other parts add their endpoints to services of the same name.
const NAME: &str = "tollgate-ctl";
/// Queries that are worked on at a time; each reads the store and holds up the fold.
const QUERIES_MAX: usize = 2;
/// What an answer leaves of the server's largest message for subject and headers, in bytes.
const HEADROOM: usize = 64 * 1024;

/// The endpoint, listening.
pub(super) struct Queries {
    bus: Bus,
    ledger: Arc<Ledger>,
    book: Shared,
    service: Service,
    endpoint: Endpoint,
    open: Endpoint,
    list: Endpoint,
}

impl Queries {
    /// Starts listening.
    pub(super) async fn start(bus: &Bus, ledger: &Arc<Ledger>, book: &Shared) -> Result<Self, Error> {
        let subject = bus.subjects().control("usage", "query");
        let failed =
            |error: async_nats::Error| Error::Service { subject: subject.clone(), reason: error.to_string() };
        let builder = bus.client().service_builder().description("Tollgate's control plane: usage");
        let service = builder.start(NAME, env!("CARGO_PKG_VERSION")).await.map_err(failed)?;
        let endpoint = service.endpoint_builder().name("usage-query").add(&subject).await.map_err(failed)?;
        let open = bus.subjects().control("budget", "open");
        let open = service.endpoint_builder().name("budget-open").add(&open).await.map_err(failed)?;
        let list = bus.subjects().control("budget", "list");
        let list = service.endpoint_builder().name("budget-list").add(&list).await.map_err(failed)?;
        let (bus, ledger, book) = (bus.clone(), Arc::clone(ledger), Arc::clone(book));
        Ok(Self { bus, ledger, book, service, endpoint, open, list })
    }

    /// Answers until `stop`, and returns when every query in hand is answered.
    pub(super) async fn answer(mut self, stop: &CancellationToken) {
        let places = Arc::new(Semaphore::new(QUERIES_MAX));
        let tasks = TaskTracker::new();
        loop {
            let place = Arc::clone(&places).acquire_owned();
            let next = tokio::select! {
                () = stop.cancelled() => break,
                question = self.open.next() => {
                    let Some(question) = question else { break };
                    let book = Arc::clone(&self.book);
                    tasks.spawn(async move { say_open(book, &question).await });
                    continue;
                }
                question = self.list.next() => {
                    let Some(question) = question else { break };
                    let (bus, book) = (self.bus.clone(), Arc::clone(&self.book));
                    tasks.spawn(async move { say_budgets(&bus, &book, &question).await });
                    continue;
                }
                next = async { (place.await, self.endpoint.next().await) } => next,
            };
            let (Ok(place), Some(request)) = next else {
                tracing::error!("queries are no longer received");
                break;
            };
            let (bus, ledger) = (self.bus.clone(), Arc::clone(&self.ledger));
            tasks.spawn(async move {
                respond(&bus, &ledger, &request).await;
                drop(place);
            });
        }
        tasks.close();
        tasks.wait().await;
        if let Err(error) = self.service.stop().await {
            tracing::debug!(%error, "the query service was not stopped cleanly");
        }
    }
}

/// What is spent of all budgets, or of one.
async fn say_budgets(bus: &Bus, book: &Shared, request: &Request) {
    let asked: BudgetQuestion = serde_json::from_slice(&request.message.payload).unwrap_or_default();
    let now = tollgate_bus::now();
    let mut list = book.lock().unwrap_or_else(PoisonError::into_inner).list(now);
    if let Some(name) = asked.name {
        only(&mut list, &name);
        for budget in &mut list.budgets {
            let counter = Counter { budget: budget.name.clone(), window: budget.window.clone() };
            if let Ok(Swapped::Other(value, _)) = bus.current(ALERTS, &counter.to_string()).await {
                let told: Told = serde_json::from_slice(&value).unwrap_or_default();
                budget.told_percent = Some(told.percents);
            }
        }
    }
    say(request, &list).await;
}

/// Leaves what is of this name.
fn only(list: &mut BudgetList, name: &str) {
    list.budgets.retain(|budget| budget.name == name);
    list.limits.retain(|limit| limit.name == name);
}

/// What is reserved for a request already.
async fn say_open(book: Shared, request: &Request) {
    let Ok(question) = serde_json::from_slice::<OpenQuestion>(&request.message.payload) else { return };
    let read = move || Ok(book.lock().unwrap_or_else(PoisonError::into_inner).answer(&question)?);
    let answer = match in_background(read).await {
        Ok(answer) => answer,
        Err(error) => return tracing::error!(%error, "what is reserved for a request cannot be read"),
    };
    say(request, &answer).await;
}

async fn say(request: &Request, answer: &impl serde::Serialize) {
    let Ok(payload) = serde_json::to_vec(answer) else { return };
    if let Err(error) = request.respond(Ok(payload.into())).await {
        tracing::debug!(%error, "an answer was not sent");
    }
}

async fn respond(bus: &Bus, ledger: &Arc<Ledger>, request: &Request) {
    let (headers, payload) = match answer(bus, ledger, request.message.payload.clone()).await {
        Ok(json) => (HeaderMap::new(), json),
        Err(problem) => refusal(&problem),
    };
    if let Err(error) = request.respond_with_headers(Ok(payload.into()), headers).await {
        tracing::debug!(%error, "the answer to a query was not sent");
    }
}

async fn answer(bus: &Bus, ledger: &Arc<Ledger>, payload: bytes::Bytes) -> Result<Vec<u8>, Problem> {
    let internal = |error: &dyn std::fmt::Display| {
        tracing::error!(%error, "a query failed");
        Problem::new(ErrorCode::Internal, "the ledger failed to answer; its log says why")
    };
    let (request, query) = query::parse(&payload)?;
    let last = last_sequence(bus).await;
    let ledger = Arc::clone(ledger);
    let size_max = bus.connection().max_payload().saturating_sub(HEADROOM);
    let encoded = in_background(move || {
        let (sums, state) = ledger.query(&query)?;
        let as_of = AsOf {
            sequence: state.cursor,
            // The fold may have passed what the server said before the query began.
            stream_last_sequence: last.map(|last| last.max(state.cursor)),
            lag: last.map(|last| last.saturating_sub(state.cursor)),
            skipped: state.skipped,
            missing: state.missing,
        };
        Ok(Answer::new(&request, &query, sums, as_of).encode(size_max))
    });
    match encoded.await {
        Ok(Ok(Some(json))) => Ok(json),
        Ok(Ok(None)) => {
            Err(Problem::new(ErrorCode::ResponseTooLarge, "the server's max_payload is too small"))
        }
        Ok(Err(error)) => Err(internal(&error)),
        Err(error) => Err(internal(&error)),
    }
}

async fn last_sequence(bus: &Bus) -> Option<u64> {
    let name = bus.subjects().stream(event::USAGE);
    let stream = bus.jetstream().get_stream(name).await.ok()?;
    Some(stream.cached_info().state.last_sequence)
}

/// A problem as body and as the headers that NATS services use.
fn refusal(problem: &Problem) -> (HeaderMap, Vec<u8>) {
    let code = problem.http_status.to_string();
    let headers = headers::headers([
        (header::SERVICE_ERROR, problem.code.as_str()),
        (header::SERVICE_ERROR_CODE, code.as_str()),
    ]);
    (headers, serde_json::json!({ "error": problem }).to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use tollgate_protocol::budget::BudgetState;

    use super::*;

    #[test]
    fn who_asks_for_one_budget_is_told_of_no_other_nor_of_limits() {
        let state = |name: &str| BudgetState { name: name.into(), ..BudgetState::default() };
        let all = || BudgetList {
            budgets: vec![state("a"), state("b")],
            limits: vec![state("c"), state("d")],
            ..BudgetList::default()
        };
        let asked = |name: &str| {
            let mut list = all();
            only(&mut list, name);
            (list.budgets, list.limits)
        };
        assert_eq!(asked("b"), (vec![state("b")], Vec::new()));
        assert_eq!(asked("c"), (Vec::new(), vec![state("c")]));
    }
}
