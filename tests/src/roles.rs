//! The broker under test: the `tollgate` binary, its roles as child processes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::binary;
use crate::config::Config;
use crate::process::Process;
use crate::wait::eventually;

/// A debug build on a busy machine, which may have its streams to create first.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// The parts of the broker that run as processes of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Admits, orders and routes requests.
    Router,
    /// Calls the providers.
    Worker,
    /// Folds usage into money.
    Ledger,
    /// Serves `llm.ask.…`.
    Ask,
}

impl Role {
    /// Its name on the command line and in the ready line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::Worker => "worker",
            Self::Ledger => "ledger",
            Self::Ask => "ask",
        }
    }
}

/// Which nats-server `tollgate up` is to use.
#[derive(Clone, Copy, Debug)]
pub enum Server {
    /// The one that the broker was set up with.
    Given,
    /// One of its own, on a free port.
    Own,
}

/// A configuration, a nats-server and a folder: everything a role needs to start.
///
/// Drop the running roles first, or at least in the same scope: they keep the folder alive.
#[derive(Clone, Debug)]
pub struct Broker {
    binary: PathBuf,
    dir: Arc<TempDir>,
    server: String,
}

impl Broker {
    /// Writes the configuration into a folder of its own, for roles that will use the nats-server at this URL.
    ///
    /// # Panics
    /// When the binary does not build.
    pub fn new(config: &Config, server_url: &str) -> Self {
        Self::with_binary(binary::path(), config, server_url)
    }

    /// The same with this program in the place of `tollgate`.
    ///
    /// # Panics
    /// When the folder cannot be made.
    pub fn with_binary(binary: &Path, config: &Config, server_url: &str) -> Self {
        let dir =
            tempfile::Builder::new().prefix("tollgate-").tempdir().expect("a temporary folder can be made");
        let broker = Self { binary: binary.to_owned(), dir: Arc::new(dir), server: server_url.to_owned() };
        broker.configure(config);
        broker
    }

    /// Replaces the configuration for the roles that start from now on.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn configure(&self, config: &Config) {
        std::fs::write(self.config_path(), config.text()).expect("the configuration can be written");
    }

    /// Where the configuration is.
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("tollgate.toml")
    }

    /// The folder of the ledger's database, which [`Role::Ledger`] and `up` get as `--data`.
    pub fn data_path(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Starts a role and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn run(&self, role: Role) -> Running {
        self.run_with(role, &[]).await
    }

    /// The same with further arguments.
    ///
    /// # Panics
    /// As [`Broker::run`] does.
    pub async fn run_with(&self, role: Role, more: &[&str]) -> Running {
        let mut arguments = vec!["run".to_owned(), role.name().to_owned()];
        arguments.extend(["--server".to_owned(), self.server.clone()]);
        if role == Role::Ledger {
            arguments.extend(["--data".to_owned(), text(&self.data_path())]);
        }
        self.start(role.name(), arguments, more).await
    }

    /// Starts everything in one process with `tollgate up` and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn up(&self, server: Server, more: &[&str]) -> Running {
        let mut arguments = vec!["up".to_owned(), "--json".to_owned()];
        arguments.extend(["--data".to_owned(), text(&self.data_path())]);
        arguments.extend(match server {
            Server::Given => ["--server".to_owned(), self.server.clone()],
            Server::Own => ["--nats-port".to_owned(), "0".to_owned()],
        });
        self.start("up", arguments, more).await
    }

    /// The binary with these arguments, ready to run to its end: for commands such as `submit` or `usage`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).current_dir(self.dir.path()).env("PATH", binary::search_path());
        // A server named by the environment of the developer is none of the test's.
        command.env_remove("NATS_URL");
        command
    }

    async fn start(&self, name: &str, mut arguments: Vec<String>, more: &[&str]) -> Running {
        arguments.extend(["--config".to_owned(), text(&self.config_path())]);
        arguments.extend(["--listen".to_owned(), "127.0.0.1:0".to_owned()]);
        arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        let process = self.spawn(name, &arguments, None);
        let mut running = Running {
            process,
            ended: Vec::new(),
            broker: self.clone(),
            name: name.to_owned(),
            arguments,
            ready: Value::Null,
        };
        running.await_ready().await;
        running
    }

    fn spawn(&self, name: &str, arguments: &[String], point: Option<&str>) -> Process {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = self.command(&arguments);
        // Debug builds die or stand still where they are told to.
        if let Some(point) = point {
            command.env("TOLLGATE_POINT", point);
        }
        Process::spawn(name, command, self.dir.path())
    }
}

/// A role that was started. Dropping it kills it and whatever it had started itself.
#[derive(Debug)]
pub struct Running {
    process: Process,
    /// Earlier runs. What they left behind, such as a nats-server, lives until the test ends.
    ended: Vec<Process>,
    broker: Broker,
    name: String,
    arguments: Vec<String>,
    ready: Value,
}

impl Running {
    /// The ready line: the first line of its standard output.
    pub fn ready(&self) -> &Value {
        &self.ready
    }

    /// Its HTTP address for health and metrics (and, from `up`, the API): `http://127.0.0.1:PORT`.
    ///
    /// # Panics
    /// When the ready line has none.
    pub fn http(&self) -> &str {
        self.ready["http"].as_str().expect("the ready line has an `http` address")
    }

    /// The URL of the nats-server that `up` uses.
    ///
    /// # Panics
    /// When the ready line has none.
    pub fn nats(&self) -> &str {
        self.ready["nats"].as_str().expect("the ready line has a `nats` address")
    }

    /// The process of the latest start, for its id, its logs and its end.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Whether it is there.
    pub fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill9(&self) {
        self.process.kill9();
    }

    /// SIGTERM. [`Process::ended`] waits for the end.
    pub fn term(&self) {
        self.process.term();
    }

    /// SIGSTOP.
    pub fn stop(&self) {
        self.process.stop();
    }

    /// SIGCONT.
    pub fn cont(&self) {
        self.process.cont();
    }

    /// Starts it again with the same arguments, killing it first if it still runs, and waits until it is ready.
    /// With a port of 0 its HTTP address is a new one.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn restart(&mut self) {
        self.restart_without_waiting();
        self.await_ready().await;
    }

    /// The same without waiting, for a start that cannot succeed yet. See [`Running::await_ready`].
    pub fn restart_without_waiting(&mut self) {
        self.restart_at(None);
    }

    /// The same, to die or stand still at a named point: `<name>:<n>:<kill|stop>`.
    pub fn restart_at(&mut self, point: Option<&str>) {
        self.process.kill9();
        let next = self.broker.spawn(&self.name, &self.arguments, point);
        self.ended.push(std::mem::replace(&mut self.process, next));
    }

    /// Waits for the ready line.
    ///
    /// # Panics
    /// When the process ends instead, prints something else first, or takes too long.
    pub async fn await_ready(&mut self) {
        let what = format!("the ready line of {}", self.name);
        let line = eventually(READY_WITHIN, &what, async || {
            let stdout = self.process.stdout();
            match stdout.split_once('\n') {
                Some((line, _)) => Ok(line.to_owned()),
                None if self.process.is_alive() => Err(stdout),
                None => panic!("{} ended before it was ready\n{}", self.name, self.process.logs()),
            }
        })
        .await;
        self.ready = serde_json::from_str(&line).unwrap_or_default();
        assert!(self.ready["ready"] == true, "the first line of {} is no ready line: {line}", self.name);
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("temporary folders have plain names").to_owned()
}
