//! The same identity is the same request: it runs once and has one answer, however often it is published.

mod many;
mod repeats;
