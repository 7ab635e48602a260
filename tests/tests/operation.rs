//! What an operator sees and does: metrics, health, stopping in order, logs without content, and configuration errors.

mod configuration;
mod metrics;
mod secrets;
mod stopping;
