//! A nats-server of the test's own, which it may kill, freeze and start again on the same port and store.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::port::free_port;
use crate::process::Process;
use crate::wait::eventually;

/// A server recovers its streams before it accepts clients, so a restart with a full store takes a while.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How often a start is tried on another port when somebody else took the first.
const STARTS: usize = 5;

/// The same as in the configuration the project ships.
const MAX_PAYLOAD_BYTES: usize = 8 * 1024 * 1024;

/// A running nats-server with JetStream. Dropping it kills it and deletes its store.
#[derive(Debug)]
pub struct NatsServer {
    // Before `dir`: fields drop in order, and the store goes after the one who writes to it.
    process: Process,
    dir: TempDir,
    port: u16,
}

impl NatsServer {
    /// Starts a server on a free port with an empty store and waits until it answers JetStream requests.
    ///
    /// # Panics
    /// When there is no nats-server to be found, or it does not become ready.
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// The same with further lines in its configuration file, such as `accounts` or `jetstream` settings.
    ///
    /// # Panics
    /// As [`NatsServer::start`] does.
    pub async fn start_with(more_config: &str) -> Self {
        Self::start_sized("", more_config).await
    }

    /// The same with settings of JetStream, such as `max_file_store`.
    ///
    /// # Panics
    /// As [`NatsServer::start`] does.
    pub async fn start_sized(jetstream: &str, more_config: &str) -> Self {
        for _ in 0..STARTS {
            let dir =
                tempfile::Builder::new().prefix("nats-").tempdir().expect("a temporary folder can be made");
            let port = free_port();
            write_config(dir.path(), port, jetstream, more_config);
            let server = Self { process: spawn(dir.path()), dir, port };
            if server.ready().await {
                return server;
            }
        }
        panic!("nats-server found no port to listen on in {STARTS} starts");
    }

    /// Where clients connect: `nats://127.0.0.1:PORT`, the same after a restart.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Its process id, which a restart changes.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The folder its streams are in.
    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Whether the process is there.
    pub fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    /// SIGKILL; returns when it is gone. The store stays as it was at that instant.
    pub fn kill9(&self) {
        self.process.kill9();
    }

    /// Starts it again on the same port and store, killing it first if it still runs, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn restart(&mut self) {
        self.process.kill9();
        self.process = spawn(self.dir.path());
        assert!(self.ready().await, "nats-server lost its port: {}", self.process.logs());
    }

    /// SIGSTOP: connections stay open and nothing is answered.
    pub fn stop(&self) {
        self.process.stop();
    }

    /// SIGCONT.
    pub fn cont(&self) {
        self.process.cont();
    }

    /// What it logged since its last start.
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// Waits until JetStream answers; false when the port was taken by somebody else.
    async fn ready(&self) -> bool {
        let url = self.url();
        eventually(READY_WITHIN, "a nats-server that answers", async || {
            if !self.process.is_alive() {
                let log = self.process.stderr();
                assert!(log.contains("address already in use"), "nats-server ended at its start:\n{log}");
                return Ok(false);
            }
            let options = async_nats::ConnectOptions::new().connection_timeout(Duration::from_secs(2));
            let client = options.connect(&url).await.map_err(|error| error.to_string())?;
            let jetstream = async_nats::jetstream::new(client);
            jetstream.query_account().await.map(|_| true).map_err(|error| error.to_string())
        })
        .await
    }
}

fn write_config(dir: &Path, port: u16, jetstream: &str, more: &str) {
    let store = dir.join("store");
    let text = format!(
        "listen: \"127.0.0.1:{port}\"\n\
         max_payload: {MAX_PAYLOAD_BYTES}\n\
         jetstream {{ store_dir: {store:?}, {jetstream} }}\n\
         {more}\n"
    );
    std::fs::write(dir.join("nats.conf"), text).expect("the server's configuration can be written");
}

fn spawn(dir: &Path) -> Process {
    let mut command = Command::new(binary());
    command.arg("-c").arg(dir.join("nats.conf"));
    Process::spawn("nats-server", command, dir)
}

/// The nats-server to use: `TOLLGATE_NATS_SERVER`, else the first on the `PATH`, else the one `make tools` fetched.
///
/// # Panics
/// When there is none, saying how to get one.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TOLLGATE_NATS_SERVER") {
        return PathBuf::from(path);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let fetched = workspace_root().join(".tools");
    std::env::split_paths(&path)
        .chain([fetched])
        .map(|dir| dir.join("nats-server"))
        .find(|candidate| candidate.is_file())
        .expect("these tests run a real nats-server and found none: run `make tools`, or put one on the PATH")
}

/// The folder of the workspace's `Cargo.toml`.
pub(crate) fn workspace_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is a folder of the workspace")
}
