//! The streams: created as documented, never changed in a way that loses a request, and refusals that say why.

mod bounds;
mod permissions;
mod refusals;
mod streams;
