//! A whole broker for one test: a nats-server, a scripted provider, the roles, and a client.

use std::time::Duration;

use tollgate_tests::check::{Evidence, Expected, Report, settled};
use tollgate_tests::client::{Client, Live};
use tollgate_tests::config::Config;
use tollgate_tests::http;
use tollgate_tests::money::Price;
use tollgate_tests::nats::NatsServer;
use tollgate_tests::provider::Provider;
use tollgate_tests::roles::{Broker, Role, Running, Server};
use tollgate_tests::wait::eventually;

/// How long anything may take on a busy machine. Nothing waits for it when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What the model of [`config`] costs. No two of its numbers are equal, so that none can stand for another.
pub(crate) const PRICE: Price = Price { input: 150_000_000, cached_input: 75_000_000, output: 600_000_000 };

/// The only target of [`config`].
pub(crate) const TARGET: &str = "sim/m-1";

/// One provider, one model, these teams.
pub(crate) fn config(provider: &Provider, max_in_flight: u32, teams: &[&str]) -> Config {
    let config = Config::new()
        .provider("sim", &provider.base_url(), max_in_flight, &[("m-1", PRICE)])
        .model("small", &[TARGET]);
    teams.iter().fold(config, |config, team| config.team(team))
}

/// A provider of kind `compatible` with more settings than [`Config::provider`] has; its model is `m-1`.
pub(crate) fn provider_with(name: &str, base_url: &str, settings: &str) -> String {
    format!(
        "[providers.{name}]\nkind = \"compatible\"\nbase_url = \"{base_url}\"\n{settings}\n\
         [providers.{name}.models.m-1]\nprice = {{ input_usd_per_mtok = \"0.15\", \
         cached_input_usd_per_mtok = \"0.075\", output_usd_per_mtok = \"0.60\" }}\n"
    )
}

/// Everything a test needs. The roles end first, the nats-server last.
pub(crate) struct Stage {
    pub(crate) running: Vec<Running>,
    pub(crate) broker: Broker,
    pub(crate) client: Client,
    pub(crate) provider: Provider,
    pub(crate) nats: NatsServer,
}

impl Stage {
    /// No role runs yet.
    pub(crate) async fn empty(config: impl FnOnce(&Provider) -> Config) -> Self {
        Self::empty_on(NatsServer::start().await, config).await
    }

    /// The same with this server.
    pub(crate) async fn empty_on(nats: NatsServer, config: impl FnOnce(&Provider) -> Config) -> Self {
        let provider = Provider::start().await;
        let broker = Broker::new(&config(&provider), &nats.url());
        let client = Client::connect(&nats.url()).await;
        Self { running: Vec::new(), broker, client, provider, nats }
    }

    /// Every role runs, in one process.
    pub(crate) async fn up(config: impl FnOnce(&Provider) -> Config) -> Self {
        let mut stage = Self::empty(config).await;
        stage.running.push(stage.broker.up(Server::Given, &[]).await);
        stage
    }

    /// These roles run, each in a process of its own.
    pub(crate) async fn with(roles: &[Role], config: impl FnOnce(&Provider) -> Config) -> Self {
        let mut stage = Self::empty(config).await;
        for role in roles {
            stage.start(*role).await;
        }
        stage
    }

    /// Starts one more role and returns its index in `running`.
    pub(crate) async fn start(&mut self, role: Role) -> usize {
        self.running.push(self.broker.run(role).await);
        self.running.len() - 1
    }

    /// Ends every role in order.
    pub(crate) async fn stop(&mut self) {
        self.running.iter().for_each(Running::term);
        for running in self.running.drain(..) {
            let code = running.process().ended(PATIENCE).await;
            assert_eq!(code, Some(0), "{}", running.process().logs());
        }
    }

    /// Waits until no message is on its way any more: all were done with.
    pub(crate) async fn idle(&self) {
        eventually(PATIENCE, "streams without work", async || {
            let mut left = Vec::new();
            for stream in self.work_streams().await {
                match self.client.message_count(&stream).await {
                    0 => {}
                    count => left.push((stream, count)),
                }
            }
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
    }

    async fn work_streams(&self) -> Vec<String> {
        use futures_util::TryStreamExt;
        let names: Vec<String> = self.client.jetstream().stream_names().try_collect().await.unwrap();
        let is_work =
            |name: &String| name == "LLM_REQ" || name == "LLM_RETRY" || name.starts_with("LLM_DISPATCH_");
        names.into_iter().filter(is_work).collect()
    }

    /// Gathers all evidence until it agrees.
    pub(crate) async fn settled(&self, expected: &[Expected], live: &[&Live]) -> Report {
        settled(PATIENCE, async || {
            Evidence::gather(&self.client, expected, &[(TARGET, PRICE)], live, &[&self.provider]).await
        })
        .await
    }

    /// The sum of a metric's samples over all roles; `labels` are parts of the sample's text such as `status="x"`.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let mut sum = 0.0;
        for running in &self.running {
            sum += metric_of(running, name, labels).await;
        }
        sum
    }
}

/// A metric of one process, over all samples with these labels.
pub(crate) async fn metric_of(running: &Running, name: &str, labels: &[&str]) -> f64 {
    let text = get(&format!("{}/metrics", running.http())).await;
    text.lines().filter_map(|line| sample(line, name, labels)).sum()
}

/// The body of an HTTP answer with status 200.
pub(crate) async fn get(url: &str) -> String {
    let response = http().get(url).send().await.unwrap();
    assert_eq!(response.status(), 200, "{url}");
    response.text().await.unwrap()
}

/// The value of a line of Prometheus text, if it is a sample of this metric with these labels.
fn sample(line: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let (found, value) = rest.rsplit_once(' ')?;
    let is_this = found.is_empty() || found.starts_with('{');
    if is_this && labels.iter().all(|label| found.contains(label)) { value.parse().ok() } else { None }
}

/// How many requests a test makes: all that its promise names, or the smaller number if `TOLLGATE_TEST_SCALE=small` is
/// set for a slow machine.
pub(crate) fn scale(small: usize, all: usize) -> usize {
    if std::env::var("TOLLGATE_TEST_SCALE").is_ok_and(|scale| scale == "small") { small } else { all }
}
