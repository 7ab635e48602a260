//! What the model and a real nats-server both have to do: scenarios as lists of steps, each with what must come of it.
//!
//! [`run`] takes the model through a scenario. Who has a real server takes it through the same steps
//! (`tests/tests/conformance.rs`).

mod scenarios;

pub use scenarios::scenarios;

use crate::{ConsumerConfig, Delivered, Expect, Micros, Publish, Refused, Schedule, Server, StreamConfig};

/// A millisecond.
pub const MS: Micros = 1_000;
/// How long a delivery is waited for that must come.
pub const PATIENCE_MS: u64 = 30_000;

/// A delivery, the how-manieth it may be; of several, the last.
pub const ANY: u64 = 0;

/// Whether these are the deliveries that were to come.
pub fn are(found: &[(String, u64)], expected: &[(&str, u64)]) -> bool {
    let is = |((payload, count), (wanted, times)): (&(String, u64), &(&str, u64))| {
        payload == wanted && (*times == ANY || count == times)
    };
    found.len() == expected.len() && found.iter().zip(expected).all(is)
}

/// What a write comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It is stored, under this sequence.
    Stored(u64),
    /// It was there already, under this sequence.
    Duplicate(u64),
    /// It is stored, and this is the counter's total.
    Total(i64),
    /// It was there already, and nothing is said of the total.
    NoTotal,
    /// It is refused.
    Refused(Refused),
}

