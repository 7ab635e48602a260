//! Who may continue a request. The run record's state machine.
//!
//! A message is in hand; a write to the request's record was refused, so somebody wrote since. What the
//! last entry says about *this stored message* decides everything: of all copies of a request's messages,
//! only the one that the record names goes on. Delivery counts, dedupe ids and acknowledgements prove
//! nothing and are not asked.

use tollgate_protocol::record::{Answered, Dead, Ended, Last, Next, Source, Started};
use tollgate_protocol::response::Attempt;
use tollgate_protocol::{Digest, Sequence, Timestamp};

/// What a message says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hand {
    /// Which stored message it is.
    pub from: Source,
    /// Digest of its request.
    pub digest: Digest,
}

/// What a message in hand is allowed to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Claim the next attempt, expecting this entry.
    Claim {
        /// The last entry.
        expected: Sequence,
        /// Attempts up to now; `None` if the message's own history is right.
        history: Option<Vec<Attempt>>,
    },
    /// The hand-over is described but perhaps not done: do it again, then acknowledge.
    HandOver {
        /// The entry that describes it: the `run` of what is handed over.
        run: Sequence,
        /// Where to.
        ended: Ended,
    },
    /// A call of this message began and its end is not known.
    AskOwner {
        /// The claim's entry.
        sequence: Sequence,
        /// The claim.
        started: Started,
    },
    /// It is answered. Publish what may be missing of my usage, reply, acknowledge.
    Finish {
        /// If this message ended the request: with which attempt, 0 if without one.
        mine: Option<u32>,
        /// Whether the request is a dead letter.
        dead: Option<Dead>,
    },
    /// Another stored message of the same request goes on: acknowledge, drop.
    Copy,
    /// The identity belongs to another body: report, acknowledge, do not run.
    Conflict,
}

/// Judges a message by the last entry of its request's record.
pub fn judge(hand: &Hand, last: Last) -> Verdict {
    match last {
        Last::None => Verdict::Claim { expected: 0, history: None },
        Last::Foreign { sequence } => Verdict::Claim { expected: sequence, history: None },
        Last::Answered { answered, .. } if answered.digest != hand.digest => Verdict::Conflict,
        Last::Answered { answered, .. } => Verdict::Finish {
            mine: (answered.from == hand.from).then_some(answered.attempt),
            dead: answered.dead,
        },
        Last::Started { started, .. } if started.digest != hand.digest => Verdict::Conflict,
        Last::Started { sequence, started } if started.from == hand.from => {
            Verdict::AskOwner { sequence, started }
        }
        Last::Started { .. } => Verdict::Copy,
        Last::Ended { ended, .. } if ended.digest != hand.digest => Verdict::Conflict,
        Last::Ended { sequence, ended } if ended.from == hand.from => match ended.next {
            // The hand-over of a short retry is the redelivery of this very message: here it is.
            Next::Retry { .. } => Verdict::Claim { expected: sequence, history: Some(ended.history) },
            Next::Fallback { .. } | Next::Later { .. } | Next::Hold => {
                Verdict::HandOver { run: sequence, ended }
            }
        },
        Last::Ended { .. } => Verdict::Copy,
    }
}

/// Judges a message that is to be handed on without having been claimed; `run` is the entry that it knows. Then its
/// record has not been written to, and may not be behind it.
pub fn judge_unclaimed(hand: &Hand, run: Sequence, last: Last) -> Verdict {
    match last {
        Last::None if run == 0 => Verdict::Claim { expected: 0, history: None },
        // What its sender described: this message is what follows.
        Last::Ended { sequence, ended } if sequence == run && ended.digest == hand.digest => {
            Verdict::Claim { expected: run, history: None }
        }
        last => judge(hand, last),
    }
}

/// What asking the owner of an attempt gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// It has the attempt in its hands.
    Holding,
    /// It has not.
    NotMine,
    /// Nobody answered, for this many milliseconds now, during which the asker stayed connected.
    Silent {
        /// How long.
        for_ms: u64,
    },
}

/// What to do about an attempt in somebody's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerVerdict {
    /// Keep the message and ask again later.
    Wait,
    /// The attempt is lost: record it, then claim the next one.
    Lost,
}

/// The owner rule. The lease is longer than the reconnect backoff, so that a worker whose server was
/// restarted is not taken for dead.
pub fn owner_rule(said: Said, lease_ms: u64) -> OwnerVerdict {
    match said {
        Said::Holding => OwnerVerdict::Wait,
        Said::NotMine => OwnerVerdict::Lost,
        Said::Silent { for_ms } if for_ms >= lease_ms => OwnerVerdict::Lost,
        Said::Silent { .. } => OwnerVerdict::Wait,
    }
}

/// What the refusal of my answer, or of my `ended`, means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Superseded {
    /// Nothing of ours is stored any more: write again, expecting this entry.
    WriteAgain(Sequence),
    /// The request is over. My usage is still published; the message can be acknowledged.
    Over,
    /// Somebody took my attempt for lost and went on. My usage is still published; the message is theirs
    /// and must not be acknowledged.
    TakenOver,
}

