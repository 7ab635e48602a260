//! Waiting for something to become true, with an end and a reason.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// How long a look waits for the next one. Short against anything that is awaited, long against the cost of a look.
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// What one look found: the thing awaited, or what is there instead.
///
/// `Option<T>` for "there or not", `Result<T, S>` when the state `S` seen so far should stand in the panic.
pub trait Look {
    /// The thing that is awaited.
    type Found;

    /// The thing, or words for what was seen in its place.
    fn found(self) -> Result<Self::Found, String>;
}

impl<T> Look for Option<T> {
    type Found = T;

    fn found(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".to_owned())
    }
}

impl<T, S: Debug> Look for Result<T, S> {
    type Found = T;

    fn found(self) -> Result<T, String> {
        self.map_err(|state| format!("{state:?}"))
    }
}

/// Looks again and again until there is something, and returns it.
///
/// A look that never ends is cut off at the deadline as well.
///
/// # Panics
/// At the deadline, naming what was awaited and what was last seen.
pub async fn eventually<L: Look>(deadline: Duration, what: &str, look: impl AsyncFnMut() -> L) -> L::Found {
    match within(deadline, look).await {
        Ok(found) => found,
        Err((looks, seen)) => {
            panic!("waited {deadline:?} for {what}; last seen, after {looks} looks: {seen}")
        }
    }
}

/// The same for who goes on without it.
///
/// # Errors
/// At the deadline: how often it was looked, and what was last seen.
pub async fn within<L: Look>(
    deadline: Duration,
    mut look: impl AsyncFnMut() -> L,
) -> Result<L::Found, (u32, String)> {
    let start = Instant::now();
    let mut seen = "no look that ended".to_owned();
    let mut looks = 0_u32;
    loop {
        let left = deadline.saturating_sub(start.elapsed());
        match tokio::time::timeout(left, look()).await.map(Look::found) {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(state)) => seen = state,
            Err(_) => {}
        }
        looks += 1;
        if start.elapsed() >= deadline {
            return Err((looks, seen));
        }
        tokio::time::sleep(BETWEEN_LOOKS.min(deadline)).await;
    }
}
