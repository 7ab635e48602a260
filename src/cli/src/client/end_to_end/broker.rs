//! A nats-server with Tollgate's streams, and a task that answers requests by the name of their model.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::task::{AbortHandle, JoinSet};
use tollgate_bus::record::Write;
use tollgate_bus::retry::Patience;
use tollgate_bus::topology::{Plan, REQUESTS};
use tollgate_bus::{Bus, ConnectSettings, Connection, headers};
use tollgate_protocol::record::{Answered, Source};
use tollgate_protocol::request::RequestEnvelope;
use tollgate_protocol::response::{Response, Status, Timing};
use tollgate_protocol::subject::Subjects;
use tollgate_protocol::{
    Digest, ErrorCode, Group, Identity, JsonText, NanoUsd, Problem, RequestId, Team, TokenUsage,
};

/// Where `make tools` puts the server.
const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.tools/nats-server");

pub(super) struct Broker {
    pub(super) url: String,
    folder: tempfile::TempDir,
    server: Child,
    bus: Bus,
    tasks: std::sync::Mutex<JoinSet<()>>,
    seen: Arc<AtomicUsize>,
    released: Arc<AtomicBool>,
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Broker {
    /// A server without anything on it.
    pub(super) async fn bare() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Command::new(server_program())
            .args(["-js", "-a", "127.0.0.1", "-p", "-1", "-sd"])
            .arg(folder.path().join("store"))
            .arg("--ports_file_dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let url = url_of(&server, &folder).await;
        let settings =
            ConnectSettings { server: url.clone(), name: "test".into(), ..ConnectSettings::default() };
        let connection = Connection::open(&settings).await.unwrap();
        let bus = Bus::new(connection, Subjects::default());
        Self {
            url,
            folder,
            server,
            bus,
            tasks: std::sync::Mutex::default(),
            seen: Arc::default(),
            released: Arc::default(),
        }
    }

    /// The same with streams that hold so many requests of a team, and something that answers.
    pub(super) async fn start(team_requests_max: u64) -> Self {
        let broker = Self::bare().await;
        let plan = Plan {
            team_requests_max,
            requests_bytes_max: None,
            record_max_age: Duration::from_secs(16 * 86_400),
            usage_max_age: Duration::from_secs(3_600),
            providers: vec![("sim".into(), 8)],
            replicas: 1,
        };
        broker.bus.ensure_topology(&plan).await.unwrap();
        let mut requests = broker.bus.client().subscribe("llm.req.*.*").await.unwrap();
        broker.bus.client().flush().await.unwrap();
        let (bus, seen, released) =
            (broker.bus.clone(), Arc::clone(&broker.seen), Arc::clone(&broker.released));
        broker.tasks.lock().unwrap().spawn(async move {
            while let Some(message) = requests.next().await {
                seen.fetch_add(1, Ordering::SeqCst);
                let team = message.subject.split('.').nth(2).unwrap().to_owned();
                answer(&bus, &team, &message.payload, released.load(Ordering::SeqCst)).await;
            }
        });
        broker
    }

    /// From now on requests that got no answer get one when they are sent again.
    pub(super) fn release(&self) {
        self.released.store(true, Ordering::SeqCst);
    }

    /// How many requests were published, accepted or not.
    pub(super) fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    /// Empties the request stream again and again, as routers would.
    pub(super) fn drain_every(&self, pause: Duration) -> AbortHandle {
        let bus = self.bus.clone();
        self.tasks.lock().unwrap().spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                let name = bus.subjects().stream(REQUESTS);
                bus.jetstream().get_stream(&name).await.unwrap().purge().await.unwrap();
            }
        })
    }

    /// A command line for this server; `{}` is the test's folder.
    pub(super) fn line(&self, line: &str) -> String {
        let folder = self.folder.path().display().to_string();
        format!("{} --server {}", line.replace("{}", &folder), self.url)
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    pub(super) fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.folder.path().join(name)).ok()
    }
}

fn server_program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::var_os("TOLLGATE_NATS_SERVER")
        .map(PathBuf::from)
        .into_iter()
        .chain([PathBuf::from(TOOLS)])
        .chain(std::env::split_paths(&path).map(|folder| folder.join("nats-server")))
        .find(|path| path.is_file())
        .expect("a nats-server; `make tools` fetches one")
}

/// The server writes the port it got into a file.
async fn url_of(server: &Child, folder: &tempfile::TempDir) -> String {
    for _ in 0..400 {
        let ports = std::fs::read_dir(folder.path())
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.to_string_lossy().ends_with(&format!("_{}.ports", server.id())));
        let text = ports.and_then(|path| std::fs::read(path).ok()).unwrap_or_default();
        if let Ok(ports) = serde_json::from_slice::<serde_json::Value>(&text) {
            return ports["nats"][0].as_str().unwrap().to_owned();
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("the nats-server does not start")
}

async fn answer(bus: &Bus, team: &str, payload: &[u8], released: bool) {
    let request: RequestEnvelope = serde_json::from_slice(payload).unwrap();
    let body: serde_json::Value = serde_json::from_str(request.body.unwrap().as_str()).unwrap();
    let model = body["model"].as_str().unwrap();
    let (status, error) = match model {
        "stuck" if !released => return,
        "bad" => (Status::Rejected, Some(Problem::new(ErrorCode::UnknownModel, "no such model"))),
        "late" => (Status::Expired, Some(Problem::new(ErrorCode::DeadlineExceeded, "too late"))),
        _ => (Status::Succeeded, None),
    };
    let response = Response {
        id: RequestId::parse(&request.id.unwrap()).unwrap(),
        team: Team::parse(team).unwrap(),
        group: Group::parse(&request.group.unwrap()).unwrap(),
        status,
        body: error.is_none().then(|| JsonText::from(serde_json::json!({"echo": model}))),
        error,
        requested_model: model.into(),
        provider: Some("sim".into()),
        model: Some(model.into()),
        usage: TokenUsage::default(),
        cost_nano_usd: NanoUsd(10),
        attempts: Vec::new(),
        timing: Timing { accepted_at: tollgate_bus::now(), queued_ms: 0, provider_ms: 0, total_ms: 0 },
        cache: None,
    };
    let identity: Identity = response.identity();
    let from = Source { stream: "LLM_REQ".into(), sequence: 1 };
    let answered = Answered { digest: Digest::of(payload), status, attempt: 1, from, dead: None };
    let facts = answered.to_headers();
    let write = Write {
        identity: &identity,
        subject: bus.subjects().response(&identity),
        headers: headers::headers(facts.iter().map(|(name, value)| (*name, value.as_str()))),
        ttl_seconds: 600,
        payload: serde_json::to_vec(&response).unwrap().into(),
        expected: 0,
    };
    // A repeat finds the answer already there, which is as it should be.
    bus.write_record(write, Patience::NORMAL).await.unwrap();
}
