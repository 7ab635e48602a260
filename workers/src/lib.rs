//! Placeholder until its part lands.

pub mod simulator;
