//! What both benchmarks use: the release binary, the load, what processes take, and the machine's state.

pub(crate) mod broker;
pub(crate) mod client;
pub(crate) mod machine;
pub(crate) mod report;
