//! Bad input gets a clear terminal response with a code and the field; it never crashes, blocks or silently drops
//! anything.

mod publish;
mod rows;
mod sizes;
mod table;
