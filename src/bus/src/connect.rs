//! Connecting, staying connected, and saying plainly what is wrong when neither works.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, jetstream};
use tokio::sync::{broadcast, watch};

/// The oldest nats-server with everything that is needed: message schedules came with 2.12.
pub const SERVER_VERSION_MIN: (u64, u64, u64) = (2, 12, 0);

/// Violations that a publish may have to look through for its own.
const VIOLATIONS_KEPT: usize = 1_024;

/// How to reach the server; the same options as the `nats` command line has.
#[derive(Clone, Default)]
pub struct ConnectSettings {
    /// One URL, or several with commas.
    pub server: String,
    /// The connection's name in the server's reports.
    pub name: String,
    /// A credentials file.
    pub creds: Option<PathBuf>,
    /// User and password.
    pub user: Option<(String, String)>,
    /// A token.
    pub token: Option<String>,
    /// Certificate authorities, PEM.
    pub tls_ca: Option<PathBuf>,
    /// Our certificate, PEM.
    pub tls_cert: Option<PathBuf>,
    /// Our key, PEM.
    pub tls_key: Option<PathBuf>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A file or address cannot be used.
    #[error("{what}: {reason}")]
    Settings {
        /// The setting.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The server cannot be reached, or does not let us in.
    #[error(
        "cannot connect to the nats-server at {server}: {reason}. Is it running? Start one with `tollgate up`, or name another with --server"
    )]
    Unreachable {
        /// Its address.
        server: String,
        /// The client's reason.
        reason: String,
    },
    /// The server does not accept our credentials.
    #[error(
        "the nats-server at {server} refused our credentials: {reason}. Check --creds, --user, --password or --token"
    )]
    Unauthorized {
        /// Its address.
        server: String,
        /// The client's reason.
        reason: String,
    },
    /// The server is too old.
    #[error(
        "nats-server {found} is too old: Tollgate needs 2.12.0 or newer (it uses message schedules). `make tools` fetches one"
    )]
    TooOld {
        /// Its version.
        found: String,
    },
    /// JetStream is off.
    #[error(
        "the nats-server has JetStream switched off: start it with `-js` or with `jetstream {{}}` in its configuration"
    )]
    NoJetStream,
}

/// What the connection is doing, as its own events tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether it is connected now.
    pub connected: bool,
    /// Counts disconnections, so that "stayed connected" can be asked.
    pub disconnections: u64,
    /// The last permission violation: a silent time-out of a publish is usually one of these.
    pub violation: Option<String>,
}

/// A connection that comes back by itself. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connection {
    client: Client,
    jetstream: jetstream::Context,
    health: watch::Receiver<Health>,
    violations: broadcast::Sender<Arc<str>>,
}

/// The permission violations from now on. See [`Connection::violations`].
#[derive(Debug)]
pub(crate) struct Violations(broadcast::Receiver<Arc<str>>);

impl Violations {
    /// Waits until the server says that we may not publish to this subject.
    pub(crate) async fn of(&mut self, subject: &str) -> Arc<str> {
        // The server quotes the subject, so that no other is meant that begins with it.
        let quoted = format!("\"{subject}\"");
        loop {
            let text = self.next().await;
            if text.contains(&quoted) {
                return text;
            }
        }
    }

