//! Which providers take work now, as far as this router knows. Learnt from the server's refusals.

use std::collections::HashMap;

use tokio::time::{Duration, Instant};
use tollgate_protocol::Priority;

/// Publishes in flight to one subject, at most.
const WINDOW_MAX: u32 = 128;
/// How soon a full subject is tried again if no worker says that a place became free.
const RETRY_FULL: Duration = Duration::from_millis(10);
/// How soon a subject is tried again that nobody takes messages for.
const RETRY_BROKEN: Duration = Duration::from_secs(1);

/// How a dispatch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It was stored.
    Taken,
    /// There was no place.
    Full,
    /// The stream does not answer, or is not there.
    Broken,
}

#[derive(Debug)]
struct Gate {
    /// How many publishes may be in flight: grows with every success, shrinks when the subject is full, so
    /// that a full subject costs one refusal and not a hundred.
    window: u32,
    in_flight: u32,
    closed_until: Option<Instant>,
}

/// All gates, by provider and priority.
#[derive(Debug, Default)]
pub(crate) struct Gates(HashMap<(String, Priority), Gate>);

impl Gates {
    /// Whether a message may go there now.
    pub(crate) fn is_open(&self, provider: &str, priority: Priority) -> bool {
        // A lookup by (&str, Priority) needs an owned key; gates are few.
        self.0
            .iter()
            .find(|((name, of), _)| name == provider && *of == priority)
            .is_none_or(|(_, gate)| gate.closed_until.is_none() && gate.in_flight < gate.window)
    }

    /// A message goes there.
    pub(crate) fn sent(&mut self, provider: &str, priority: Priority) {
        self.gate(provider, priority).in_flight += 1;
    }

    /// It arrived, or not.
    pub(crate) fn seen(&mut self, provider: &str, priority: Priority, seen: Seen, now: Instant) {
        let gate = self.gate(provider, priority);
        gate.in_flight = gate.in_flight.saturating_sub(1);
        match seen {
            Seen::Taken => gate.window = (gate.window + 1).min(WINDOW_MAX),
            Seen::Full => {
                gate.window = (gate.window / 2).max(1);
                gate.closed_until = Some(now + RETRY_FULL);
            }
            Seen::Broken => {
                gate.window = 1;
                gate.closed_until = Some(now + RETRY_BROKEN);
            }
        }
    }

    /// A worker of the provider has a free place.
    pub(crate) fn freed(&mut self, provider: &str) {
        for ((name, _), gate) in &mut self.0 {
            if name == provider {
                gate.closed_until = None;
            }
        }
    }

    /// Opens the gates whose time has come, and says when the next one is due.
    pub(crate) fn reopen(&mut self, now: Instant) -> Option<Instant> {
        for gate in self.0.values_mut() {
            if gate.closed_until.is_some_and(|until| until <= now) {
                gate.closed_until = None;
            }
        }
        self.0.values().filter_map(|gate| gate.closed_until).min()
    }

    fn gate(&mut self, provider: &str, priority: Priority) -> &mut Gate {
        self.0.entry((provider.to_owned(), priority)).or_insert(Gate {
            window: 16,
            in_flight: 0,
            closed_until: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_subject_is_closed_until_a_place_is_free() {
        let (mut gates, now) = (Gates::default(), Instant::now());
        assert!(gates.is_open("sim", Priority::High));
        gates.sent("sim", Priority::High);
        gates.seen("sim", Priority::High, Seen::Full, now);
        assert!(!gates.is_open("sim", Priority::High));
        assert!(gates.is_open("sim", Priority::Low), "another priority has places of its own");
        gates.freed("other");
        assert!(!gates.is_open("sim", Priority::High));
        gates.freed("sim");
        assert!(gates.is_open("sim", Priority::High));
    }

    #[test]
    fn without_a_word_it_opens_by_itself() {
        let (mut gates, now) = (Gates::default(), Instant::now());
        gates.sent("sim", Priority::High);
        gates.seen("sim", Priority::High, Seen::Full, now);
        let due = gates.reopen(now).unwrap();
        assert_eq!(gates.reopen(due), None);
        assert!(gates.is_open("sim", Priority::High));
    }

    #[test]
    fn the_window_shrinks_on_refusal_and_grows_on_success() {
        let (mut gates, now) = (Gates::default(), Instant::now());
        for _ in 0..10 {
            gates.sent("sim", Priority::High);
            gates.seen("sim", Priority::High, Seen::Full, now);
            gates.freed("sim");
        }
        gates.sent("sim", Priority::High);
        assert!(!gates.is_open("sim", Priority::High), "one at a time now");
        gates.seen("sim", Priority::High, Seen::Taken, now);
        gates.sent("sim", Priority::High);
        assert!(gates.is_open("sim", Priority::High), "two at a time");
    }
}
