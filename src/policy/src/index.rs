//! What waits in a stream where nobody pulls it: by deadline, by request, and, where it waits for a target, by team.
//!
//! A shelf knows of each message only its sequence, when it is due and a hash of its request: some tens of bytes, so
//! that a million of them are some tens of megabytes. It may know messages that are gone; whoever takes one up finds
//! that out.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use tollgate_protocol::job::Target;
use tollgate_protocol::{Identity, Sequence, Team, Timestamp};

/// A message on a shelf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its sequence in the stream.
    pub sequence: Sequence,
    /// When it is to be looked at: its request's deadline.
    pub due: Timestamp,
    /// [`request_hash`] of its request.
    pub request: u64,
}

/// Whose a held message is, and what it waits for.
pub type Waits = (Team, Vec<Target>);

/// Messages by sequence and by due time.
#[derive(Debug, Default)]
pub struct Shelf {
    entries: BTreeMap<Sequence, (i64, u64)>,
    by_due: BTreeSet<(i64, Sequence)>,
}

impl Shelf {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Puts a message there; one that is there already gets the new due time.
    pub fn insert(&mut self, entry: Entry) {
        self.remove(entry.sequence);
        let due = entry.due.timestamp_millis();
        self.entries.insert(entry.sequence, (due, entry.request));
        self.by_due.insert((due, entry.sequence));
    }

    /// Takes a message away.
    pub fn remove(&mut self, sequence: Sequence) -> Option<Entry> {
        let (due, request) = self.entries.remove(&sequence)?;
        self.by_due.remove(&(due, sequence));
        Some(Entry { sequence, due: Timestamp::from_timestamp_millis(due).unwrap_or_default(), request })
    }

    /// Whether a message is there.
    pub fn contains(&self, sequence: Sequence) -> bool {
        self.entries.contains_key(&sequence)
    }

    /// Takes out what is due, the longest due first; at most so many.
    pub fn take_due(&mut self, now: Timestamp, most: usize) -> Vec<Entry> {
        let now = now.timestamp_millis();
        let due: Vec<_> = self.by_due.iter().take_while(|(due, _)| *due <= now).take(most).copied().collect();
        due.into_iter().filter_map(|(_, sequence)| self.remove(sequence)).collect()
    }

    /// The messages that may be of this request: another one can have the same hash.
    pub fn find(&self, request: u64) -> Vec<Sequence> {
        self.entries.iter().filter(|(_, (_, of))| *of == request).map(|(sequence, _)| *sequence).collect()
    }

    /// Every message.
    pub fn sequences(&self) -> impl Iterator<Item = Sequence> + '_ {
        self.entries.keys().copied()
    }
}

