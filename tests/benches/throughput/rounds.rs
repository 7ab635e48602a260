//! What is measured, one thing at a time, each on streams of its own that are deleted afterwards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::Config;
use futures_util::{StreamExt, TryStreamExt};
use tollgate_tests::nats::NatsServer;
use tollgate_tests::port::free_port;
use tollgate_tests::process::Process;
use tollgate_tests::roles::{Broker, Role, Running, Server};
use tollgate_tests::wait::eventually;

use crate::load::{Load, quantile_ms};
use crate::support::broker::{self, Provider};
use crate::support::client::connect;
use crate::support::machine;
use crate::{cpu, floor};

/// How long each measurement lasts, and what comes before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lengths {
    /// Load before the clock starts.
    pub(crate) warm_up: Duration,
    /// A closed loop.
    pub(crate) closed: Duration,
    /// An open loop.
    pub(crate) open: Duration,
    /// Of the open loop.
    pub(crate) per_second: u32,
}

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// The bare program.
    Floor,
    /// `tollgate run` router, worker and ledger.
    Roles,
    /// `tollgate up`.
    Up,
}

impl Subject {
    /// In the order they take turns in.
    pub(crate) const ALL: [Self; 3] = [Self::Floor, Self::Roles, Self::Up];

    /// As it stands in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Roles => "roles",
            Self::Up => "up",
        }
    }
}

/// One closed loop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Closed {
    /// Answered requests in a second.
    pub(crate) per_second: f64,
    /// CPU microseconds for each request, by process.
    pub(crate) cpu_us: BTreeMap<String, f64>,
    /// Messages into and out of the nats-server for each request.
    pub(crate) messages: (f64, f64),
    /// MiB, by process.
    pub(crate) rss_mib: BTreeMap<String, f64>,
    /// The most it ever was.
    pub(crate) peak_mib: BTreeMap<String, f64>,
    /// Bytes of a stored message, by stream, so that it is seen whether the floor's are of the same size.
    pub(crate) message_bytes: BTreeMap<String, f64>,
}

/// One open loop.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Open {
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// Everything that stays the same over a run.
pub(crate) struct Bench {
    nats: NatsServer,
    /// Its monitoring address.
    monitor: String,
    provider: Provider,
    binary: PathBuf,
    dir: tempfile::TempDir,
    lengths: Lengths,
    measured: u32,
}

/// What runs while a subject is measured. Dropping it kills it.
enum Answering {
    Floor(Process),
    Roles(Vec<(Role, Running)>),
    Up(Running),
}

impl Answering {
    fn processes(&self) -> Vec<(String, u32)> {
        match self {
            Self::Floor(process) => vec![("floor".to_owned(), process.pid())],
            Self::Roles(roles) => roles
                .iter()
                .map(|(role, running)| (role.name().to_owned(), running.process().pid()))
                .collect(),
            Self::Up(running) => vec![("up".to_owned(), running.process().pid())],
        }
    }
}

impl Bench {
    pub(crate) async fn start(binary: &Path, lengths: Lengths) -> Self {
        let dir =
            tempfile::Builder::new().prefix("bench-").tempdir().expect("a temporary folder can be made");
        let provider = Provider::start(binary, dir.path()).await;
        let address = format!("127.0.0.1:{}", free_port());
        let nats = NatsServer::start_with(&format!("http: \"{address}\"")).await;
        let (monitor, binary) = (format!("http://{address}/varz"), binary.to_owned());
        Self { nats, monitor, provider, binary, dir, lengths, measured: 0 }
    }

    /// Rate of a bare publish loop into one stream.
    pub(crate) async fn publish_rate(&self) -> f64 {
        const IN_FLIGHT: usize = 512;
        let jetstream = connect(&self.nats.url()).await;
        let config = Config { name: "BARE".into(), subjects: vec!["bare.*".into()], ..Config::default() };
        jetstream.create_stream(config).await.expect("a stream can be created");
        let payload = bytes::Bytes::from(vec![b'x'; 512]);
        let start = Instant::now();
        let until = start + self.lengths.closed / 2;
        let publishes = futures_util::stream::iter(0_u64..).take_while(|_| async { Instant::now() < until });
        let published = publishes
            .map(|number| {
                let message = PublishMessage::build().headers(HeaderMap::new()).payload(payload.clone());
                let (jetstream, subject) = (&jetstream, format!("bare.{}", number % 64));
                async move { jetstream.send_publish(subject, message).await.expect("it can be sent").await }
            })
            .buffer_unordered(IN_FLIGHT)
            .try_fold(0_u64, async |count, _| Ok(count + 1))
            .await
            .expect("every publish is acknowledged");
        let rate = published as f64 / start.elapsed().as_secs_f64();
        jetstream.delete_stream("BARE").await.expect("the stream can be deleted");
        rate
    }

