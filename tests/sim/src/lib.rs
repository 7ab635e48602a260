//! The scheduler, budgets, run record and hand-overs in a simulation drawn from a seed.
//!
//! The decisions are the real ones of `tollgate-policy`; the bus is a model of JetStream ([`tollgate_model`]), and the shells
//! around the decisions are small copies, in the order of steps of the real ones. Everything happens on one thread and
//! on simulated time, so that a seed always does the same. What it covers and how to replay a seed is in
//! `docs/simulation.md`.

pub mod bug;
pub mod checks;
pub mod exec;
pub mod health;
pub mod ledger;
pub mod net;
pub mod plan;
pub mod provider;
pub mod rng;
pub mod roles;
pub mod router;
pub mod run;
pub mod worker;
pub mod world;
