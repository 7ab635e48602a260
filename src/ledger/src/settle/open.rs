//! Accounts that stay open, and whether their requests are over all the same.
//!
//! The book hears that a request is over from its usage events. If none of them is read for it, because no budget concerned
//! the request when it was answered, and it is published once more under a budget that was applied since, then something is
//! reserved for it, its worker finds it answered, and nobody says anything. So what stays open is held against its record.

use std::collections::{BTreeMap, HashMap};

use tollgate_protocol::Timestamp;

use super::{Book, Outcome};
use crate::store::{Changes, Error};

/// How long an account is left alone, from when it was opened and from each look. Between the answer and its usage event lies
/// less; and only what is found answered twice is taken for over.
const LOOK_EVERY_MS: i64 = 15_000;
/// Accounts that are looked at together.
const LOOKS_MAX: usize = 50;

#[derive(Debug)]
struct Look {
    /// The last one, or when it was opened.
    at_ms: i64,
    was_answered: bool,
}

/// Accounts of which something is reserved for calls that are not over.
#[derive(Debug, Default)]
pub(super) struct Open(HashMap<String, Look>);

impl Open {
    pub(super) fn note(&mut self, name: &str, is_open: bool, touched_ms: i64) {
        if !is_open {
            self.0.remove(name);
        } else if !self.0.contains_key(name) {
            self.0.insert(name.to_owned(), Look { at_ms: touched_ms, was_answered: false });
        }
    }
}

impl Book {
    /// Accounts that have been open for so long that their records are to be looked at now.
    pub fn to_look_at(&mut self, now: Timestamp) -> Vec<String> {
        let now_ms = now.timestamp_millis();
        let is_due = |(_, look): &(&String, &mut Look)| now_ms - look.at_ms >= LOOK_EVERY_MS;
        let due = self.open.0.iter_mut().filter(is_due).take(LOOKS_MAX);
        due.map(|(name, look)| {
            look.at_ms = now_ms;
            name.clone()
        })
        .collect()
    }

    /// The request of an account was found answered. The second time it is over, as if its last usage event said so.
    pub fn answered(&mut self, name: &str) -> Result<Outcome, Error> {
        let mut outcome = Outcome::default();
        let Some(look) = self.open.0.get_mut(name) else { return Ok(outcome) };
        if std::mem::replace(&mut look.was_answered, true) {
            let mut accounts = BTreeMap::new();
            self.touch(&mut accounts, name)?.account.close();
            self.write_down(accounts, &mut outcome, Changes::default())?;
        }
        Ok(outcome)
    }
}
