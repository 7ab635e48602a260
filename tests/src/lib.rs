//! The harness that every promise is tested with: a real nats-server, a provider that does what a test tells it,
//! the roles of the broker as child processes, a bare client, and the equalities that must hold at the end.
//!
//! It uses nothing of the broker's own crates. A checker that shared code with what it checks would share its
//! mistakes: here subjects, envelopes and prices are written down a second time, from the public contract. All that
//! it knows of the broker is how to start the `tollgate` binary.
//!
//! Whatever goes wrong is a panic that says what was awaited and what was seen instead: the callers are tests.

#![expect(
    clippy::disallowed_methods,
    reason = "a test harness is a shell: it reads the clock and the environment"
)]
#![expect(clippy::print_stderr, reason = "a failing test shows what the processes it started had to say")]

pub mod binary;
pub mod chaos;
pub mod check;
pub mod client;
pub mod cluster;
pub mod config;
pub mod counters;
pub mod money;
pub mod nats;
pub mod port;
pub mod process;
pub mod provider;
pub mod request;
pub mod roles;
pub mod wait;

/// A client for plain HTTP to the things on this machine, without a proxy.
///
/// # Panics
/// When the client cannot be built, which needs a TLS provider even for plain HTTP.
pub fn http() -> reqwest::Client {
    // Someone else in this process may have been first; then theirs is in use, and is the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().expect("a client for plain HTTP can be built")
}