    /// A closed loop of so many requests at once.
    pub(crate) async fn closed(&mut self, subject: Subject, in_flight: usize) -> Closed {
        let prefix = self.next_prefix();
        let answering = self.answering(subject, &prefix, in_flight).await;
        let load = Load::start(&self.nats.url(), &prefix).await;
        let busy = load.client.keep_busy(in_flight);
        tokio::time::sleep(self.lengths.warm_up).await;

        let processes = self.processes(&answering);
        let messages_before = self.messages().await;
        let (before, cpu_before, start) = (busy.answered(), cpu::cpu(&processes), Instant::now());
        tokio::time::sleep(self.lengths.closed).await;
        let (after, cpu_after, took) = (busy.answered(), cpu::cpu(&processes), start.elapsed());
        let messages = self.messages().await;
        let memory =
            |of: fn(u32) -> f64| processes.iter().map(|(name, pid)| (name.clone(), of(*pid))).collect();
        let (rss_mib, peak_mib) = (memory(machine::rss_mib), memory(machine::peak_mib));
        let message_bytes = self.message_bytes(&prefix).await;
        busy.finish().await;
        assert_eq!(load.client.strays(), 0, "a response came twice");
        let answered = (after - before) as f64;
        let cpu_us = cpu_after
            .iter()
            .map(|(name, seconds)| (name.clone(), (seconds - cpu_before[name]) * 1e6 / answered));
        let messages =
            ((messages.0 - messages_before.0) / answered, (messages.1 - messages_before.1) / answered);
        let (cpu_us, per_second) = (cpu_us.collect(), answered / took.as_secs_f64());
        drop((load, answering));
        self.delete_streams(&prefix).await;
        Closed { per_second, cpu_us, messages, rss_mib, peak_mib, message_bytes }
    }

    /// An open loop at the fixed rate.
    pub(crate) async fn open(&mut self, subject: Subject) -> Open {
        let prefix = self.next_prefix();
        let answering = self.answering(subject, &prefix, 64).await;
        let load = Load::start(&self.nats.url(), &prefix).await;
        load.client.at_rate(self.lengths.per_second, self.lengths.warm_up).await;
        let took = load.client.at_rate(self.lengths.per_second, self.lengths.open).await;
        assert_eq!(load.client.strays(), 0, "a response came twice");
        drop((load, answering));
        self.delete_streams(&prefix).await;
        Open { p50_ms: quantile_ms(&took, 0.5), p99_ms: quantile_ms(&took, 0.99) }
    }

    async fn answering(&self, subject: Subject, prefix: &str, in_flight: usize) -> Answering {
        let url = self.nats.url();
        if subject == Subject::Floor {
            let base_url = self.provider.base_url().to_owned();
            let settings = floor::Settings { url, prefix: prefix.to_owned(), base_url, in_flight };
            return Answering::Floor(self.spawn_floor(&settings).await);
        }
        let config = broker::config(prefix, self.provider.base_url(), in_flight);
        let broker = Broker::with_binary(&self.binary, &config, &url);
        if subject == Subject::Up {
            return Answering::Up(broker.up(Server::Given, &[]).await);
        }
        let mut roles = Vec::new();
        for role in [Role::Router, Role::Worker, Role::Ledger] {
            roles.push((role, broker.run(role).await));
        }
        Answering::Roles(roles)
    }

    async fn spawn_floor(&self, settings: &floor::Settings) -> Process {
        let itself = std::env::current_exe().expect("a program knows its own path");
        let mut command = Command::new(itself);
        command.args(settings.to_arguments());
        let process = Process::spawn("floor", command, self.dir.path());
        eventually(Duration::from_secs(20), "a floor that is ready", async || {
            if process.stdout().contains("ready") { Ok(()) } else { Err(process.stderr()) }
        })
        .await;
        process
    }

    fn processes(&self, answering: &Answering) -> Vec<(String, u32)> {
        let mut processes = answering.processes();
        processes.push(("nats-server".to_owned(), self.nats.pid()));
        processes.push(("simulator".to_owned(), self.provider.pid()));
        processes.push(("client".to_owned(), std::process::id()));
        processes
    }

    /// Messages into and out of the nats-server up to now, its own API's requests included.
    async fn messages(&self) -> (f64, f64) {
        let text = tollgate_tests::http().get(&self.monitor).send().await.expect("it can be monitored");
        let text = text.text().await.expect("its answer ends");
        let varz: serde_json::Value = serde_json::from_str(&text).expect("its answer is JSON");
        let count = |key: &str| varz[key].as_f64().expect("it counts its messages");
        (count("in_msgs"), count("out_msgs"))
    }

    fn next_prefix(&mut self) -> String {
        self.measured += 1;
        format!("m{}", self.measured)
    }

    /// The mean size of what each stream of this prefix holds now, its headers and bookkeeping included.
    async fn message_bytes(&self, prefix: &str) -> BTreeMap<String, f64> {
        let jetstream = connect(&self.nats.url()).await;
        let mut sizes = BTreeMap::new();
        for name in streams_of(&jetstream, prefix).await {
            let stream = jetstream.get_stream(&name).await.expect("a listed stream is there");
            let state = &stream.cached_info().state;
            if state.messages > 0 {
                let kind = name.split_once('_').map_or(name.as_str(), |(_, kind)| kind);
                sizes.insert(kind.to_owned(), state.bytes as f64 / state.messages as f64);
            }
        }
        sizes
    }

    async fn delete_streams(&self, prefix: &str) {
        let jetstream = connect(&self.nats.url()).await;
        for name in streams_of(&jetstream, prefix).await {
            jetstream.delete_stream(&name).await.expect("a stream can be deleted");
        }
    }
}

async fn streams_of(jetstream: &Context, prefix: &str) -> Vec<String> {
    let beginning = format!("{}_", prefix.to_ascii_uppercase());
    let names: Vec<String> = jetstream.stream_names().try_collect().await.expect("streams can be listed");
    // A key-value store is a stream named `KV_…`; those have the prefix in lower case.
    let of_kv = format!("KV_{prefix}_");
    names.into_iter().filter(|name| name.starts_with(&beginning) || name.starts_with(&of_kv)).collect()
}
