//! A child process that is killed, stopped and continued by its own process id, and never outlives its test.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::wait::eventually;

/// Makes the names of log files differ when a process is started more than once.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// How much of each log is shown when a test fails.
const LOG_LINES_SHOWN: usize = 60;

/// A running (or ended) child process in a process group of its own.
///
/// It is not reaped before it is dropped, so until then nobody else can be given its process id or its group: every
/// signal sent from here reaches this process or no process. Dropping kills the whole group, which takes along what
/// the process itself had started and left behind.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts `command`; its output goes to two files in `dir`, which are shown if the test panics.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub fn spawn(name: &str, mut command: Command, dir: &Path) -> Self {
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let stdout = dir.join(format!("{name}-{number}.out"));
        let stderr = dir.join(format!("{name}-{number}.err"));
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).expect("a log file can be created in the test's folder"))
            .stderr(File::create(&stderr).expect("a log file can be created in the test's folder"))
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start ({command:?}): {error}"));
        Self { child, name: name.to_owned(), stdout, stderr }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is still there: running or stopped, not ended.
    pub fn is_alive(&self) -> bool {
        self.end_if_any(WaitPidFlag::WNOHANG).is_none()
    }

    /// Whether SIGKILL ended it, and not something it did by itself.
    pub fn was_killed(&self) -> bool {
        matches!(self.end_if_any(WaitPidFlag::WNOHANG), Some(WaitStatus::Signaled(_, Signal::SIGKILL, _)))
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// SIGKILL to this process only; returns when it is gone. What it had started lives on, as after a real crash.
    pub fn kill9(&self) {
        self.signal(Signal::SIGKILL);
        self.end_if_any(WaitPidFlag::empty());
    }

    /// SIGTERM: the polite request to drain and end. See [`Process::ended`].
    pub fn term(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// SIGSTOP: the process freezes with its connections open, as in a long pause of the machine. Returns when the
    /// last of its threads stands still, which may be some time after the signal was sent.
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        self.state(WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED);
    }

    /// SIGCONT: it goes on as if nothing had happened.
    pub fn cont(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Waits until it has ended by itself and returns its exit code, or `None` if a signal ended it.
    ///
    /// # Panics
    /// When it has not ended by then.
    pub async fn ended(&self, deadline: Duration) -> Option<i32> {
        let what = format!("the end of {}", self.name);
        let end = eventually(deadline, &what, async || self.end_if_any(WaitPidFlag::WNOHANG)).await;
        match end {
            WaitStatus::Exited(_, code) => Some(code),
            _ => None,
        }
    }

    /// Both logs, each cut to its last lines.
    pub fn logs(&self) -> String {
        let (stdout, stderr) = (self.stdout(), self.stderr());
        let name = &self.name;
        format!("--- {name} stdout ---\n{}\n--- {name} stderr ---\n{}", tail(&stdout), tail(&stderr))
    }

    fn signal(&self, signal: Signal) {
        // An ended process that is not reaped takes signals without effect; any error would be a fault here.
        kill(self.id(), signal).expect("a child that is not reaped can be signalled");
    }

    fn end_if_any(&self, flag: WaitPidFlag) -> Option<WaitStatus> {
        self.state(WaitPidFlag::WEXITED | flag)
    }

    /// What `waitid` says, without reaping.
    fn state(&self, flags: WaitPidFlag) -> Option<WaitStatus> {
        loop {
            match waitid(Id::Pid(self.id()), flags | WaitPidFlag::WNOWAIT) {
                Ok(WaitStatus::StillAlive) => return None,
                Ok(end) => return Some(end),
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => panic!("{} cannot be waited for: {error}", self.name),
            }
        }
    }

    fn id(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process id fits an i32"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The leader is not reaped yet, so the group's number is still ours. ESRCH and EPERM mean: nobody left in it.
        let _ = killpg(self.id(), Signal::SIGKILL);
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}