/// FNV-1a of an identity.
pub fn request_hash(identity: &Identity) -> u64 {
    identity
        .to_string()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Messages that wait until one of their targets is up.
#[derive(Debug, Default)]
pub struct Waiting {
    shelf: Shelf,
    /// What each message waits for, and whose it is.
    of: BTreeMap<Sequence, (usize, Team)>,
    /// The sets of targets that are waited for, with a number for each.
    sets: BTreeMap<usize, Vec<Target>>,
    numbers: HashMap<Vec<Target>, usize>,
    next_set: usize,
    /// By set, then team, oldest first. May hold messages that the shelf no longer has.
    queues: BTreeMap<usize, BTreeMap<Team, VecDeque<Sequence>>>,
    /// By set: the team that was served last.
    turn: BTreeMap<usize, Team>,
}

impl Waiting {
    /// The messages, by deadline and request.
    pub fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// Puts a message there that waits for any of these targets.
    pub fn insert(&mut self, entry: Entry, team: &Team, targets: &[Target]) {
        let set = self.set_of(targets);
        let known = self.shelf.contains(entry.sequence);
        self.shelf.insert(entry);
        self.of.insert(entry.sequence, (set, team.clone()));
        if !known {
            self.queue(set, team).push_back(entry.sequence);
        }
    }

    /// Puts a message back that was released and could not go: it is the next of its team.
    pub fn put_back(&mut self, entry: Entry, team: &Team, targets: &[Target]) {
        let set = self.set_of(targets);
        self.shelf.insert(entry);
        self.of.insert(entry.sequence, (set, team.clone()));
        self.queue(set, team).push_front(entry.sequence);
    }

    /// Takes a message away.
    pub fn remove(&mut self, sequence: Sequence) -> Option<Entry> {
        self.of.remove(&sequence);
        self.shelf.remove(sequence)
    }

    /// Takes out what is due, with whose it is and what it waits for.
    pub fn take_due(&mut self, now: Timestamp, most: usize) -> Vec<(Entry, Option<Waits>)> {
        let due = self.shelf.take_due(now, most).into_iter();
        due.map(|entry| {
            let of = self.of.remove(&entry.sequence);
            (entry, of.map(|(set, team)| (team, self.sets.get(&set).cloned().unwrap_or_default())))
        })
        .collect()
    }

    /// The sets of targets that somebody waits for.
    pub fn sets(&self) -> Vec<(usize, &[Target])> {
        self.queues.keys().filter_map(|set| Some((*set, self.sets.get(set)?.as_slice()))).collect()
    }

    /// Whether a team that `may` waits for this set of targets.
    pub fn has(&mut self, set: usize, may: impl Fn(&Team) -> bool) -> bool {
        let Some(queues) = self.queues.get(&set) else { return false };
        if queues.is_empty() {
            self.forget(set);
            return false;
        }
        queues.keys().any(may)
    }

    /// Takes out the next message that waits for this set of targets: the oldest of the team whose turn it is, of those
    /// that `may`.
    pub fn release(&mut self, set: usize, may: impl Fn(&Team) -> bool) -> Option<(Entry, Team)> {
        let queues = self.queues.get_mut(&set)?;
        loop {
            let after = self.turn.get(&set);
            let next = after
                .and_then(|team| {
                    use std::ops::Bound::{Excluded, Unbounded};
                    queues
                        .range::<Team, _>((Excluded(team), Unbounded))
                        .map(|(team, _)| team)
                        .find(|team| may(team))
                })
                .or_else(|| queues.keys().find(|team| may(team)))
                .cloned();
            let Some(team) = next else {
                if queues.is_empty() {
                    self.forget(set);
                }
                return None;
            };
            let Some(queue) = queues.get_mut(&team) else { continue };
            let sequence = queue.pop_front();
            if queue.is_empty() {
                queues.remove(&team);
            }
            self.turn.insert(set, team.clone());
            // What expired meanwhile is still in the queue.
            let Some(sequence) = sequence else { continue };
            if self.of.get(&sequence).is_some_and(|(of, owner)| *of == set && *owner == team)
                && let Some(entry) = self.shelf.remove(sequence)
            {
                self.of.remove(&sequence);
                return Some((entry, team));
            }
        }
    }

    /// Takes out the next message of a team that is not there any more.
    pub fn release_stranger(
        &mut self,
        set: usize,
        is_known: impl Fn(&Team) -> bool,
    ) -> Option<(Entry, Team)> {
        let queues = self.queues.get_mut(&set)?;
        loop {
            let team = queues.keys().find(|team| !is_known(team))?.clone();
            let queue = queues.get_mut(&team)?;
            let sequence = queue.pop_front();
            if queue.is_empty() {
                queues.remove(&team);
            }
            // What expired meanwhile is still in the queue.
            let Some(sequence) = sequence else { continue };
            if self.of.get(&sequence).is_some_and(|(of, owner)| *of == set && *owner == team)
                && let Some(entry) = self.shelf.remove(sequence)
            {
                self.of.remove(&sequence);
                return Some((entry, team));
            }
        }
    }

    /// Clients choose what is in a set: those that nobody waits for are not kept.
    fn forget(&mut self, set: usize) {
        self.queues.remove(&set);
        self.turn.remove(&set);
        if let Some(targets) = self.sets.remove(&set) {
            self.numbers.remove(&targets);
        }
    }

    fn set_of(&mut self, targets: &[Target]) -> usize {
        if let Some(set) = self.numbers.get(targets) {
            return *set;
        }
        let set = self.next_set;
        self.next_set += 1;
        self.sets.insert(set, targets.to_vec());
        self.numbers.insert(targets.to_vec(), set);
        set
    }

    fn queue(&mut self, set: usize, team: &Team) -> &mut VecDeque<Sequence> {
        self.queues.entry(set).or_default().entry(team.clone()).or_default()
    }
}

/// Released messages that are in hand, by what they waited for and by team. Some of them wait on, for a budget or for their
/// turn: those of one team are never in the way of another one's.
#[derive(Debug, Default)]
pub struct Released(HashMap<Vec<Target>, OfSet>);

/// Those of a set of targets.
#[derive(Debug, Default)]
struct OfSet {
    all: usize,
    teams: HashMap<Team, usize>,
}

/// Most of a team and a set of targets, and most of a set.
const RELEASED_MAX: (usize, usize) = (64, 512);
/// So many every team may have, whatever others have.
const RELEASED_ALWAYS: usize = 4;

impl Released {
    /// Whether a team may have another one. Every team may have some.
    pub fn may(&self, targets: &[Target], team: &Team) -> bool {
        let Some(of) = self.0.get(targets) else { return true };
        let of_team = of.teams.get(team).copied().unwrap_or(0);
        of_team < RELEASED_ALWAYS || (of_team < RELEASED_MAX.0 && of.all < RELEASED_MAX.1)
    }

    /// One is in hand.
    pub fn add(&mut self, (team, targets): &Waits) {
        let of = self.0.entry(targets.clone()).or_default();
        of.all += 1;
        *of.teams.entry(team.clone()).or_default() += 1;
    }

    /// One is not any more, or is not to be counted.
    pub fn remove(&mut self, (team, targets): &Waits) {
        let Some(of) = self.0.get_mut(targets) else { return };
        if let Some(count) = of.teams.get_mut(team) {
            of.all -= 1;
            *count -= 1;
            if *count == 0 {
                of.teams.remove(team);
            }
        }
        if of.teams.is_empty() {
            self.0.remove(targets);
        }
    }
}

/// Which of the live processes looks after something: the one whose name together with it hashes highest (rendezvous
/// hashing, Thaler and Ravishankar 1996). All who know the same processes name the same one; when one goes, only what it
/// looked after moves.
pub fn caretaker<'a>(what: &str, live: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let weight = |name: &str| {
        let hash =
            name.bytes().chain([0]).chain(what.bytes()).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        // The last bytes alone would decide the order of FNV: mixed as in MurmurHash3's finalizer.
        let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^ (hash >> 33)
    };
    live.max_by_key(|name| (weight(name), *name))
}

#[cfg(test)]
mod tests;