/// Judges the refusal of a write that would have ended my attempt.
pub fn superseded(last: &Last) -> Superseded {
    match last {
        Last::None => Superseded::WriteAgain(0),
        Last::Foreign { sequence } => Superseded::WriteAgain(*sequence),
        Last::Answered { .. } => Superseded::Over,
        Last::Started { .. } | Last::Ended { .. } => Superseded::TakenOver,
    }
}

/// Why a request is ended from outside, whoever has it in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Its deadline passed, at the given time by the message in hand.
    Expired {
        /// The deadline of the message.
        deadline: Timestamp,
        /// How long a running call is left to end by itself, in milliseconds.
        grace_ms: u64,
    },
    /// Its client took it back.
    Cancelled,
}

/// What a record knows of its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// When the copy that goes on was accepted. Another one, in hand perhaps, was accepted at another time; counted with
    /// that, one call would be two.
    pub accepted_at: Timestamp,
    /// Attempts up to now.
    pub history: Vec<Attempt>,
}

impl Known {
    /// With a call that is lost.
    pub fn lost(started: &Started) -> Self {
        let lost = crate::answer::lost(started);
        let history = started.history.iter().cloned().chain([lost]).collect();
        Self { accepted_at: started.accepted_at, history }
    }
}

/// What ending a request from outside comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopping {
    /// Write the response, expecting this entry.
    Write {
        /// The last entry.
        expected: Sequence,
        /// What the record knows of the request; `None`: only the message itself knows something.
        known: Option<Known>,
    },
    /// A call is under way: its owner has to end it.
    Running {
        /// The claim's entry.
        sequence: Sequence,
        /// The claim.
        started: Started,
    },
    /// A copy of the request that has more time goes on.
    NotYet,
    /// It is answered.
    Answered {
        /// How, and for which message: what the answering worker may have died before is made up for by whoever lets
        /// go of that message.
        answered: Answered,
    },
    /// The identity belongs to another body.
    Conflict,
}

/// Judges the end of a request from outside, by the last entry of its record. Which message the entry was written
/// for does not matter here: time and the client's will are the same for all of its copies.
pub fn stop(digest: &Digest, stop: Stop, last: Last, now: Timestamp) -> Stopping {
    let is_over = |deadline: Timestamp, grace_ms: u64| match stop {
        Stop::Cancelled => true,
        Stop::Expired { .. } => {
            let grace = chrono::TimeDelta::milliseconds(i64::try_from(grace_ms).unwrap_or(i64::MAX / 4));
            deadline.checked_add_signed(grace).is_some_and(|end| end <= now)
        }
    };
    match last {
        Last::None | Last::Foreign { .. } => {
            let expected = if let Last::Foreign { sequence } = last { sequence } else { 0 };
            match stop {
                Stop::Expired { deadline, .. } if !is_over(deadline, 0) => Stopping::NotYet,
                _ => Stopping::Write { expected, known: None },
            }
        }
        Last::Answered { answered, .. } if answered.digest == *digest => Stopping::Answered { answered },
        Last::Started { started, .. } if started.digest != *digest => Stopping::Conflict,
        Last::Ended { ended, .. } if ended.digest != *digest => Stopping::Conflict,
        Last::Answered { .. } => Stopping::Conflict,
        Last::Ended { sequence, ended } if is_over(ended.deadline, 0) => {
            let Ended { accepted_at, history, .. } = ended;
            Stopping::Write { expected: sequence, known: Some(Known { accepted_at, history }) }
        }
        Last::Started { sequence, started } => match stop {
            Stop::Expired { grace_ms, .. } if is_over(started.deadline, grace_ms) => {
                // Its worker is dead, or has stopped: it would have ended the call itself.
                Stopping::Write { expected: sequence, known: Some(Known::lost(&started)) }
            }
            Stop::Expired { .. } => Stopping::NotYet,
            Stop::Cancelled => Stopping::Running { sequence, started },
        },
        Last::Ended { .. } => Stopping::NotYet,
    }
}

/// What to do with a message that comes back to a router from the retry stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// It is the one that goes on: to a worker with it.
    Dispatch,
    /// It is answered: reply.
    Reply,
    /// Another message of the same request goes on: look again later, if somebody waits for a reply.
    Copy,
    /// The identity belongs to another body.
    Conflict,
}

/// Judges a due message: its response is looked for first, so that a repeat of an answered request never
/// waits for a place.
pub fn due(digest: &Digest, run: Sequence, last: &Last) -> Due {
    let (sequence, owned) = match last {
        Last::None | Last::Foreign { .. } => return Due::Dispatch,
        Last::Answered { answered, .. } => {
            return if answered.digest == *digest { Due::Reply } else { Due::Conflict };
        }
        Last::Started { sequence, started } => (*sequence, started.digest == *digest),
        Last::Ended { sequence, ended } => (*sequence, ended.digest == *digest),
    };
    match (owned, sequence == run) {
        (false, _) => Due::Conflict,
        (true, true) => Due::Dispatch,
        (true, false) => Due::Copy,
    }
}

#[cfg(test)]
mod tests;
