//! One stream: what is stored, and what is refused.

use std::collections::{BTreeMap, HashMap};

use crate::consumer::Consumer;
use crate::{Micros, matches};

/// How a stream is set up.
#[derive(Clone, Debug, Default)]
pub struct StreamConfig {
    /// Its name.
    pub name: String,
    /// What it takes.
    pub subjects: Vec<String>,
    /// Whether an acknowledged message is removed.
    pub work_queue: bool,
    /// Most messages of a subject; 0 for any number.
    pub per_subject_max: usize,
    /// Most messages in all; 0 for any number.
    pub messages_max: usize,
    /// Whether a full stream or subject refuses what is new; else it drops what is oldest.
    pub discard_new: bool,
    /// How long ids are remembered.
    pub duplicate_window: Micros,
    /// Whether `Nats-Incr` is taken.
    pub counter: bool,
    /// Whether schedules are taken.
    pub schedules: bool,
}

/// What a fenced write expects: the last sequence over a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    /// The sequence; 0 for none.
    pub last: u64,
    /// The filter.
    pub filter: String,
}

/// A message that is delivered to another subject at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// When.
    pub at: Micros,
    /// Where to.
    pub target: String,
}

/// A message on its way into a stream.
#[derive(Clone, Debug)]
pub struct Publish<P> {
    /// Its subject.
    pub subject: String,
    /// `Nats-Msg-Id`.
    pub id: Option<String>,
    /// The fence.
    pub expect: Option<Expect>,
    /// `Nats-Incr`.
    pub increment: Option<i64>,
    /// `Nats-Schedule`.
    pub schedule: Option<Schedule>,
    /// Its payload.
    pub payload: P,
}

impl<P> Publish<P> {
    /// A plain message.
    pub fn new(subject: impl Into<String>, payload: P) -> Self {
        Self { subject: subject.into(), id: None, expect: None, increment: None, schedule: None, payload }
    }

    /// With an id.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }
}

/// Stored, now or before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Its sequence.
    pub sequence: u64,
    /// Whether it was there already, by its id.
    pub duplicate: bool,
    /// The counter's total with it; of a repeat it is not said.
    pub total: Option<i64>,
}

/// Not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No stream takes the subject.
    NoStream,
    /// The subject has as many messages as it may (10077).
    SubjectFull,
    /// The stream has as many messages as it may (10077).
    StreamFull,
    /// Another entry was there first (10071).
    WrongLast,
    /// A counter takes increments and nothing else, and no other stream takes them.
    NotACounter,
}

/// A stored message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<P> {
    /// Its sequence.
    pub sequence: u64,
    /// Its subject.
    pub subject: String,
    /// When it was stored.
    pub stored_at: Micros,
    /// Its id.
    pub id: Option<String>,
    /// What it added to its counter.
    pub increment: Option<i64>,
    /// The counter's total with it.
    pub total: Option<i64>,
    /// When it is delivered, and where to.
    pub schedule: Option<Schedule>,
    /// Its payload.
    pub payload: P,
}

#[derive(Clone, Debug)]
pub(crate) struct Stream<P> {
    pub(crate) config: StreamConfig,
    pub(crate) messages: BTreeMap<u64, Stored<P>>,
    pub(crate) last: u64,
    /// Counters go on when their entries are gone.
    totals: HashMap<String, i64>,
    counts: HashMap<String, usize>,
    ids: HashMap<String, (u64, Micros)>,
    pub(crate) consumers: BTreeMap<String, Consumer>,
}

impl<P: Clone> Stream<P> {
    pub(crate) fn new(config: StreamConfig) -> Self {
        Self {
            config,
            messages: BTreeMap::new(),
            last: 0,
            totals: HashMap::new(),
            counts: HashMap::new(),
            ids: HashMap::new(),
            consumers: BTreeMap::new(),
        }
    }

    pub(crate) fn takes(&self, subject: &str) -> bool {
        self.config.subjects.iter().any(|filter| matches(filter, subject))
    }

    /// The last message over a filter.
    pub(crate) fn last_of(&self, filter: &str) -> Option<&Stored<P>> {
        self.messages.values().rev().find(|stored| matches(filter, &stored.subject))
    }

