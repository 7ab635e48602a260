//! A durable pull consumer with explicit acknowledgement.

use std::collections::BTreeMap;

use crate::Micros;

/// How a consumer is set up.
#[derive(Clone, Debug, Default)]
pub struct ConsumerConfig {
    /// Its name.
    pub name: String,
    /// What it delivers.
    pub filter: String,
    /// After how long what was not acknowledged is delivered again.
    pub ack_wait: Micros,
    /// Most messages that are delivered and not acknowledged.
    pub ack_pending_max: usize,
}

/// A delivered message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered<P> {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// The how-manieth delivery of this message it is, from 1.
    pub count: u64,
    /// Its subject.
    pub subject: String,
    /// When it was stored.
    pub stored_at: Micros,
    /// Its payload.
    pub payload: P,
}

#[derive(Clone, Debug)]
struct Pending {
    count: u64,
    /// When it is delivered again.
    again_at: Micros,
}

#[derive(Clone, Debug)]
pub(crate) struct Consumer {
    pub(crate) config: ConsumerConfig,
    /// The first sequence that was never delivered.
    pub(crate) next: u64,
    pending: BTreeMap<u64, Pending>,
}

impl Consumer {
    pub(crate) fn new(config: ConsumerConfig) -> Self {
        Self { config, next: 1, pending: BTreeMap::new() }
    }

    /// The next message that is to be delivered again: sequence and count.
    pub(crate) fn again(&mut self, now: Micros) -> Option<(u64, u64)> {
        let (sequence, pending) = self.pending.iter_mut().find(|(_, pending)| pending.again_at <= now)?;
        pending.count += 1;
        pending.again_at = now + self.config.ack_wait;
        Some((*sequence, pending.count))
    }

    /// Whether something that was never delivered may be.
    pub(crate) fn has_room(&self) -> bool {
        self.config.ack_pending_max == 0 || self.pending.len() < self.config.ack_pending_max
    }

    pub(crate) fn deliver(&mut self, sequence: u64, now: Micros) {
        self.next = sequence + 1;
        self.pending.insert(sequence, Pending { count: 1, again_at: now + self.config.ack_wait });
    }

    /// Whose delivery it was does not matter, only that it is pending.
    pub(crate) fn ack(&mut self, sequence: u64) -> bool {
        self.pending.remove(&sequence).is_some()
    }

    pub(crate) fn nak(&mut self, sequence: u64, delay: Micros, now: Micros) {
        if let Some(pending) = self.pending.get_mut(&sequence) {
            pending.again_at = now + delay;
        }
    }

    pub(crate) fn progress(&mut self, sequence: u64, now: Micros) {
        if let Some(pending) = self.pending.get_mut(&sequence) {
            pending.again_at = now + self.config.ack_wait;
        }
    }

    pub(crate) fn forget(&mut self, sequence: u64) {
        self.pending.remove(&sequence);
    }

    /// Nobody has anything in hand any more, as far as the server knows.
    pub(crate) fn restart(&mut self) {
        for pending in self.pending.values_mut() {
            pending.again_at = 0;
        }
    }

    pub(crate) fn next_at(&self) -> Option<Micros> {
        self.pending.values().map(|pending| pending.again_at).min()
    }
}
