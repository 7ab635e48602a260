//! Collects the answers of a group, by the contract's rule for waiting: subscribe to what the server
//! republishes, and read what is stored whenever something may have been missed.

use std::time::Duration;

use async_nats::{HeaderMap, Subscriber};
use futures_util::{Stream, StreamExt};
use tokio::time::MissedTickBehavior;
use tollgate_bus::Bus;
use tollgate_protocol::{Group, Sequence, Team};

use super::stored;
use crate::failure::Failure;

const TICK: Duration = Duration::from_secs(1);
/// Ticks without an answer before the stored ones are looked at; doubles up to the maximum while there is
/// nothing new.
const QUIET_TICKS: u32 = 3;
const QUIET_TICKS_MAX: u32 = 30;
/// Ticks without a connection before giving up. A cluster's election takes seconds, a restart less than a
/// minute.
const AWAY_TICKS_MAX: u32 = 120;

/// What wants the answers.
pub(crate) trait Sink {
    /// An answer under this id. It may come more than once, and may be one that nobody waits for.
    fn take(&mut self, id: &str, headers: &HeaderMap, payload: &[u8]) -> Result<(), Failure>;
    /// How many answers are missing; at 0 the collecting ends.
    fn remaining(&self) -> usize;
    /// A second went by.
    fn tick(&mut self) -> Result<(), Failure>;
}

/// A subscription to a group, and how far its stored answers were read.
#[derive(Debug)]
pub(crate) struct Gather<'a> {
    bus: &'a Bus,
    live: Subscriber,
    subject: String,
    cursor: Sequence,
    disconnections: u64,
}

impl<'a> Gather<'a> {
    /// Subscribes. Whatever is published on this connection from now on is answered into the subscription.
    pub(crate) async fn start(bus: &'a Bus, team: &Team, group: &Group) -> Result<Self, Failure> {
        let live = bus
            .client()
            .subscribe(bus.subjects().live_responses(team, group))
            .await
            .map_err(|error| Failure::unreachable(format!("cannot subscribe to answers: {error}")))?;
        Ok(Self {
            bus,
            live,
            subject: stored::group_subject(bus, team, group),
            cursor: 0,
            disconnections: bus.connection().health().disconnections,
        })
    }

    /// Hands over the answers that were stored since the last look.
    pub(crate) async fn catch_up(&mut self, sink: &mut impl Sink) -> Result<(), Failure> {
        loop {
            let page = stored::after(self.bus, &self.subject, self.cursor).await?;
            for message in &page.messages {
                self.cursor = self.cursor.max(message.sequence);
                sink.take(last_token(&message.subject), &message.headers, &message.payload)?;
            }
            if page.messages.is_empty() || page.pending == 0 {
                return Ok(());
            }
        }
    }

    /// Sends what is to be sent and collects until nothing is missing.
    pub(crate) async fn run(
        &mut self,
        sink: &mut impl Sink,
        mut sending: impl Stream<Item = Result<(), Failure>> + Unpin,
    ) -> Result<(), Failure> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut quiet, mut quiet_max, mut away, mut all_sent) = (0, QUIET_TICKS, 0, false);
        while sink.remaining() > 0 {
            tokio::select! {
                sent = sending.next(), if !all_sent => match sent {
                    Some(sent) => sent?,
                    None => all_sent = true,
                },
                message = self.live.next() => {
                    let Some(message) = message else {
                        return Err(Failure::unreachable("the connection was closed for good"));
                    };
                    let headers = message.headers.unwrap_or_default();
                    sink.take(last_token(&message.subject), &headers, &message.payload)?;
                    (quiet, quiet_max) = (0, QUIET_TICKS);
                }
                _ = tick.tick() => {
                    sink.tick()?;
                    let health = self.bus.connection().health();
                    if !health.connected {
                        away += 1;
                        if away > AWAY_TICKS_MAX {
                            return Err(Failure::unreachable("the nats-server has been gone for two minutes"));
                        }
                        continue;
                    }
                    (away, quiet) = (0, quiet + 1);
                    let reconnected = health.disconnections != self.disconnections;
                    if quiet >= quiet_max || reconnected {
                        self.disconnections = health.disconnections;
                        let before = sink.remaining();
                        self.catch_up(sink).await?;
                        let news = sink.remaining() < before;
                        quiet_max = if news { QUIET_TICKS } else { (quiet_max * 2).min(QUIET_TICKS_MAX) };
                        quiet = 0;
                    }
                }
            }
        }
        Ok(())
    }
}

fn last_token(subject: &str) -> &str {
    subject.rsplit('.').next().unwrap_or(subject)
}
