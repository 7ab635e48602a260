//! What budgets and limits hold and what they cost: runs of the release build with four routers, each with its bars.
//!
//! `cargo bench --bench budgets -- strict`, `-- estimate` or `-- rate` takes one of them.

#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark is a shell: it reads the clock and its environment and has tasks of its own"
)]
#![expect(clippy::print_stdout, reason = "the table is what it is for")]
#![expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]

#[path = "../support/bar.rs"]
mod bar;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "this benchmark has a provider and a client of its own")]
mod support;

mod rate;
mod spending;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bar::Parts;
use serde_json::json;
use tollgate_tests::client::{Client, Live};
use tollgate_tests::config::Config;
use tollgate_tests::money::Price;
use tollgate_tests::nats::NatsServer;
use tollgate_tests::provider::Provider;
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::{Broker, Role, Running};

const TEAM: &str = "research";
/// Only output is paid for: an answer of the provider has two tokens, and costs $0.0001.
const PRICE: Price = Price { input: 0, cached_input: 0, output: 50_000_000_000 };
const COST: i64 = 100_000;
const PATIENCE: Duration = Duration::from_secs(900);

fn main() -> ExitCode {
    let mut parts = Parts::begin();
    parts.part("strict", spending::strict);
    parts.part("estimate", spending::estimate);
    parts.part("rate", rate::measure);
    parts.end()
}

/// A broker with four routers, its provider, and a client that sees the team's answers.
struct Setting {
    // The roles end before the server.
    _running: Vec<Running>,
    client: Client,
    live: Live,
    provider: Provider,
    nats: NatsServer,
}

impl Setting {
    async fn start(binary: &Path, max_in_flight: u32, more: &str) -> Self {
        let (nats, provider) = tokio::join!(NatsServer::start(), Provider::start());
        let config = Config::new()
            .provider("sim", &provider.base_url(), max_in_flight, &[("m-1", PRICE)])
            .model("small", &["sim/m-1"])
            .team(TEAM)
            .raw(more);
        let broker = Broker::with_binary(binary, &config, &nats.url());
        let mut running = Vec::new();
        for role in [Role::Router, Role::Router, Role::Router, Role::Router, Role::Worker, Role::Ledger] {
            running.push(broker.run(role).await);
        }
        let client = Client::connect(&nats.url()).await;
        let live = client.watch(TEAM).await;
        Self { _running: running, client, live, provider, nats }
    }
}

fn requests(count: usize, max_tokens: u64) -> Vec<Request> {
    let request = |n: usize| {
        let identity = Identity::new(TEAM, "budgets", &format!("r{n}"));
        let messages = json!([{"role": "user", "content": format!("r{n}")}]);
        let body = json!({"model": "small", "max_tokens": max_tokens, "messages": messages});
        Request::with_body(&identity, body)
    };
    (0..count).map(request).collect()
}
