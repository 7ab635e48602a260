//! The shell of *express*: messages of teams that wait behind another team's flood are read past it.
//!
//! What is read stays in its stream until it is done with, and its consumer may deliver it meanwhile: then it is dispatched
//! twice, which the server's deduplication mostly stops, and the record lets happen once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tollgate_bus::presence::Presence;
use tollgate_bus::pull::PullFrom;
use tollgate_policy::express::{self, InHand, Lane, Reach, Wanted};
use tollgate_protocol::Sequence;
use tollgate_protocol::record::Source;
use tollgate_telemetry as telemetry;

use crate::holding::{Back, Holding};
use crate::tally::Way;
use crate::{Context, PREFETCH};

/// How often lanes are looked at of which much is in hand.
const TICK: Duration = Duration::from_millis(20);
/// How soon one is looked at again where nobody waited behind others.
const QUIET: Duration = Duration::from_millis(200);
/// How soon a message is looked at again that could not go on.
const AGAIN: Duration = Duration::from_secs(1);
/// Bytes that are read for a team at a time; one message at least.
const BYTES_MAX: usize = 1024 * 1024;

/// What one router takes past the order of its lanes.
pub(crate) struct Express {
    context: Arc<Context>,
    presence: Presence,
    lanes: Vec<PullFrom>,
    desk: mpsc::Sender<Holding>,
    back: (mpsc::UnboundedSender<Back>, mpsc::UnboundedReceiver<Back>),
    /// What is taken and not done with, with its subject.
    out: HashMap<Source, String>,
    /// By subject: the first message that was not looked at.
    next: HashMap<String, Sequence>,
    /// By filter: the subject that was looked for last.
    after: HashMap<String, String>,
    /// By subject: when to begin anew.
    again: HashMap<String, Instant>,
    /// By filter: when to look at a lane that needs nothing.
    quiet: HashMap<String, Instant>,
    /// By filter: how far a lane comes by itself.
    reach: HashMap<String, Reach>,
    begun: Instant,
    live: Vec<String>,
}

impl Express {
    pub(crate) fn new(
        context: Arc<Context>,
        presence: Presence,
        lanes: Vec<PullFrom>,
        desk: mpsc::Sender<Holding>,
    ) -> Self {
        Self {
            context,
            presence,
            lanes,
            desk,
            // Not bounded by itself, but by what is taken.
            back: mpsc::unbounded_channel(),
            out: HashMap::new(),
            next: HashMap::new(),
            after: HashMap::new(),
            again: HashMap::new(),
            quiet: HashMap::new(),
            reach: HashMap::new(),
            begun: Instant::now(),
            live: Vec::new(),
        }
    }

    /// Looks after the lanes until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(back) = self.back.1.recv() => self.take_back(&back),
                _ = ticks.tick() => self.look(&stop).await,
            }
        }
    }

    fn take_back(&mut self, back: &Back) {
        let Some(subject) = self.out.remove(&back.source) else { return };
        if !back.is_done {
            self.again.entry(subject).or_insert_with(|| Instant::now() + AGAIN);
        }
    }

    async fn look(&mut self, stop: &CancellationToken) {
        let mut live = self.presence.live();
        live.sort();
        // What was left to another router may be this one's now.
        if live != self.live {
            self.live = live;
            self.next.clear();
        }
        let now = Instant::now();
        let next = &mut self.next;
        self.again.retain(|subject, at| {
            let is_due = *at <= now;
            if is_due {
                next.remove(subject);
            }
            !is_due
        });
        for lane in self.lanes.clone() {
            if stop.is_cancelled() {
                return;
            }
            let filter = lane.consumer.filter_subject.clone();
            let Some(in_hand) = self.context.tally.of_lane(&filter, express::FULL) else {
                self.quiet.remove(&filter);
                self.reach.remove(&filter);
                continue;
            };
            if self.quiet.get(&filter).is_some_and(|until| *until > now) {
                continue;
            }
            match self.serve(&lane, &in_hand).await {
                Ok(true) => drop(self.quiet.remove(&filter)),
                Ok(false) => drop(self.quiet.insert(filter, now + QUIET)),
                Err(error) => {
                    tracing::debug!(%error, lane = filter, "a lane cannot be looked at");
                    self.quiet.insert(filter, now + AGAIN);
                }
            }
        }
        if self.out.is_empty() && self.quiet.is_empty() {
            self.next.clear();
        }
    }

    /// Takes what a lane's other teams need. `Ok(false)`: they need nothing.
    async fn serve(
        &mut self,
        from: &PullFrom,
        in_hand: &HashMap<String, InHand>,
    ) -> Result<bool, tollgate_bus::scan::ScanError> {
        let standing = self.context.bus.lane(from).await?;
        let lane = Lane {
            stored: standing.stored,
            delivered: standing.delivered,
            pending: standing.pending,
            last: standing.last,
        };
        let now = self.begun.elapsed();
        let filter = &from.consumer.filter_subject;
        let reach = self.reach.entry(filter.clone()).or_insert_with(|| Reach::new(&lane, now));
        if reach.look(&lane, now) {
            // What was left to the lane was not looked at. Who has something in hand does not wait for it.
            for subject in lane.stored.keys().filter(|subject| !in_hand.contains_key(*subject)) {
                self.next.remove(subject);
            }
        }
        let beyond = reach.beyond(&lane, PREFETCH * self.live.len());
        // Of whom nothing is stored any more, nothing is remembered.
        let of_lane = filter.trim_end_matches('>');
        self.next.retain(|subject, _| !subject.starts_with(of_lane) || lane.stored.contains_key(subject));
        let mut has_taken = false;
        let after = self.after.get(filter).map_or("", String::as_str);
        for Wanted { subject, messages } in express::wanted(&lane, in_hand, after) {
            has_taken |= self.take(&from.stream, &subject, messages, beyond).await?;
            self.after.insert(filter.clone(), subject);
        }
        Ok(has_taken)
    }

    async fn take(
        &mut self,
        stream: &str,
        subject: &str,
        mut messages: usize,
        beyond: Sequence,
    ) -> Result<bool, tollgate_bus::scan::ScanError> {
        let next = self.next.get(subject).copied().unwrap_or(0).max(beyond);
        let batch = express::to_read(messages, self.live.len());
        let found = self.context.bus.scan(stream, subject, next, batch, BYTES_MAX).await?;
        let has_found = !found.is_empty();
        for stored in found {
            if messages == 0 {
                break;
            }
            let source = stored.source.clone();
            self.next.insert(subject.to_owned(), source.sequence + 1);
            let is_mine = express::is_mine(source.sequence, &self.live, self.presence.process());
            if !is_mine || self.out.contains_key(&source) {
                continue;
            }
            messages -= 1;
            let mut message = Holding::found(&self.context.bus, stored, self.back.0.clone());
            message.count(&self.context.tally, Way::Express);
            self.out.insert(source, subject.to_owned());
            telemetry::count_express();
            // A desk that is gone lets go of it, and it is found again.
            let _ = self.desk.send(message).await;
        }
        Ok(has_found)
    }
}
