//! Named points between two lines that touch the outside, where a test can have this process die or stand still.

/// Passes the point. In release builds there is nothing here.
///
/// In debug builds the variable `TOLLGATE_POINT` says `<name>:<n>:<kill|stop>`: at the n-th pass of the point of this
/// name the process sends itself SIGKILL or SIGSTOP.
#[cfg(debug_assertions)]
pub fn point(name: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ARMED: OnceLock<Option<(String, u64, String)>> = OnceLock::new();
    static PASSES: AtomicU64 = AtomicU64::new(0);

    let armed = ARMED.get_or_init(|| {
        #[expect(clippy::disallowed_methods, reason = "a test hook, and no setting of the product")]
        let text = std::env::var("TOLLGATE_POINT").ok()?;
        let mut parts = text.split(':');
        Some((parts.next()?.to_owned(), parts.next()?.parse().ok()?, parts.next()?.to_owned()))
    });
    let Some((wanted, pass, signal)) = armed else { return };
    if wanted != name || PASSES.fetch_add(1, Ordering::Relaxed) + 1 != *pass {
        return;
    }
    tracing::warn!(name, signal, "a test stops this process here");
    let signal = if signal == "stop" { "-STOP" } else { "-KILL" };
    let process = std::process::id().to_string();
    // Nothing goes on after the signal: it is sent before this returns.
    if let Err(error) = std::process::Command::new("kill").args([signal, &process]).status() {
        tracing::error!(%error, "the test hook does not work");
    }
}

/// Passes the point.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_: &'static str) {}
