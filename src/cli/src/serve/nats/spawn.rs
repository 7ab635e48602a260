//! One start of the nats-server: configuration, process, readiness.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::process::Command;
use tollgate_telemetry as telemetry;

use super::orphan::{Signal, signal};
use super::record::{Record, client_port, ports_file};
use super::{Launch, POLL, render};

const HOST: &str = "127.0.0.1";
/// A server reads its streams before it lets clients in, which takes a while if they are large.
const READY: Duration = Duration::from_secs(120);
/// How much of the log is shown when it did not start.
const LOG_LINES: usize = 6;
/// A log that is larger is put aside at the next start.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A nats-server that lets clients in.
pub(super) struct Child {
    process: tokio::process::Child,
    pid: u32,
    pub(super) port: u16,
}

impl Child {
    /// Starts it on this port (0: any free one) and waits until clients can connect. On failure nothing is
    /// left running.
    pub(super) async fn start(launch: &Launch, lock: &File, port: u16) -> Result<Self, String> {
        let config = render::config_path(&launch.folder);
        let values = render::Values {
            host: HOST,
            port,
            store: &launch.folder,
            store_max: &launch.store_max,
            durability: launch.durability,
        };
        let text = render::config(&values)?;
        std::fs::write(&config, text)
            .map_err(|error| format!("cannot write {}: {error}", config.display()))?;
        let log_from = roll(&launch.log);
        let (process, pid) = spawn(launch, lock, &config)
            .map_err(|error| format!("cannot start {}: {error}", launch.program.display()))?;
        telemetry::count_nats_server_start();
        let mut child = Self { process, pid, port };
        child.note(launch);
        match tokio::time::timeout(READY, child.ready(launch)).await {
            Ok(Ok(port)) => child.port = port,
            Ok(Err(status)) => {
                return Err(did_not_start(&format!("ended ({status})"), &launch.log, log_from));
            }
            Err(_) => {
                child.stop(Duration::from_secs(5)).await;
                let what = format!("let nobody in for {} s", READY.as_secs());
                return Err(did_not_start(&what, &launch.log, log_from));
            }
        }
        child.note(launch);
        Ok(child)
    }

    /// Waits until it ends by itself.
    pub(super) async fn ended(&mut self) -> String {
        self.process.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string())
    }

    /// Asks it to end, and kills it if it takes longer than `limit`.
    pub(super) async fn stop(mut self, limit: Duration) {
        // Our own child: the process id is its own until we have waited for it.
        signal(self.pid, Signal::SIGTERM);
        if tokio::time::timeout(limit, self.process.wait()).await.is_err() {
            tracing::warn!(pid = self.pid, "the nats-server did not end in time and is killed");
            if let Err(error) = self.process.kill().await {
                tracing::error!(pid = self.pid, %error, "the nats-server cannot be killed");
            }
        }
    }

    /// The port, once clients get in; or how it ended instead.
    async fn ready(&mut self, launch: &Launch) -> Result<u16, ExitStatus> {
        let file = ports_file(&launch.folder, self.pid);
        loop {
            if let Ok(Some(status)) = self.process.try_wait() {
                return Err(status);
            }
            // Only this process writes this file, so nobody else's port is taken for ours.
            let port = std::fs::read_to_string(&file).ok().and_then(|text| client_port(&text));
            if let Some(port) = port
                && TcpStream::connect((HOST, port)).await.is_ok()
            {
                return Ok(port);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn note(&self, launch: &Launch) {
        if let Err(error) = Record::new(self.pid, self.port).write(&launch.record) {
            tracing::warn!(%error, file = %launch.record.display(), "cannot note the nats-server");
        }
    }
}

fn spawn(launch: &Launch, lock: &File, config: &Path) -> std::io::Result<(tokio::process::Child, u32)> {
    let log = OpenOptions::new().create(true).append(true).open(&launch.log)?;
    let process = Command::new(&launch.program)
        .arg("--config")
        .arg(config)
        // It reads nothing; it holds the lock.
        .stdin(Stdio::from(lock.try_clone()?))
        .stdout(Stdio::from(log.try_clone()?))
        .stderr(Stdio::from(log))
        // Ctrl-C in the terminal is for us: the server is needed until we have drained.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let pid = process.id().unwrap_or_default();
    Ok((process, pid))
}

/// Puts a log aside that has grown large; says where this start's part begins.
fn roll(log: &Path) -> u64 {
    let length = std::fs::metadata(log).map_or(0, |log| log.len());
    if length > LOG_BYTES_MAX && std::fs::rename(log, log.with_extension("log.old")).is_ok() {
        return 0;
    }
    length
}

fn did_not_start(what: &str, log: &Path, from: u64) -> String {
    let mut text = Vec::new();
    if let Ok(mut file) = File::open(log)
        && file.seek(SeekFrom::Start(from)).is_ok()
    {
        // Only for the message.
        let _ = file.read_to_end(&mut text);
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let shown = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n  ");
    format!("the nats-server {what}. The end of {}:\n  {shown}", log.display())
}
