//! When waiting for the end of a broker is over. Pure; `process` waits.

use std::time::Duration;

use tollgate_config::Settings;

/// What roles get on top of the configured time, to notice that it is over and say so themselves.
const GRACE: Duration = Duration::from_secs(2);

/// How long a process that was told to stop may take.
pub(super) fn limit(settings: &Settings) -> Duration {
    Duration::from_millis(settings.timing.drain_ms) + GRACE
}
