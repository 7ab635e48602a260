//! The checker is checked: a harness that notices nothing would make every promise look kept.

mod check;
mod client;
mod gather;
mod nats;
mod provider;
mod roles;
mod wait;
