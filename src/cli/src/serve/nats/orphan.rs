//! Recognises a nats-server that an earlier start of ours left behind. A process id alone proves nothing: it
//! may have been given to somebody else since, so the process has to name our configuration file.

use std::path::Path;

use nix::sys::signal::kill;
use nix::unistd::Pid;

pub(super) use nix::sys::signal::Signal;

use super::record::Record;

/// A process's command line, word by word.
pub(super) type CommandLine = Vec<String>;

/// The process ids to look at: ours to know, and those the servers noted themselves (which is all there is if
/// we were killed between starting one and writing that down).
pub(super) fn known(record: Option<&Record>, noted: &[u32]) -> Vec<u32> {
    let mut pids: Vec<u32> =
        record.map(|record| record.pid).into_iter().chain(noted.iter().copied()).collect();
    pids.sort_unstable();
    pids.dedup();
    // 0 is no process, but our own group to `kill`; 1 is never ours.
    pids.retain(|pid| *pid > 1 && i32::try_from(*pid).is_ok());
    pids
}

/// Whether a process with this command line is a nats-server that was started with this configuration.
pub(super) fn is_ours(command: &CommandLine, config: &Path) -> bool {
    let Some((program, arguments)) = command.split_first() else { return false };
    let program = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    program.contains("nats-server") && arguments.iter().any(|argument| Path::new(argument) == config)
}

/// The command line of a process; empty if there is none.
#[cfg(target_os = "linux")]
pub(super) fn command(pid: u32) -> CommandLine {
    let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = text.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// The command line of a process; empty if there is none. `ps` puts spaces between words and nothing else, so
/// the last word is taken to be all that follows our own option.
#[cfg(not(target_os = "linux"))]
pub(super) fn command(pid: u32) -> CommandLine {
    let output =
        std::process::Command::new("ps").args(["-ww", "-o", "command=", "-p", &pid.to_string()]).output();
    let text =
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    words_of_ps(&text)
}

#[cfg(any(test, not(target_os = "linux")))]
fn words_of_ps(text: &str) -> CommandLine {
    match text.split_once(" --config ") {
        Some((program, config)) => vec![program.to_owned(), "--config".to_owned(), config.to_owned()],
        None => Vec::new(),
    }
}

/// Sends a signal. A process that is gone needs none.
pub(super) fn signal(pid: u32, signal: Signal) {
    let Ok(pid) = i32::try_from(pid) else { return };
    if let Err(error) = kill(Pid::from_raw(pid), signal) {
        tracing::debug!(pid, %error, "no signal was sent");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "/data/my nats/server.conf";

    fn words(words: &[&str]) -> CommandLine {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn only_a_nats_server_with_our_configuration_is_ours() {
        for (command, ours) in [
            (words(&["/usr/bin/nats-server", "--config", CONFIG]), true),
            (words(&["nats-server", "-c", CONFIG, "-D"]), true),
            (words_of_ps(&format!("/opt/my tools/nats-server --config {CONFIG}")), true),
            (words(&["nats-server", "--config", "/data/other/server.conf"]), false),
            (words(&["nats-server", "-js"]), false),
            (words(&["vim", CONFIG]), false),
            (words_of_ps("/bin/zsh"), false),
            (words(&[]), false),
        ] {
            assert_eq!(is_ours(&command, Path::new(CONFIG)), ours, "{command:?}");
        }
    }

    #[test]
    fn candidates_are_what_we_and_the_servers_wrote_down() {
        let record = Record::new(40, 4222);
        assert_eq!(known(Some(&record), &[50, 40]), [40, 50]);
        assert_eq!(known(None, &[]), Vec::<u32>::new());
        assert_eq!(known(Some(&Record::new(0, 1)), &[1, u32::MAX]), Vec::<u32>::new(), "never ours");
    }

    #[test]
    fn our_own_command_line_can_be_read() {
        assert!(!command(std::process::id()).is_empty() || cfg!(not(target_os = "linux")));
        assert!(!is_ours(&command(std::process::id()), Path::new(CONFIG)));
    }
}
