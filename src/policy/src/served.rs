//! What was taken out of the order, until it is known how many tokens it used.
//!
//! Order is made by what a request is expected to use. Who asks for a thousand tokens and gets fifty would pay for a
//! thousand, and who asks for none and gets many would pay for few; so what was expected is replaced by what was used when
//! the call has ended. A usage event can be missed: after a while what was expected is taken for what was used.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU32;

use chrono::TimeDelta;
use tollgate_protocol::{Identity, Priority, Team, Timestamp};

use crate::index::request_hash;
use crate::order::Place;

/// Requests that are remembered.
const REMEMBERED_MAX: usize = 20_000;
/// How long the usage of a request may stay unknown before what was expected of it counts.
const UNKNOWN: TimeDelta = TimeDelta::seconds(60);

/// A change to what a team and a priority were served, in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The provider in whose order it was.
    pub provider: String,
    /// The priority it was served at.
    pub priority: Priority,
    /// The team that was served.
    pub team: Team,
    /// Its weight then.
    pub weight: NonZeroU32,
    /// No longer expected.
    pub expected: u64,
    /// Used.
    pub used: u64,
    /// Counted as used before, and not.
    pub less: u64,
}

impl Settlement {
    /// Of something that is expected to use so much.
    pub(crate) fn of(place: &Place) -> Self {
        let Place { priority, ref team, weight, tokens: expected, ref gate } = *place;
        let (provider, team) = (gate.provider.clone(), team.clone());
        Self { provider, priority, team, weight, expected, used: 0, less: 0 }
    }
}

#[derive(Debug)]
struct Entry {
    /// What is still expected; nothing once its usage is known, or taken for known.
    open: Settlement,
    /// What was taken for its usage.
    assumed: u64,
    /// Bytes of its input, if it has nothing but text; else 0.
    text_bytes: u64,
    since: Timestamp,
}

/// Requests that this router took out of its order.
#[derive(Debug, Default)]
pub struct Served {
    entries: HashMap<u64, Entry>,
    /// The oldest first. What was forgotten meanwhile is still here.
    order: VecDeque<(Timestamp, u64)>,
    /// How many of `order`, from its beginning, are overdue already.
    overdue: usize,
}

impl Served {
    /// A request is on its way to its provider. Returned: what nobody will hear of any more.
    pub fn note(&mut self, request: &Identity, place: &Place, now: Timestamp) -> Vec<Settlement> {
        let request = request_hash(request);
        let entry = Entry { open: Settlement::of(place), assumed: 0, text_bytes: 0, since: now };
        let mut gone: Vec<_> = self.entries.insert(request, entry).into_iter().map(Entry::assume).collect();
        self.order.push_back((now, request));
        while self.order.len() > REMEMBERED_MAX {
            let Some((since, oldest)) = self.order.pop_front() else { break };
            self.overdue = self.overdue.saturating_sub(1);
            if self.entries.get(&oldest).is_some_and(|entry| entry.since == since) {
                gone.extend(self.entries.remove(&oldest).map(Entry::assume));
            }
        }
        gone
    }

    /// How many bytes of text a request on its way has, if it has nothing else.
    pub fn note_text(&mut self, request: &Identity, bytes: u64) {
        if let Some(entry) = self.entries.get_mut(&request_hash(request)) {
            entry.text_bytes = bytes;
        }
    }

    /// The same, as it was noted; 0 if it was not.
    pub fn text_bytes(&self, request: &Identity) -> u64 {
        self.entries.get(&request_hash(request)).map_or(0, |entry| entry.text_bytes)
    }

    /// A request is not on its way after all. Whether it was still expected.
    pub fn forget(&mut self, request: &Identity) -> bool {
        let Some(forgotten) = self.entries.remove(&request_hash(request)) else { return false };
        // Who is refused tries again and again, and must not push out what is remembered of others.
        while let Some((since, last)) = self.order.back()
            && self.entries.get(last).is_none_or(|entry| entry.since != *since)
        {
            self.order.pop_back();
        }
        self.overdue = self.overdue.min(self.order.len());
        forgotten.open.expected > 0
    }

    /// Whether a request is one of these.
    pub fn knows(&self, request: &Identity) -> bool {
        self.entries.contains_key(&request_hash(request))
    }

    /// A call of a request has used so many tokens, or it ended without one. What was expected is settled by its first
    /// call; each further one is counted beside it.
    pub fn used(&mut self, request: &Identity, used: u64) -> Option<Settlement> {
        let entry = self.entries.get_mut(&request_hash(request))?;
        let settlement = Settlement { used, less: entry.assumed, ..entry.open.clone() };
        (entry.open.expected, entry.assumed) = (0, 0);
        let is_change = settlement.expected > 0 || settlement.used != settlement.less;
        is_change.then_some(settlement)
    }

