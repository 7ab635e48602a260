//! Every decision, pure.
//!
//! Plain functions of state, event and now; randomness is an argument. Knows nothing of NATS, HTTP, files
//! or clocks, and so can be tested by table, by property and, later, by simulation.

pub mod account;
pub mod alert;
pub mod answer;
pub mod aside;
pub mod budget;
pub mod catalog;
pub mod claim;
pub mod dead;
pub mod estimate;
pub mod express;
pub mod failure;
pub mod health;
pub mod hot;
pub mod index;
pub mod inputs;
pub mod keys;
pub mod order;
pub mod outputs;
pub mod pace;
pub mod quota;
pub mod repeats;
pub mod retention;
pub mod retry;
pub mod retry_budget;
pub mod route;
pub mod served;
pub mod stuck;
