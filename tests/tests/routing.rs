//! Where a request goes: in which order, to whom next when a call fails, and how it ends when nothing helps.

mod clocks;
mod express;
mod fallback;
mod full;
mod in_flight;
mod order;
mod retries;
mod terminal;