/// A write.
#[derive(Clone, Debug, Default)]
pub struct Write {
    /// Its subject.
    pub subject: &'static str,
    /// Its payload.
    pub payload: &'static str,
    /// Its id.
    pub id: Option<&'static str>,
    /// The fence: a sequence, over a filter.
    pub expect: Option<(u64, &'static str)>,
    /// What it adds to a counter.
    pub increment: Option<i64>,
    /// In how many milliseconds it is delivered, and where to.
    pub schedule: Option<(u64, &'static str)>,
}

/// A step. Messages are named by their payloads.
#[derive(Clone, Debug)]
pub enum Step {
    /// A write, and what it comes to.
    Publish(Write, Then),
    /// A consumer delivers these, in this order, each with the how-manieth delivery it is; not before so many milliseconds
    /// after the step before this one began.
    Fetch {
        /// The consumer.
        consumer: &'static str,
        /// Payloads and counts.
        then: Vec<(&'static str, u64)>,
        /// At the earliest.
        not_before_ms: u64,
    },
    /// A consumer delivers nothing for a while.
    Nothing {
        /// The consumer.
        consumer: &'static str,
        /// For how long, in milliseconds.
        for_ms: u64,
    },
    /// Acknowledges a delivery of a message: the first, the second and so on.
    Ack(&'static str, u64),
    /// Hands it back, to be delivered again after so many milliseconds.
    Nak(&'static str, u64, u64),
    /// Says that it is still worked on.
    Progress(&'static str, u64),
    /// The last message over a filter: its sequence and payload.
    Last(&'static str, Option<(u64, &'static str)>),
    /// A message by its sequence.
    Get(u64, Option<&'static str>),
    /// The total of a counter.
    CounterIs(&'static str, i64),
    /// Removes a message.
    Delete(u64),
    /// How many messages the stream has.
    Holds(usize),
    /// The server is killed and started again.
    Restart,
}

/// A list of steps on one stream.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it shows.
    pub name: &'static str,
    /// The stream.
    pub stream: StreamConfig,
    /// Its consumers.
    pub consumers: Vec<ConsumerConfig>,
    /// The steps.
    pub steps: Vec<Step>,
}

/// Takes the model through a scenario. `Err`: the step at which it did something else.
pub fn run(scenario: &Scenario) -> Result<(), String> {
    let mut model = Model {
        server: Server::default(),
        now: MS,
        stream: scenario.stream.name.clone(),
        delivered: Vec::new(),
    };
    model.server.add_stream(scenario.stream.clone());
    for consumer in &scenario.consumers {
        model.server.add_consumer(&scenario.stream.name, consumer.clone());
    }
    let mut before = model.now;
    for (index, step) in scenario.steps.iter().enumerate() {
        let began = model.now;
        model
            .step(step, before)
            .map_err(|problem| format!("{}, step {index} {step:?}: {problem}", scenario.name))?;
        before = began;
    }
    Ok(())
}

struct Model {
    server: Server<String>,
    now: Micros,
    stream: String,
    /// Consumer, and what it delivered.
    delivered: Vec<(&'static str, Delivered<String>)>,
}

fn same<T: PartialEq + std::fmt::Debug>(found: T, expected: T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{found:?}, and not {expected:?}")) }
}

impl Model {
    fn pass(&mut self, time: Micros) {
        let end = self.now + time;
        while self.now < end {
            self.now = (self.now + MS).min(end);
            self.server.tick(self.now);
        }
    }

    fn delivery(&self, payload: &str, count: u64) -> Result<(&'static str, u64), String> {
        let is = |message: &Delivered<String>| {
            message.payload == payload && (count == ANY || message.count == count)
        };
        let found = self.delivered.iter().rev().find(|(_, message)| is(message));
        found
            .map(|(consumer, message)| (*consumer, message.sequence))
            .ok_or("it was not delivered".to_owned())
    }

    fn step(&mut self, step: &Step, before: Micros) -> Result<(), String> {
        let stream = self.stream.clone();
        match step {
            Step::Publish(write, then) => same(self.publish(write), *then),
            Step::Fetch { consumer, then, not_before_ms } => {
                let mut found = Vec::new();
                let until = self.now + PATIENCE_MS * MS;
                while found.len() < then.len() && self.now < until {
                    let more = self.server.fetch(&stream, consumer, then.len() - found.len(), self.now);
                    if more.is_empty() {
                        self.pass(MS);
                    }
                    found.extend(more);
                }
                self.delivered.extend(found.iter().map(|message| (*consumer, message.clone())));
                let found: Vec<_> =
                    found.iter().map(|message| (message.payload.clone(), message.count)).collect();
                if !are(&found, then) {
                    return Err(format!("{found:?}"));
                }
                let waited = self.now - before;
                if waited < not_before_ms * MS { Err(format!("after {waited} µs")) } else { Ok(()) }
            }
            Step::Nothing { consumer, for_ms } => {
                let until = self.now + for_ms * MS;
                while self.now < until {
                    same(self.server.fetch(&stream, consumer, 1, self.now), Vec::new())?;
                    self.pass(MS);
                }
                Ok(())
            }
            Step::Ack(payload, count) => {
                let (consumer, sequence) = self.delivery(payload, *count)?;
                self.server.ack(&stream, consumer, sequence);
                Ok(())
            }
            Step::Nak(payload, count, delay_ms) => {
                let (consumer, sequence) = self.delivery(payload, *count)?;
                self.server.nak(&stream, consumer, sequence, delay_ms * MS, self.now);
                Ok(())
            }
            Step::Progress(payload, count) => {
                let (consumer, sequence) = self.delivery(payload, *count)?;
                self.server.progress(&stream, consumer, sequence, self.now);
                Ok(())
            }
            Step::Last(filter, then) => {
                let last = self
                    .server
                    .last(&stream, filter)
                    .map(|stored| (stored.sequence, stored.payload.as_str()));
                same(last, *then)
            }
            Step::Get(sequence, then) => {
                same(self.server.get(&stream, *sequence).map(|stored| stored.payload.as_str()), *then)
            }
            Step::CounterIs(subject, total) => {
                same(self.server.last(&stream, subject).and_then(|stored| stored.total), Some(*total))
            }
            Step::Delete(sequence) => same(self.server.delete(&stream, *sequence), true),
            Step::Holds(count) => same(self.server.len(&stream), *count),
            Step::Restart => {
                self.server.restart();
                Ok(())
            }
        }
    }

    fn publish(&mut self, write: &Write) -> Then {
        let publish = Publish {
            subject: write.subject.to_owned(),
            id: write.id.map(str::to_owned),
            expect: write.expect.map(|(last, filter)| Expect { last, filter: filter.to_owned() }),
            increment: write.increment,
            schedule: write
                .schedule
                .map(|(in_ms, target)| Schedule { at: self.now + in_ms * MS, target: target.to_owned() }),
            payload: write.payload.to_owned(),
        };
        let is_counter = write.increment.is_some();
        match self.server.publish(publish, self.now) {
            Err(refused) => Then::Refused(refused),
            Ok(ack) => match (is_counter, ack.total, ack.duplicate) {
                (true, Some(total), _) => Then::Total(total),
                (true, None, _) => Then::NoTotal,
                (false, _, true) => Then::Duplicate(ack.sequence),
                (false, _, false) => Then::Stored(ack.sequence),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_passes() {
        let scenarios = scenarios();
        assert!(scenarios.len() >= 10);
        for scenario in scenarios {
            run(&scenario).unwrap();
        }
    }

    #[test]
    fn a_step_that_comes_out_otherwise_is_told() {
        let mut scenario = scenarios().remove(0);
        scenario.steps.insert(0, Step::Holds(7));
        assert!(run(&scenario).unwrap_err().contains("step 0"));
    }
}