    /// Waits for the next one, whatever it is about.
    pub(crate) async fn next(&mut self) -> Arc<str> {
        loop {
            match self.0.recv().await {
                Ok(text) => return text,
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                // The sender lives as long as the connection.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

impl Connection {
    /// Connects, or says why not.
    pub async fn open(settings: &ConnectSettings) -> Result<Self, ConnectError> {
        let (sender, health) = watch::channel(Health { connected: true, disconnections: 0, violation: None });
        let violations = broadcast::Sender::new(VIOLATIONS_KEPT);
        let options = options(settings).await?.event_callback({
            let (sender, violations) = (Arc::new(sender), violations.clone());
            move |event| {
                let (sender, violations) = (Arc::clone(&sender), violations.clone());
                async move { note(&sender, &violations, &event) }
            }
        });
        let addresses: Vec<&str> = settings.server.split(',').map(str::trim).collect();
        let client = options.connect(&addresses[..]).await.map_err(|error| refused(settings, &error))?;
        check_server(&client)?;
        let mut jetstream = jetstream::new(client.clone());
        jetstream.set_timeout(Duration::from_secs(10));
        Ok(Self { client, jetstream, health, violations })
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// JetStream.
    pub fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    /// What the connection is doing now.
    pub fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    /// The violations from now on: the server drops what we may not publish and says so only here.
    pub(crate) fn violations(&self) -> Violations {
        Violations(self.violations.subscribe())
    }

    /// Waits until the connection was lost and is there again, counted from `disconnections`. A server that
    /// was restarted has forgotten every pull: whoever waits for one has to ask again.
    pub async fn reconnected_since(&self, disconnections: u64) {
        let mut health = self.health.clone();
        // The sender lives as long as the client; if it is gone, there is nothing to wait for.
        // The guard that a wait gives back is a lock: it must not be held while waiting for something else.
        let is_gone = health
            .wait_for(|health| health.connected && health.disconnections != disconnections)
            .await
            .is_err();
        if is_gone {
            std::future::pending::<()>().await;
        }
    }

    /// The largest message the server takes, in bytes.
    pub fn max_payload(&self) -> usize {
        self.client.max_payload()
    }
}

async fn options(settings: &ConnectSettings) -> Result<ConnectOptions, ConnectError> {
    let wrong = |what: &str, reason: String| ConnectError::Settings { what: what.into(), reason };
    let mut options = ConnectOptions::new()
        .name(&settings.name)
        .connection_timeout(Duration::from_secs(5))
        .ping_interval(Duration::from_secs(10))
        .reconnect_delay_callback(|tries| Duration::from_millis((20 << tries.min(6)).min(1_000)))
        .subscription_capacity(16 * 1024)
        .client_capacity(4 * 1024);
    if let Some(creds) = &settings.creds {
        options = options
            .credentials_file(creds)
            .await
            .map_err(|error| wrong("--creds", format!("{}: {error}", creds.display())))?;
    }
    if let Some((user, password)) = &settings.user {
        options = options.user_and_password(user.clone(), password.clone());
    }
    if let Some(token) = &settings.token {
        options = options.token(token.clone());
    }
    if let Some(ca) = &settings.tls_ca {
        options = options.add_root_certificates(ca.clone());
    }
    match (&settings.tls_cert, &settings.tls_key) {
        (Some(cert), Some(key)) => options = options.add_client_certificate(cert.clone(), key.clone()),
        (None, None) => {}
        _ => return Err(wrong("--tlscert and --tlskey", "give both or none".into())),
    }
    Ok(options)
}

fn refused(settings: &ConnectSettings, error: &async_nats::ConnectError) -> ConnectError {
    use async_nats::ConnectErrorKind as Kind;
    let (server, reason) = (without_password(&settings.server), error.to_string());
    match error.kind() {
        Kind::Authentication | Kind::AuthorizationViolation => ConnectError::Unauthorized { server, reason },
        Kind::ServerParse => ConnectError::Settings {
            what: format!("--server {server}"),
            reason: "expected nats://host:port".into(),
        },
        _ => ConnectError::Unreachable { server, reason },
    }
}

/// A URL may carry a password; errors and logs must not.
fn without_password(server: &str) -> String {
    server
        .split(',')
        .map(|url| match (url.find("://"), url.rfind('@')) {
            (Some(scheme), Some(at)) if scheme < at => format!("{}{}", &url[..scheme + 3], &url[at + 1..]),
            (None, Some(at)) => url[at + 1..].to_owned(),
            _ => url.to_owned(),
        })
        .collect::<Vec<_>>()
        .join(",")
}

fn check_server(client: &Client) -> Result<(), ConnectError> {
    let info = client.server_info();
    if version(&info.version).is_none_or(|found| found < SERVER_VERSION_MIN) {
        return Err(ConnectError::TooOld { found: info.version });
    }
    if !info.jetstream {
        return Err(ConnectError::NoJetStream);
    }
    Ok(())
}

/// `2.12.0-RC.3` → (2, 12, 0).
fn version(text: &str) -> Option<(u64, u64, u64)> {
    let mut parts = text.trim_start_matches('v').split(['.', '-', '+']);
    let mut part = || parts.next()?.parse().ok();
    Some((part()?, part()?, part()?))
}

fn note(sender: &watch::Sender<Health>, violations: &broadcast::Sender<Arc<str>>, event: &Event) {
    match event {
        Event::Connected => {
            sender.send_modify(|health| health.connected = true);
            tracing::info!("connected to nats-server");
        }
        // We closed it ourselves.
        Event::Closed => sender.send_modify(|health| health.connected = false),
        Event::Disconnected => {
            sender.send_modify(|health| {
                health.connected = false;
                health.disconnections += 1;
            });
            tracing::warn!("disconnected from nats-server, reconnecting");
        }
        Event::ServerError(error) => {
            let text = error.to_string();
            if text.to_ascii_lowercase().contains("permission") {
                sender.send_modify(|health| health.violation = Some(text.clone()));
                // Nobody may be publishing at the moment.
                let _ = violations.send(text.as_str().into());
            }
            tracing::error!(error = text, "nats-server reports an error");
        }
        Event::SlowConsumer(_) => tracing::warn!("a subscription cannot keep up: messages were dropped"),
        Event::ClientError(error) => tracing::debug!(%error, "nats client error"),
        Event::LameDuckMode | Event::Draining => tracing::info!(%event, "nats-server is going away"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for (text, new_enough) in [
            ("2.15.1", true),
            ("2.12.0", true),
            ("2.12.0-RC.3", true),
            ("2.9.10", false),
            ("2.11.99", false),
            ("3.0.0", true),
            ("", false),
            ("two", false),
        ] {
            assert_eq!(version(text).is_some_and(|found| found >= SERVER_VERSION_MIN), new_enough, "{text}");
        }
    }

    #[test]
    fn passwords_in_urls_are_not_shown() {
        assert_eq!(without_password("nats://u:p@h:4222, nats://x"), "nats://h:4222, nats://x");
        assert_eq!(without_password("token@h:1"), "h:1");
    }
}
