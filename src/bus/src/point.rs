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
    // Nothing goes on after the signal. A process may run on for a moment after it was sent a stop, so this thread waits
    // for a shell that ends only when it sees the process stand, where there is a /proc.
    const STOP: &str = "kill -STOP $0; n=0; while [ $n -lt 200 ]; do \
        case \"$(sed 's/.*) //' /proc/$0/stat 2>/dev/null)\" in T*) exit;; esac; \
        n=$((n + 1)); sleep 0.01; done";
    let script = if signal == "stop" { STOP } else { "kill -KILL $0" };
    let process = std::process::id().to_string();
    if let Err(error) = std::process::Command::new("sh").args(["-c", script, &process]).status() {
        tracing::error!(%error, "the test hook does not work");
    }
}

/// Passes the point.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_: &'static str) {}