    /// The largest number of messages of one subject.
    pub(crate) fn fullest(&self) -> usize {
        self.counts.values().copied().max().unwrap_or(0)
    }

    pub(crate) fn publish(&mut self, publish: Publish<P>, now: Micros) -> Result<Ack, Refused> {
        let window = self.config.duplicate_window;
        if let Some(id) = &publish.id
            && let Some((sequence, at)) = self.ids.get(id)
            && now.saturating_sub(*at) < window
        {
            return Ok(Ack { sequence: *sequence, duplicate: true, total: None });
        }
        if publish.increment.is_some() != self.config.counter {
            return Err(Refused::NotACounter);
        }
        if let Some(Expect { last, filter }) = &publish.expect
            && self.last_of(filter).map_or(0, |stored| stored.sequence) != *last
        {
            return Err(Refused::WrongLast);
        }
        self.make_room(&publish)?;
        self.last += 1;
        let sequence = self.last;
        let total = publish.increment.map(|increment| {
            let total = self.totals.entry(publish.subject.clone()).or_default();
            *total += increment;
            *total
        });
        if let Some(id) = &publish.id {
            self.ids.insert(id.clone(), (sequence, now));
        }
        *self.counts.entry(publish.subject.clone()).or_default() += 1;
        let Publish { subject, id, increment, schedule, payload, .. } = publish;
        let stored = Stored { sequence, subject, stored_at: now, id, increment, total, schedule, payload };
        self.messages.insert(sequence, stored);
        Ok(Ack { sequence, duplicate: false, total })
    }

    fn make_room(&mut self, publish: &Publish<P>) -> Result<(), Refused> {
        let of_subject = self.counts.get(&publish.subject).copied().unwrap_or(0);
        let most = self.config.per_subject_max;
        // A schedule replaces the one of its subject.
        let most = if publish.schedule.is_some() { 1 } else { most };
        if most > 0 && of_subject >= most {
            if self.config.discard_new && publish.schedule.is_none() {
                return Err(Refused::SubjectFull);
            }
            let oldest = self.messages.values().find(|stored| stored.subject == publish.subject);
            if let Some(sequence) = oldest.map(|stored| stored.sequence) {
                self.remove(sequence);
            }
        }
        let most = self.config.messages_max;
        if most > 0 && self.messages.len() >= most {
            if self.config.discard_new {
                return Err(Refused::StreamFull);
            }
            if let Some(sequence) = self.messages.keys().next().copied() {
                self.remove(sequence);
            }
        }
        Ok(())
    }

    pub(crate) fn remove(&mut self, sequence: u64) -> bool {
        let Some(stored) = self.messages.remove(&sequence) else { return false };
        if let Some(count) = self.counts.get_mut(&stored.subject) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&stored.subject);
            }
        }
        for consumer in self.consumers.values_mut() {
            consumer.forget(sequence);
        }
        true
    }

    /// What a server that was killed no longer knows: the ids of messages that are gone, and who has what in hand.
    pub(crate) fn restart(&mut self) {
        let messages = &self.messages;
        self.ids.retain(|_, (sequence, _)| messages.contains_key(sequence));
        for consumer in self.consumers.values_mut() {
            consumer.restart();
        }
    }

    /// Takes out the schedules whose time has come.
    pub(crate) fn fire(&mut self, now: Micros) -> Vec<(String, P)> {
        let due: Vec<u64> = self
            .messages
            .values()
            .filter(|stored| stored.schedule.as_ref().is_some_and(|schedule| schedule.at <= now))
            .map(|stored| stored.sequence)
            .collect();
        let mut fired = Vec::new();
        for sequence in due {
            if let Some(Stored { schedule: Some(schedule), payload, .. }) =
                self.messages.get(&sequence).cloned()
            {
                fired.push((schedule.target, payload));
            }
            self.remove(sequence);
        }
        fired
    }

    pub(crate) fn next_schedule(&self) -> Option<Micros> {
        self.messages.values().filter_map(|stored| Some(stored.schedule.as_ref()?.at)).min()
    }
}
