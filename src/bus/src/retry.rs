//! Patience with the server: how long a write is tried again before it counts as failed.

use std::time::Duration;

use tokio::time::Instant;

/// Longest wait for one acknowledgement before the write is tried again, under the same id.
pub const TRY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to go on. A leader election was measured at 6.65 s, so 15 s is the least that makes sense.
#[derive(Clone, Copy, Debug)]
pub struct Patience(pub Duration);

impl Patience {
    /// For writes whose sender can come again: 20 s.
    pub const NORMAL: Self = Self(Duration::from_secs(20));
    /// For a claim, which may be stored although nobody could say so, and would then count as lost: 10 min.
    pub const CLAIM: Self = Self(Duration::from_secs(600));
    /// For an answer that was paid for and exists nowhere else: 15 min.
    pub const PAID: Self = Self(Duration::from_secs(900));
}

/// Waits between tries, growing, until patience is over.
#[derive(Debug)]
pub struct Tries {
    until: Instant,
    next: Duration,
}

impl Tries {
    /// Starts the clock.
    pub fn new(patience: Patience) -> Self {
        Self { until: Instant::now() + patience.0, next: Duration::from_millis(20) }
    }

    /// Waits before the next try. `false`: patience is over.
    pub async fn again(&mut self) -> bool {
        if Instant::now() + self.next > self.until {
            return false;
        }
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(Duration::from_secs(1));
        true
    }
}
