//! The shells against a real nats-server, given by `TOLLGATE_NATS_SERVER`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tollgate_bus::topology::Plan;
use tollgate_bus::{ConnectSettings, Connection, headers};
use tollgate_protocol::header;
use tollgate_protocol::response::Status;
use tollgate_protocol::subject::Subjects;
use tollgate_protocol::usage::UsageEvent;

use super::*;
use crate::query::Answer;
use crate::testing::{event, lost, unpaid};
use crate::{Aged, rebuild};

/// A nats-server that is killed when dropped.
struct Server {
    binary: PathBuf,
    port: u16,
    store: tempfile::TempDir,
    child: Child,
}

impl Server {
    async fn start() -> Option<Self> {
        let Some(binary) = std::env::var_os("TOLLGATE_NATS_SERVER").map(PathBuf::from) else {
            eprintln!("SKIPPED: set TOLLGATE_NATS_SERVER to the path of a nats-server to run this test");
            return None;
        };
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let store = tempfile::tempdir().unwrap();
        let child = spawn(&binary, port, store.path());
        let server = Self { binary, port, store, child };
        server.ready().await;
        Some(server)
    }

    async fn ready(&self) {
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(&self.binary, self.port, self.store.path());
        self.ready().await;
    }

    async fn bus(&self) -> Bus {
        let server = format!("nats://127.0.0.1:{}", self.port);
        let settings = ConnectSettings { server, name: "ledger-test".into(), ..ConnectSettings::default() };
        let bus = Bus::new(Connection::open(&settings).await.unwrap(), Subjects::default());
        let plan = Plan {
            team_requests_max: 1_000,
            requests_bytes_max: None,
            record_max_age: Duration::from_secs(16 * 86_400),
            usage_max_age: Duration::from_secs(86_400),
            providers: Vec::new(),
            replicas: 1,
        };
        bus.ensure_topology(&plan).await.unwrap();
        bus
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(binary: &Path, port: u16, store: &Path) -> Child {
    Command::new(binary)
        .args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"])
        .arg(store)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

async fn publish(bus: &Bus, events: &[UsageEvent]) {
    for event in events {
        bus.publish_usage(event, "test", None).await.unwrap();
    }
}

/// Stores a response as a router does that rejects the request.
async fn store_response(bus: &Bus, id: &str) {
    let event = unpaid(id, Status::Rejected);
    let json = header::ascii_json(&event).unwrap();
    let subject = bus.subjects().response(&event.identity());
    let map = headers::headers([(header::UNPAID, json.as_str()), (header::STATUS, "rejected")]);
    bus.publish(&subject, map, None, "{}".into(), tollgate_bus::retry::Patience::NORMAL).await.unwrap();
}

/// Asks until everything stored has been folded and `requests` of them are there.
async fn answer(bus: &Bus, question: &'static str, requests: i64) -> Answer {
    let mut last = None;
    for _ in 0..1_200 {
        let reply = bus.client().request(bus.subjects().control("usage", "query"), question.into()).await;
        if let Ok(reply) = reply {
            let answer: Answer = serde_json::from_slice(&reply.payload).unwrap();
            if answer.total.requests == requests && answer.as_of.lag == Some(0) {
                return answer;
            }
            last = Some(answer);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never {requests} requests; the last answer was {last:?}");
}

/// Runs a ledger while `meanwhile` does.
async fn with_ledger<T>(
    bus: &Bus,
    data: &Path,
    meanwhile: impl Future<Output = T>,
) -> (T, Result<(), Error>) {
    let meanwhile = Box::pin(meanwhile);
    let stop = CancellationToken::new();
    let (sender, ready) = tokio::sync::oneshot::channel();
    let running = run(bus.clone(), Settings::default(), data, stop.clone(), || sender.send(()).unwrap());
    let meanwhile = async {
        ready.await.unwrap();
        let done = meanwhile.await;
        stop.cancel();
        done
    };
    let (outcome, done) = tokio::join!(running, meanwhile);
    (done, outcome)
}

#[tokio::test]
async fn usage_is_counted_once_through_restarts_of_everything_and_rebuilt_equal() {
    let Some(mut server) = Server::start().await else { return };
    let (bus, data) = (server.bus().await, tempfile::tempdir().unwrap());

    // What is there before the ledger, a request whose worker was lost, and one that was never run.
    publish(&bus, &[event("a", 1), lost("b", 1), event("a", 1)]).await;
    store_response(&bus, "rejected-1").await;
    let (first, outcome) = with_ledger(&bus, data.path(), async {
        answer(&bus, "", 2).await;
        publish(&bus, &[event("b", 2), event("c", 1)]).await;
        answer(&bus, r#"{"by":["team","model"]}"#, 4).await
    })
    .await;
    outcome.unwrap();
    assert_eq!((first.total.cost_nano_usd, first.total.lost, first.total.rejected), (10_777, 1, 1));
    assert_eq!(first.rows.len(), 2);

    // Another process of the ledger goes on where the first one ended, and a killed server only delays it.
    let (second, outcome) = with_ledger(&bus, data.path(), async {
        publish(&bus, &[event("b", 1), event("d", 1)]).await;
        answer(&bus, "", 6).await;
        server.kill_and_restart().await;
        let begun = tokio::time::Instant::now();
        publish(&bus, &[event("e", 1), event("e", 1)]).await;
        answer(&bus, "", 7).await;
        eprintln!("the fold went on {:?} after the server's restart", begun.elapsed());
        store_response(&bus, "rejected-2").await;
        let answer = answer(&bus, "", 8).await;
        eprintln!("unpaid requests went on {:?} after the server's restart", begun.elapsed());
        answer
    })
    .await;
    outcome.unwrap();
    assert_eq!((second.total.cost_nano_usd, second.total.lost, second.total.attempts), (6_000, 0, 6));

    // A response that was published by a ledger which died before its acknowledgement is counted once.
    let again = unpaid("rejected-1", Status::Rejected);
    bus.publish(
        &bus.subjects().usage(&again.team, "_", "_"),
        headers::headers([]),
        None,
        serde_json::to_vec(&again).unwrap().into(),
        tollgate_bus::retry::Patience::NORMAL,
    )
    .await
    .unwrap();
    let rebuilt = rebuild(&bus, Settings::default(), data.path(), Aged::Refuse, &CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(rebuilt.state.total, second.total);
    assert_eq!(rebuilt.before.map(|state| state.total), Some(second.total));
    assert!(rebuilt.kept.is_some_and(|kept| kept.join("db").is_file()));
}

#[tokio::test]
async fn queries_are_refused_as_services_do() {
    let Some(server) = Server::start().await else { return };
    let (bus, data) = (server.bus().await, tempfile::tempdir().unwrap());
    let ((), outcome) = with_ledger(&bus, data.path(), async {
        let subject = bus.subjects().control("usage", "query");
        let reply = bus.client().request(subject, r#"{"by":["colour"]}"#.into()).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&reply.payload).unwrap();
        assert_eq!(
            (body["error"]["code"].as_str(), body["error"]["field"].as_str()),
            (Some("invalid_field"), Some("by"))
        );
        let headers = reply.headers.unwrap();
        assert_eq!(
            headers.get(header::SERVICE_ERROR).map(ToString::to_string).as_deref(),
            Some("invalid_field")
        );
        assert_eq!(headers.get(header::SERVICE_ERROR_CODE).map(ToString::to_string).as_deref(), Some("400"));
        let second =
            run(bus.clone(), Settings::default(), data.path(), CancellationToken::new(), || {}).await;
        assert!(matches!(second, Err(Error::InUse(_))), "{second:?}");
    })
    .await;
    outcome.unwrap();
}

#[tokio::test]
async fn another_stream_of_the_same_name_is_refused() {
    let Some(server) = Server::start().await else { return };
    let (bus, data) = (server.bus().await, tempfile::tempdir().unwrap());
    publish(&bus, &[event("a", 1), event("b", 1)]).await;
    let (_, outcome) = with_ledger(&bus, data.path(), answer(&bus, "", 2)).await;
    outcome.unwrap();

    bus.jetstream().delete_stream("LLM_USAGE").await.unwrap();
    let bus = server.bus().await;
    publish(&bus, &[event("c", 1), event("d", 1), event("e", 1)]).await;
    let refused = run(bus.clone(), Settings::default(), data.path(), CancellationToken::new(), || {}).await;
    let error = refused.unwrap_err();
    assert!(matches!(error, Error::OtherStream { .. }), "{error}");
    let rebuilt = rebuild(&bus, Settings::default(), data.path(), Aged::Refuse, &CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(rebuilt.state.total.requests, 3);
}

#[tokio::test]
async fn events_that_aged_out_are_said_to_be_missing() {
    let Some(server) = Server::start().await else { return };
    let (bus, data) = (server.bus().await, tempfile::tempdir().unwrap());
    publish(&bus, &[event("a", 1), event("b", 1), event("c", 1)]).await;
    let stream = bus.jetstream().get_stream("LLM_USAGE").await.unwrap();
    stream.purge().sequence(3).await.unwrap();
    let (answer, outcome) = with_ledger(&bus, data.path(), answer(&bus, "", 1)).await;
    outcome.unwrap();
    assert_eq!((answer.as_of.missing, answer.as_of.sequence), (2, 3));

    let stop = CancellationToken::new();
    let refused = rebuild(&bus, Settings::default(), data.path(), Aged::Refuse, &stop).await;
    assert!(matches!(refused, Err(Error::AgedOut { first: 3 })), "{refused:?}");
    let rebuilt = rebuild(&bus, Settings::default(), data.path(), Aged::Accept, &stop).await.unwrap();
    assert_eq!((rebuilt.state.total.requests, rebuilt.state.missing), (1, 2));
}

/// Not a promise, a number to look at: `--nocapture` prints it.
#[tokio::test]
async fn a_backlog_is_folded() {
    const EVENTS: i64 = 20_000;
    let Some(server) = Server::start().await else { return };
    let (bus, data) = (server.bus().await, tempfile::tempdir().unwrap());
    let mut acks = Vec::new();
    for number in 0..EVENTS {
        let event = event(&format!("request-{number}"), 1);
        let subject = bus.subjects().usage(&event.team, "openai", "gpt-4o-mini");
        let payload = serde_json::to_vec(&event).unwrap();
        acks.push(bus.jetstream().publish(subject, payload.into()).await.unwrap().into_future());
        if acks.len() == 1_000 {
            for ack in acks.drain(..) {
                ack.await.unwrap();
            }
        }
    }
    for ack in acks {
        ack.await.unwrap();
    }
    let begun = tokio::time::Instant::now();
    let (folded, outcome) = with_ledger(&bus, data.path(), answer(&bus, r#"{"by":["team"]}"#, EVENTS)).await;
    outcome.unwrap();
    eprintln!("{EVENTS} events folded in {:?}", begun.elapsed());
    assert_eq!(folded.total.cost_nano_usd, i128::from(EVENTS) * 1_000);
}

/// A limit has a window for each minute: nothing may be left of one in the server.
#[tokio::test]
async fn nothing_is_left_of_a_window_that_is_forgotten() {
    use tollgate_bus::bucket::{ALERTS, SPENT};
    use tollgate_policy::budget::{Budget, Budgets, Measure, Per, Reserve, Scope, Tz, WhenSpent};

    let Some(server) = Server::start().await else { return };
    let (bus, data) = (server.bus().await, tempfile::tempdir().unwrap());
    let of = |name: &str, measure| Budget {
        name: name.into(),
        measure,
        scope: Scope::default(),
        limit: 1,
        per: Per::Minute,
        timezone: Tz::UTC,
        when_spent: WhenSpent::Hold,
        reserve: Reserve::Strict,
        alerts: Vec::new(),
    };
    let (limit, money) = (of("limit", Measure::Tokens), of("money", Measure::Money));
    let store = SledStore::open(data.path()).unwrap();
    let ledger = Arc::new(Ledger::open(Box::new(store), data.path(), Caps::default()).unwrap());
    let book = settle::open(&ledger, Budgets([limit.clone(), money.clone()].into())).await.unwrap();
    let counters = [limit, money].map(|budget| budget.counter(crate::testing::at(0)));
    for bucket in [SPENT, ALERTS] {
        bus.ensure_bucket(bucket, "", 1, 1).await.unwrap();
    }
    let left = async |bucket: &str| {
        let stream = bus.jetstream().get_stream(format!("KV_llm_{bucket}")).await.unwrap();
        stream.cached_info().state.messages
    };
    let spent = bus.bucket(SPENT).await.unwrap();
    for counter in &counters {
        spent.put(counter.to_string(), "{}".into()).await.unwrap();
    }
    let mut marks = Vec::new();
    for counter in &counters {
        assert!(forget::remove(&bus, &book, counter).await);
        marks.push((left(SPENT).await, left(ALERTS).await));
    }
    assert_eq!(marks, [(2, 0), (2, 1)], "who watches hears of it; nobody is alerted of a limit");
    forget::erase(&bus, counters.into()).await;
    assert_eq!((left(SPENT).await, left(ALERTS).await), (0, 0));
}
