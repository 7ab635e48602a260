//! One stream, or one part of it, as the index knows it.

use std::time::Duration;

use chrono::TimeDelta;
use tokio::time::Instant;
use tollgate_bus::scan::Stored;
use tollgate_bus::topology;
use tollgate_policy::index::{Entry, Shelf, Waiting, Waits, request_hash};
use tollgate_policy::route::awaited;
use tollgate_protocol::job::{Job, Target};
use tollgate_protocol::request::{Decoded, Delivered, decode};
use tollgate_protocol::subject::Subjects;
use tollgate_protocol::{Identity, Sequence, Team, Timestamp};

use crate::Context;
use crate::stop::GRACE_MS;

/// Messages that are asked for at a time, and their bytes.
const BATCH: usize = 500;
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Batches of one place before the others have their turn.
const BATCHES_MAX: usize = 10;
/// What is younger is not waiting, it is on its way.
const YOUNG: Duration = Duration::from_secs(1);
/// So many more than twice what the stream holds may be known before everything is read anew.
const SLACK: usize = 10_000;

/// What lies there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Requests as they were published.
    Lanes,
    /// What is due again.
    Due,
    /// What waits for a target.
    Hold,
    /// A provider's work.
    Dispatch {
        /// The provider.
        provider: String,
    },
}

enum Known {
    Plain(Shelf),
    Held(Waiting),
}

/// A place.
pub(super) struct Place {
    pub(super) stream: String,
    pub(super) filter: String,
    pub(super) kind: Kind,
    known: Known,
    /// The first sequence that was not read yet.
    next: Sequence,
    abandoned_since: Option<Instant>,
}

impl Place {
    fn new(stream: String, filter: String, kind: Kind) -> Self {
        let known = match kind {
            Kind::Hold => Known::Held(Waiting::default()),
            _ => Known::Plain(Shelf::default()),
        };
        Self { stream, filter, kind, known, next: 1, abandoned_since: None }
    }

