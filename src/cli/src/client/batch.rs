//! OpenAI batch files, in and out. Pure: bytes in, bytes out; no files, no NATS, no clock.

mod envelope;
mod identity;
mod input;
mod result;

pub(crate) use envelope::{Labels, payload};
pub(crate) use identity::{default_group, request_id};
pub(crate) use input::{Batch, InputProblem, Line, read};
pub(crate) use result::{Answer, Place, Tally, duplicate, kept};