    /// What has been unknown for too long.
    pub fn overdue(&mut self, now: Timestamp) -> Vec<Settlement> {
        let mut settled = Vec::new();
        while let Some((since, request)) = self.order.get(self.overdue)
            && now - *since >= UNKNOWN
        {
            if let Some(entry) = self.entries.get_mut(request)
                && entry.since == *since
                && entry.open.expected > 0
            {
                let expected = entry.open.expected;
                settled.push(Settlement { used: expected, ..entry.open.clone() });
                (entry.open.expected, entry.assumed) = (0, expected);
            }
            self.overdue += 1;
        }
        settled
    }
}

impl Entry {
    /// What was expected counts as used.
    fn assume(self) -> Settlement {
        Settlement { used: self.open.expected, ..self.open }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(n: usize) -> Identity {
        Identity::from_tokens(&format!("research.group.q{n}")).unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_timestamp(1_790_000_000 + seconds, 0).unwrap()
    }

    fn place() -> Place {
        Place {
            priority: Priority::Normal,
            team: Team::parse("research").unwrap(),
            weight: NonZeroU32::MIN,
            gate: "sim".into(),
            tokens: 100,
        }
    }

    /// What is expected, used and less.
    fn of(settlement: Option<Settlement>) -> Option<(u64, u64, u64)> {
        settlement.map(|settlement| (settlement.expected, settlement.used, settlement.less))
    }

    #[test]
    fn the_first_call_settles_and_the_others_are_counted_beside_it() {
        let mut served = Served::default();
        assert_eq!(served.used(&identity(0), 50), None, "another router's");
        assert_eq!(served.note(&identity(0), &place(), at(0)), []);
        assert_eq!(of(served.used(&identity(0), 40)), Some((100, 40, 0)));
        assert_eq!(of(served.used(&identity(0), 30)), Some((0, 30, 0)));
        assert_eq!(served.used(&identity(0), 0), None, "nothing changes");
        served.note(&identity(1), &place(), at(0));
        assert_eq!(of(served.used(&identity(1), 0)), Some((100, 0, 0)), "it ended without a call");
    }

    #[test]
    fn what_is_not_heard_of_is_taken_as_expected_until_it_is() {
        let mut served = Served::default();
        served.note(&identity(0), &place(), at(0));
        served.note(&identity(1), &place(), at(30));
        assert_eq!(served.overdue(at(59)), []);
        let overdue = served.overdue(at(60));
        assert_eq!((overdue.len(), of(overdue.into_iter().next())), (1, Some((100, 100, 0))));
        assert_eq!(served.overdue(at(61)), [], "once");
        assert_eq!(of(served.used(&identity(0), 40)), Some((0, 40, 100)));
        assert_eq!(of(served.used(&identity(1), 40)), Some((100, 40, 0)));
        assert_eq!(served.overdue(at(1_000)), [], "the other is known");
    }

    #[test]
    fn what_comes_back_is_not_on_its_way() {
        let mut served = Served::default();
        served.note(&identity(0), &place(), at(0));
        assert!(served.forget(&identity(0)) && !served.forget(&identity(0)));
        assert!(!served.knows(&identity(0)) && served.overdue(at(100)).is_empty());
        served.note(&identity(0), &place(), at(100));
        let again = served.note(&identity(0), &place(), at(101));
        assert_eq!(of(again.into_iter().next()), Some((100, 100, 0)), "it went a second time");
        assert_eq!(served.overdue(at(200)).len(), 1);
    }

    #[test]
    fn who_is_refused_again_and_again_pushes_out_nobody() {
        let mut served = Served::default();
        served.note(&identity(0), &place(), at(0));
        for n in 0..REMEMBERED_MAX as i64 {
            // Two at a time, which come back in the order they went.
            let tries = [identity(1), identity(2)];
            tries.iter().for_each(|request| assert_eq!(served.note(request, &place(), at(n)), []));
            assert!(tries.iter().all(|request| served.forget(request)));
        }
        assert!(served.knows(&identity(0)));
        assert_eq!((served.entries.len(), served.order.len()), (1, 1));
        assert_eq!(served.overdue(at(60)).len(), 1);
        served.note(&identity(1), &place(), at(60));
        assert_eq!(served.overdue(at(120)).len(), 1, "and what comes after it is looked at");
    }

    #[test]
    fn the_oldest_are_forgotten_and_counted_as_expected() {
        let mut served = Served::default();
        let mut gone = Vec::new();
        for n in 0..=REMEMBERED_MAX {
            gone.extend(served.note(&identity(n), &place(), at(0)));
        }
        assert_eq!(gone.len(), 1);
        assert!(!served.knows(&identity(0)) && served.knows(&identity(1)));
        assert_eq!((served.entries.len(), served.order.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
        assert_eq!(served.overdue(at(60)).len(), REMEMBERED_MAX);
    }
}