    /// Every place there is to look at.
    pub(super) fn all<'a>(subjects: &Subjects, providers: impl Iterator<Item = &'a str>) -> Vec<Self> {
        let retry = subjects.stream(topology::RETRY);
        let mut places = vec![
            Self::new(subjects.stream(topology::REQUESTS), subjects.lanes_all(), Kind::Lanes),
            Self::new(retry.clone(), subjects.retry_due_all(), Kind::Due),
            Self::new(retry, subjects.retry_hold_all(), Kind::Hold),
        ];
        places.extend(providers.map(|provider| {
            let kind = Kind::Dispatch { provider: provider.to_owned() };
            Self::new(subjects.dispatch_stream(provider), subjects.dispatch_filter(provider), kind)
        }));
        places
    }

    /// Another router looks after it now.
    pub(super) fn forget(&mut self) {
        if self.next > 1 {
            *self = Self::new(self.stream.clone(), self.filter.clone(), self.kind.clone());
        }
    }

    /// How many messages are known.
    pub(super) fn len(&self) -> usize {
        self.shelf().len()
    }

    /// How many of them wait for a target.
    pub(super) fn held(&self) -> usize {
        if let Known::Held(waiting) = &self.known { waiting.shelf().len() } else { 0 }
    }

    fn shelf(&self) -> &Shelf {
        match &self.known {
            Known::Plain(shelf) => shelf,
            Known::Held(waiting) => waiting.shelf(),
        }
    }

    /// Reads what has come since the last time.
    pub(super) async fn read(&mut self, context: &Context) {
        for round in 0..BATCHES_MAX {
            // Under load the first that was not read yet is young, and all behind it are younger.
            let batch = if round == 0 && self.kind != Kind::Hold { 1 } else { BATCH };
            let found = context.bus.scan(&self.stream, &self.filter, self.next, batch, BATCH_BYTES_MAX).await;
            let found = match found {
                Ok(found) => found,
                Err(error) => {
                    return tracing::debug!(%error, stream = self.stream, "a stream cannot be looked at");
                }
            };
            if found.is_empty() {
                return;
            }
            let young = tollgate_bus::now() - YOUNG;
            for stored in found {
                // What is held waits from the first moment on.
                if stored.stored_at > young && self.kind != Kind::Hold {
                    return;
                }
                self.next = stored.source.sequence + 1;
                self.note(context, &stored);
            }
        }
    }

    fn note(&mut self, context: &Context, stored: &Stored) {
        let sequence = stored.source.sequence;
        if self.kind == Kind::Lanes {
            let (identity, due) = request_in_lane(context, stored);
            return self.insert(Entry { sequence, due, request: request_hash(&identity) });
        }
        // What cannot be read here is looked at by whoever is given it by its consumer; a held one has none.
        let Ok(job) = Job::decode(&stored.payload) else {
            if self.kind == Kind::Hold {
                tracing::error!(message = %stored.source, "a held message cannot be read by this version");
            }
            return;
        };
        let request = request_hash(&job.identity);
        let grace = TimeDelta::milliseconds(i64::try_from(GRACE_MS).unwrap_or_default());
        match &mut self.known {
            Known::Held(waiting) => {
                let entry = Entry { sequence, due: job.deadline, request };
                waiting.insert(entry, &job.identity.team, &awaited(&job));
            }
            // A worker ends its own calls at their deadline.
            Known::Plain(_) if matches!(self.kind, Kind::Dispatch { .. }) => {
                let due = job.deadline.checked_add_signed(grace).unwrap_or(job.deadline);
                self.insert(Entry { sequence, due, request });
            }
            Known::Plain(_) => self.insert(Entry { sequence, due: job.deadline, request }),
        }
    }

    fn insert(&mut self, entry: Entry) {
        if let Known::Plain(shelf) = &mut self.known {
            shelf.insert(entry);
        }
    }

    /// Reads everything anew if much of what is known is gone.
    pub(super) async fn review(&mut self, context: &Context) {
        if self.len() < SLACK {
            return;
        }
        let Ok(stream) = context.bus.jetstream().get_stream(&self.stream).await else { return };
        let stored = usize::try_from(stream.cached_info().state.messages).unwrap_or(usize::MAX);
        if self.len() > stored.saturating_mul(2).saturating_add(SLACK) {
            tracing::debug!(stream = self.stream, known = self.len(), stored, "the index is made anew");
            self.forget();
        }
    }

    /// Takes out what is over its deadline.
    pub(super) fn take_due(&mut self, now: Timestamp, most: usize) -> Vec<(Entry, Option<Waits>)> {
        match &mut self.known {
            Known::Plain(shelf) => shelf.take_due(now, most).into_iter().map(|entry| (entry, None)).collect(),
            Known::Held(waiting) => waiting.take_due(now, most),
        }
    }

    /// Takes out anything.
    pub(super) fn take_all(&mut self, most: usize) -> Vec<Entry> {
        let Known::Plain(shelf) = &mut self.known else { return Vec::new() };
        let sequences: Vec<_> = shelf.sequences().take(most).collect();
        sequences.into_iter().filter_map(|sequence| shelf.remove(sequence)).collect()
    }

    /// Puts a message back that is to be looked at again after a while.
    pub(super) fn look_again(&mut self, entry: Entry, waits: Option<&Waits>, now: Timestamp, after_ms: u64) {
        let after = TimeDelta::milliseconds(i64::try_from(after_ms).unwrap_or_default());
        let entry = Entry { due: entry.due.max(now + after), ..entry };
        match (&mut self.known, waits) {
            (Known::Held(waiting), Some((team, targets))) => waiting.insert(entry, team, targets),
            (Known::Held(_), None) => {}
            (Known::Plain(shelf), _) => shelf.insert(entry),
        }
    }

    /// Puts a message back that was released and could not go.
    pub(super) fn put_back(&mut self, entry: Entry, (team, targets): &Waits) {
        if let Known::Held(waiting) = &mut self.known {
            waiting.put_back(entry, team, targets);
        }
    }

    /// The same behind all others of its team.
    pub(super) fn put_last(&mut self, entry: Entry, (team, targets): &Waits) {
        if let Known::Held(waiting) = &mut self.known {
            waiting.insert(entry, team, targets);
        }
    }

    /// The sets of targets that something here waits for.
    pub(super) fn sets(&self) -> Vec<(usize, Vec<Target>)> {
        let Known::Held(waiting) = &self.known else { return Vec::new() };
        waiting.sets().into_iter().map(|(set, targets)| (set, targets.to_vec())).collect()
    }

    /// Whether a team that `may` waits for a set of targets.
    pub(super) fn has(&mut self, set: usize, may: impl Fn(&Team) -> bool) -> bool {
        if let Known::Held(waiting) = &mut self.known { waiting.has(set, may) } else { false }
    }

    /// Takes out the next message that waits for a set of targets, of a team that `may`.
    pub(super) fn release(&mut self, set: usize, may: impl Fn(&Team) -> bool) -> Option<(Entry, Team)> {
        let Known::Held(waiting) = &mut self.known else { return None };
        waiting.release(set, may)
    }

    /// The same of teams that are not there any more: these wait for nothing.
    pub(super) fn release_stranger(
        &mut self,
        set: usize,
        is_known: impl Fn(&Team) -> bool,
    ) -> Option<(Entry, Team)> {
        let Known::Held(waiting) = &mut self.known else { return None };
        waiting.release_stranger(set, is_known)
    }

    /// The messages that may be of this request.
    pub(super) fn find(&self, request: u64) -> Vec<Sequence> {
        self.shelf().find(request)
    }

    /// Whether nobody has wanted its provider for so long.
    pub(super) fn is_abandoned(&mut self, is_configured: bool, grace: Duration) -> bool {
        if is_configured {
            self.abandoned_since = None;
            return false;
        }
        self.abandoned_since.get_or_insert_with(Instant::now).elapsed() >= grace
    }
}

/// Whose a request in a lane is, and when it must be over. What is no request is looked at when its time would be over.
fn request_in_lane(context: &Context, stored: &Stored) -> (Identity, Timestamp) {
    let subjects = context.bus.subjects();
    let (priority, team) = subjects.parse_lane(&stored.subject).unwrap_or_default();
    let delivered = Delivered {
        team,
        priority,
        sequence: stored.source.sequence,
        accepted_at: stored.stored_at,
        ttl_ms_default: context.settings.ttl_ms[priority.index()],
        headers: &stored.header_view(),
        payload: &stored.payload,
    };
    match decode(&delivered) {
        Decoded::Request(request) => (request.head.identity, request.head.deadline),
        Decoded::Rejected(head, _) => (head.identity, head.deadline),
        Decoded::Acknowledgement => {
            let nobody = Identity {
                team: Team::as_published(team),
                group: tollgate_protocol::Group::none(),
                id: tollgate_protocol::RequestId::from_sequence(stored.source.sequence),
            };
            (nobody, stored.stored_at)
        }
    }
}
