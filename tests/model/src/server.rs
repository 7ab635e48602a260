//! All streams of a server.

use std::collections::BTreeMap;

use crate::consumer::Consumer;
use crate::stream::Stream;
use crate::{Ack, ConsumerConfig, Delivered, Micros, Publish, Refused, Stored, StreamConfig, matches};

/// A server. It does nothing by itself: whoever has it says what time it is.
#[derive(Clone, Debug)]
pub struct Server<P> {
    streams: BTreeMap<String, Stream<P>>,
}

impl<P> Default for Server<P> {
    fn default() -> Self {
        Self { streams: BTreeMap::new() }
    }
}

impl<P: Clone> Server<P> {
    /// Creates a stream.
    pub fn add_stream(&mut self, config: StreamConfig) {
        self.streams.insert(config.name.clone(), Stream::new(config));
    }

    /// Creates a durable consumer.
    pub fn add_consumer(&mut self, stream: &str, config: ConsumerConfig) {
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.consumers.insert(config.name.clone(), Consumer::new(config));
        }
    }

    /// Stores a message, or says why not.
    pub fn publish(&mut self, publish: Publish<P>, now: Micros) -> Result<Ack, Refused> {
        let stream = self.streams.values_mut().find(|stream| stream.takes(&publish.subject));
        stream.ok_or(Refused::NoStream)?.publish(publish, now)
    }

    /// Delivers up to `most` messages: those again whose time has come, then new ones.
    pub fn fetch(&mut self, stream: &str, consumer: &str, most: usize, now: Micros) -> Vec<Delivered<P>> {
        let Some(stream) = self.streams.get_mut(stream) else { return Vec::new() };
        let Stream { messages, consumers, .. } = stream;
        let Some(consumer) = consumers.get_mut(consumer) else { return Vec::new() };
        let mut delivered = Vec::new();
        let mut give = |stored: &Stored<P>, count| {
            delivered.push(Delivered {
                sequence: stored.sequence,
                count,
                subject: stored.subject.clone(),
                stored_at: stored.stored_at,
                payload: stored.payload.clone(),
            });
        };
        let mut left = most;
        while left > 0
            && let Some((sequence, count)) = consumer.again(now)
        {
            if let Some(stored) = messages.get(&sequence) {
                give(stored, count);
                left -= 1;
            }
        }
        while left > 0 && consumer.has_room() {
            let is_next = |stored: &&Stored<P>| matches(&consumer.config.filter, &stored.subject);
            let Some(stored) = messages.range(consumer.next..).map(|(_, stored)| stored).find(is_next) else {
                break;
            };
            consumer.deliver(stored.sequence, now);
            give(stored, 1);
            left -= 1;
        }
        delivered
    }

    /// Acknowledges a message.
    pub fn ack(&mut self, stream: &str, consumer: &str, sequence: u64) {
        let Some(stream) = self.streams.get_mut(stream) else { return };
        let was_pending = stream.consumers.get_mut(consumer).is_some_and(|consumer| consumer.ack(sequence));
        if was_pending && stream.config.work_queue {
            stream.remove(sequence);
        }
    }

    /// Gives a message back, to be delivered again after a delay.
    pub fn nak(&mut self, stream: &str, consumer: &str, sequence: u64, delay: Micros, now: Micros) {
        if let Some(consumer) = self.consumer(stream, consumer) {
            consumer.nak(sequence, delay, now);
        }
    }

    /// Says that a message is still worked on.
    pub fn progress(&mut self, stream: &str, consumer: &str, sequence: u64, now: Micros) {
        if let Some(consumer) = self.consumer(stream, consumer) {
            consumer.progress(sequence, now);
        }
    }

    fn consumer(&mut self, stream: &str, consumer: &str) -> Option<&mut Consumer> {
        self.streams.get_mut(stream)?.consumers.get_mut(consumer)
    }

    /// Reads a message.
    pub fn get(&self, stream: &str, sequence: u64) -> Option<&Stored<P>> {
        self.streams.get(stream)?.messages.get(&sequence)
    }

    /// Reads the last message over a filter.
    pub fn last(&self, stream: &str, filter: &str) -> Option<&Stored<P>> {
        self.streams.get(stream)?.last_of(filter)
    }

    /// Reads messages from a sequence on.
    pub fn scan(&self, stream: &str, filter: &str, from: u64, most: usize) -> Vec<Stored<P>> {
        let Some(stream) = self.streams.get(stream) else { return Vec::new() };
        let found = stream.messages.range(from..).map(|(_, stored)| stored);
        found.filter(|stored| matches(filter, &stored.subject)).take(most).cloned().collect()
    }

    /// Removes a message.
    pub fn delete(&mut self, stream: &str, sequence: u64) -> bool {
        self.streams.get_mut(stream).is_some_and(|stream| stream.remove(sequence))
    }

    /// How many messages a stream has.
    pub fn len(&self, stream: &str) -> usize {
        self.streams.get(stream).map_or(0, |stream| stream.messages.len())
    }

    /// Whether a stream has none.
    pub fn is_empty(&self, stream: &str) -> bool {
        self.len(stream) == 0
    }

    /// Every stream: its configuration, how many messages it has, and how many its fullest subject has.
    pub fn sizes(&self) -> impl Iterator<Item = (&StreamConfig, usize, usize)> {
        self.streams.values().map(|stream| (&stream.config, stream.messages.len(), stream.fullest()))
    }

    /// Delivers the schedules whose time has come. To be called whenever time goes on.
    pub fn tick(&mut self, now: Micros) {
        let mut fired = Vec::new();
        for stream in self.streams.values_mut().filter(|stream| stream.config.schedules) {
            fired.extend(stream.fire(now));
        }
        for (target, payload) in fired {
            // A target outside any stream is nobody's.
            let _ = self.publish(Publish::new(target, payload), now);
        }
    }

    /// When something happens next without anybody's doing.
    pub fn next_at(&self) -> Option<Micros> {
        let schedules =
            self.streams.values().filter(|stream| stream.config.schedules).filter_map(Stream::next_schedule);
        let again =
            self.streams.values().flat_map(|stream| stream.consumers.values()).filter_map(Consumer::next_at);
        schedules.chain(again).min()
    }

    /// When a schedule fires next.
    pub fn next_schedule(&self) -> Option<Micros> {
        let scheduling = self.streams.values().filter(|stream| stream.config.schedules);
        scheduling.filter_map(Stream::next_schedule).min()
    }

    /// It was killed and started again.
    pub fn restart(&mut self) {
        self.streams.values_mut().for_each(Stream::restart);
    }
}
