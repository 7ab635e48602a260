//! Keeps the nats-server running until it is told to end: a server that died is started again on its port,
//! since that is where everybody reconnects to.

use std::fs::File;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Launch;
use super::spawn::Child;

const WAIT_MIN: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(10);
/// A server that lived so long was well: the next wait is the shortest again.
const WELL: Duration = Duration::from_secs(60);
/// From the request to end to the kill. Everybody else has ended by then.
const ENDS: Duration = Duration::from_secs(10);

/// Ends the server and itself on `stop`. `lock` goes along, so that it is ours between two servers.
pub(super) async fn run(launch: Launch, lock: File, mut child: Child, stop: CancellationToken) {
    let port = child.port;
    let mut failures = 0;
    loop {
        let started = Instant::now();
        tokio::select! {
            () = stop.cancelled() => return child.stop(ENDS).await,
            how = child.ended() => {
                tracing::error!(how, log = %launch.log.display(), "the nats-server died, starting it again");
            }
        }
        if started.elapsed() >= WELL {
            failures = 0;
        }
        child = loop {
            let wait = wait_after(failures);
            failures += 1;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            tokio::select! {
                // A server that is just starting is killed when it is dropped.
                () = stop.cancelled() => return,
                started = Child::start(&launch, &lock, port) => match started {
                    Ok(child) => break child,
                    Err(error) => tracing::error!(error, "the nats-server does not start"),
                }
            }
        };
        tracing::info!(port, "the nats-server is back");
    }
}

/// How long to wait before a start, after so many in a row that did not last.
fn wait_after(failures: u32) -> Duration {
    WAIT_MIN.saturating_mul(2_u32.saturating_pow(failures)).min(WAIT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound() {
        let waits: Vec<u128> = [0, 1, 2, 6, 7, 40, u32::MAX].map(|n| wait_after(n).as_millis()).to_vec();
        assert_eq!(waits, [100, 200, 400, 6_400, 10_000, 10_000, 10_000]);
    }
}
