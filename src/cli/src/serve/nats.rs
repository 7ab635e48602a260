//! A nats-server of our own: found, started with our configuration, watched, ended after us.
//!
//! Whether one still runs from an earlier start of ours that was killed is told by a lock: the server gets the
//! locked file as its standard input, so the lock is held as long as it lives, whatever became of us.

mod find;
mod orphan;
mod record;
mod render;
mod spawn;
mod supervise;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tollgate_config::Durability;

use crate::args;
use crate::failure::Failure;
use crate::serve::data::{self, Data};
use record::Record;
use spawn::Child;

/// What it may take on disk unless told otherwise.
pub(crate) const STORE_MAX: &str = "10GB";
/// An orphan that was asked to end gets this long before it is killed.
const ORPHAN_ENDS: Duration = Duration::from_secs(20);
/// What a killed process may take to be gone.
const KILLED_ENDS: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// What can be chosen about it.
#[derive(Clone, Debug)]
pub(super) struct Options {
    /// The program, if one was named.
    pub(super) program: Option<PathBuf>,
    /// `None`: the usual one, which has to be free. 0: the one of the last start if it is free, else any.
    pub(super) port: Option<u16>,
    /// Such as `10GB`.
    pub(super) store_max: String,
    /// What an acknowledged publish survives.
    pub(super) durability: Durability,
}

/// Everything that a start needs, and a restart again.
#[derive(Clone, Debug)]
struct Launch {
    program: PathBuf,
    folder: PathBuf,
    log: PathBuf,
    record: PathBuf,
    store_max: String,
    durability: Durability,
}

/// A running nats-server of our own.
pub(super) struct NatsServer {
    url: String,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl NatsServer {
    /// Ends what an earlier start left behind, starts, and waits until clients can connect.
    pub(super) async fn start(options: &Options, data: &Data) -> Result<Self, Failure> {
        let program = find::program(options.program.as_deref()).await?;
        let launch = Launch {
            program: program.path,
            folder: data.nats(),
            log: data.nats_log(),
            record: data.nats_record(),
            store_max: options.store_max.clone(),
            durability: options.durability,
        };
        let cannot = |error: std::io::Error| {
            Failure::usage(format!("cannot write to {}: {error}", launch.folder.display()))
        };
        data::make(&launch.folder).map_err(cannot)?;
        let lock = data::open_lock(&launch.folder.join("lock")).map_err(cannot)?;
        take_over(&launch, &lock).await?;
        record::remove_ports_files(&launch.folder);

        let last_port = Record::read(&launch.record).map(|record| record.port);
        let child = start_on_a_port(&launch, &lock, options.port, last_port).await?;
        tracing::info!(port = child.port, version = program.version, "started a nats-server of our own");
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let url = record::url(child.port);
        tasks.spawn(supervise::run(launch, lock, child, stop.clone()));
        tasks.close();
        Ok(Self { url, tasks, stop })
    }

    /// Where clients connect.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Ends it; returns when it is gone.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

async fn start_on_a_port(
    launch: &Launch,
    lock: &File,
    asked: Option<u16>,
    last: Option<u16>,
) -> Result<Child, Failure> {
    match asked {
        Some(0) => {
            if let Some(port) = last.filter(|port| is_free(*port)) {
                // Clients of the last start find us again. If somebody was faster, any other port will do.
                match Child::start(launch, lock, port).await {
                    Ok(child) => return Ok(child),
                    Err(error) => tracing::debug!(port, error, "the last port cannot be used again"),
                }
            }
            Child::start(launch, lock, 0).await.map_err(Failure::failed)
        }
        port => {
            let port = port.unwrap_or(args::NATS_PORT);
            if !is_free(port) {
                return Err(Failure::usage(taken(port)));
            }
            Child::start(launch, lock, port).await.map_err(Failure::failed)
        }
    }
}

fn is_free(port: u16) -> bool {
    std::net::TcpListener::bind(("127.0.0.1", port)).is_ok()
}

fn taken(port: u16) -> String {
    format!(
        "port {port} is taken, perhaps by another nats-server. Use that one with \
         --server nats://127.0.0.1:{port}, or give ours another port with --nats-port (0 takes a free one)"
    )
}

/// Gets the lock, by ending the server that still holds it if there is one.
async fn take_over(launch: &Launch, lock: &File) -> Result<(), Failure> {
    if try_lock(lock)? {
        return Ok(());
    }
    let config = render::config_path(&launch.folder);
    let known =
        orphan::known(Record::read(&launch.record).as_ref(), &record::pids_of_ports_files(&launch.folder));
    let orphans: Vec<u32> =
        known.into_iter().filter(|pid| orphan::is_ours(&orphan::command(*pid), &config)).collect();
    for pid in &orphans {
        tracing::warn!(pid, "ending the nats-server that an earlier start left behind");
        orphan::signal(*pid, orphan::Signal::SIGTERM);
    }
    // It may just be on its way out.
    if wait_for_lock(lock, if orphans.is_empty() { KILLED_ENDS } else { ORPHAN_ENDS }).await? {
        return Ok(());
    }
    for pid in orphans.iter().filter(|pid| orphan::is_ours(&orphan::command(**pid), &config)) {
        tracing::warn!(pid, "killing the nats-server that an earlier start left behind");
        orphan::signal(*pid, orphan::Signal::SIGKILL);
    }
    if !orphans.is_empty() && wait_for_lock(lock, KILLED_ENDS).await? {
        return Ok(());
    }
    Err(still_there(&launch.folder, &config))
}

fn still_there(folder: &Path, config: &Path) -> Failure {
    Failure::usage(format!(
        "a nats-server of an earlier start still uses {}, and its process was not found. End the process that \
         `ps ax | grep nats-server` shows with {}, or name another folder with --data",
        folder.display(),
        config.display(),
    ))
}

async fn wait_for_lock(lock: &File, limit: Duration) -> Result<bool, Failure> {
    let waiting = async {
        while !try_lock(lock)? {
            tokio::time::sleep(POLL).await;
        }
        Ok(true)
    };
    tokio::time::timeout(limit, waiting).await.unwrap_or(Ok(false))
}

fn try_lock(lock: &File) -> Result<bool, Failure> {
    match lock.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => {
            Err(Failure::failed(format!("cannot lock the nats folder: {error}")))
        }
    }
}

#[cfg(test)]
mod tests;
