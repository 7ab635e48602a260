//! An installation with a scripted provider, for benchmarks that look at single requests.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tollgate_tests::client::Client;
use tollgate_tests::config::Config;
use tollgate_tests::money::Price;
use tollgate_tests::nats::NatsServer;
use tollgate_tests::provider::Provider;
use tollgate_tests::request::{Identity, Request};
use tollgate_tests::roles::{Broker, Role, Running};

const PRICE: Price = Price { input: 150_000_000, cached_input: 75_000_000, output: 600_000_000 };
/// What every request asks for.
pub(crate) const MODEL: &str = "small";

/// A broker with a provider of its own. Everything ends with it.
pub(crate) struct Setting {
    // The roles end before the server.
    pub(crate) running: Vec<Running>,
    broker: Broker,
    pub(crate) client: Client,
    pub(crate) provider: Provider,
    pub(crate) nats: NatsServer,
}

impl Setting {
    /// Routers, and what a client needs; workers come with [`Setting::run`].
    pub(crate) async fn start(
        binary: &Path,
        routers: usize,
        max_in_flight: u32,
        latency: Duration,
        teams: &BTreeMap<&str, u32>,
    ) -> Self {
        let (nats, provider) = tokio::join!(NatsServer::start(), Provider::start());
        provider.latency(latency);
        let config = Config::new().provider("sim", &provider.base_url(), max_in_flight, &[("m-1", PRICE)]);
        let config = teams.iter().fold(config.model(MODEL, &["sim/m-1"]), |config, (team, weight)| {
            config.weighted_team(team, *weight)
        });
        let broker = Broker::with_binary(binary, &config, &nats.url());
        let mut running = Vec::new();
        for _ in 0..routers {
            running.push(broker.run(Role::Router).await);
        }
        let client = Client::connect(&nats.url()).await;
        Self { running, broker, client, provider, nats }
    }

    pub(crate) async fn run(&mut self, role: Role) {
        self.running.push(self.broker.run(role).await);
    }

    /// Publishes a request and waits for its call, and its response. Returns the time from publish to call: what it
    /// waited for, and what the broker took.
    pub(crate) async fn started_after(&self, request: &Request, text: &str, patience: Duration) -> Duration {
        let start = SystemTime::now();
        self.client.publish(request).await;
        self.client.await_response(&request.identity, patience).await;
        let calls = self.provider.calls_of(text);
        let call = calls.first().expect("what was answered was called");
        call.arrived_at.duration_since(start).unwrap_or_default()
    }
}

/// A request, and the text that the provider's log knows it by.
pub(crate) fn request(team: &str, group: &str, id: usize) -> (Request, String) {
    let text = format!("{team} {group} {id}");
    (Request::chat(&Identity::new(team, group, &id.to_string()), MODEL, &text), text)
}

/// Milliseconds, for tables.
pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// The value that so many hundredths of all are at most.
pub(crate) fn percentile(sorted: &[f64], hundredths: usize) -> f64 {
    let place = (sorted.len() * hundredths).div_ceil(100).saturating_sub(1);
    sorted.get(place.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}
