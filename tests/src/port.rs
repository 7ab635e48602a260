//! Ports that stay free while the process behind them is down.
//!
//! A server that is killed and started again needs the same port. One that the system picked is out of the range that
//! outgoing connections are given too, so in a busy test somebody takes it in the gap. These are from below that
//! range, and no port is given out twice by one test process.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the range of outgoing connections on Linux (32768 and up) and on macOS (49152 and up).
const FIRST: u32 = 12_000;
const COUNT: u32 = 20_000;

/// How many were looked at so far in this process.
static LOOKED_AT: AtomicU32 = AtomicU32::new(0);

/// A port on the loopback interface that nobody listens on and that this process has not given out before.
///
/// # Panics
/// When all of them are in use.
pub fn free_port() -> u16 {
    // Test processes that run at the same time begin at different places.
    let start = std::process::id().wrapping_mul(7_919);
    for _ in 0..COUNT {
        let step = LOOKED_AT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_add(step) % COUNT;
        let port = u16::try_from(port).expect("the range ends below 65536");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}
