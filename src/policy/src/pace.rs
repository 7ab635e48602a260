//! Requests of a minute: when the next one may begin.
//!
//! A minute has as many slots as the limit allows, at equal distances. Time is cut into cells of whole seconds with whole
//! numbers of slots, and each cell has a counter that the server keeps. Whoever wants to begin adds one and gets a number:
//! that slot of the cell is his alone, across any number of processes. Whose slot has come begins; whose slot lies ahead
//! waits for it; a number beyond the cell's slots is nobody's, and one asks again in the next cell. Slots that went by
//! unused are skipped before one is taken, so idleness earns nothing. And a number is void once its slot is nearly over:
//! who comes too late for it, because its process or the server was slow, asks again.
//!
//! So of all that begin no two share a slot, and each begins after its slot does and before the next: in any window of a
//! minute there begin at most as many as the limit allows, and one more. (Proof: those of a window of length `W` have their
//! slots in a time shorter than `W` and one slot.) Where slots are shorter than [`LATE_MIN`], what that has slots for comes
//! on top. This is the generic cell rate algorithm (ITU-T I.371) with a tolerance of one slot, with the theoretical arrival
//! time in a shared counter. A process that dies with a number wastes a slot; nothing has to be given back.

use std::num::NonZeroU32;

use chrono::{DateTime, TimeDelta};
use tollgate_protocol::Timestamp;

const MINUTE_SECONDS: u32 = 60;
/// Lengths of cells, in seconds: all that a minute is a multiple of.
const LENGTHS: [u32; 12] = [1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60];
/// A cell has so many slots, if the limit has: skipping and asking again cost less the fewer cells there are.
const SLOTS_MIN: u32 = 10;

/// However short its slot is, a number is good for this long: nobody is quicker.
const LATE_MIN: TimeDelta = TimeDelta::milliseconds(20);
/// A number is void this long before the next slot begins, or half a slot: whoever looks at it then begins a little later.
const MARGIN_MAX: TimeDelta = TimeDelta::milliseconds(100);

/// Adds before one gives up on a cell: others may be skipping the same slots.
const ADDS_MAX: u32 = 4;

/// A cell: a time with a whole number of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// When it begins.
    pub start: Timestamp,
    /// How long it is, in seconds.
    seconds: u32,
    /// How many may begin in it.
    slots: u32,
}

/// What a number is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Begin at this time, which may be past.
    At(Timestamp),
    /// Slots before it went by unused: add this many, so that the number after is the first that is not void. Everybody
    /// who sees the same does so under the same id.
    Skip(i64),
    /// There is no slot left: ask for a number of the cell that begins then.
    Next(Timestamp),
}

impl Cell {
    /// The cell that `now` is in, with so many requests a minute.
    pub fn at(per_minute: NonZeroU32, now: Timestamp) -> Self {
        let per_minute = per_minute.get();
        let slots = |seconds: &u32| u64::from(per_minute) * u64::from(*seconds);
        let is_whole = |seconds: &&u32| {
            slots(seconds).is_multiple_of(u64::from(MINUTE_SECONDS))
                && slots(seconds) >= u64::from(SLOTS_MIN * MINUTE_SECONDS)
        };
        let seconds = LENGTHS.iter().find(is_whole).copied().unwrap_or(MINUTE_SECONDS);
        let start = now.timestamp() - now.timestamp().rem_euclid(i64::from(seconds));
        Self {
            start: DateTime::from_timestamp(start, 0).unwrap_or(now),
            seconds,
            slots: u32::try_from(slots(&seconds) / u64::from(MINUTE_SECONDS)).unwrap_or(u32::MAX),
        }
    }

    /// How it is named in a subject: the second it begins in.
    pub fn name(&self) -> String {
        self.start.timestamp().to_string()
    }

    /// When it ends.
    pub fn end(&self) -> Timestamp {
        self.start + TimeDelta::seconds(i64::from(self.seconds))
    }

    /// What a number of it is worth: 1 is the first.
    pub fn turn(&self, number: i64, now: Timestamp) -> Turn {
        let index = number.saturating_sub(1);
        let current = self.current(now);
        if index.max(current) >= i64::from(self.slots) {
            return Turn::Next(self.end());
        }
        if index < current {
            return Turn::Skip(current - index);
        }
        Turn::At(self.slot(index))
    }

    /// The first slot that is not void now, from 0.
    fn current(&self, now: Timestamp) -> i64 {
        let since = now - self.late() - self.start;
        let into = since.num_microseconds().unwrap_or(i64::MAX).max(0);
        let length = i128::from(self.seconds) * 1_000_000;
        let current = (i128::from(into) * i128::from(self.slots) + length - 1) / length;
        i64::try_from(current).unwrap_or(i64::MAX)
    }

    /// How long a number is good for, from the beginning of its slot.
    fn late(&self) -> TimeDelta {
        let slot = self.slot_length();
        (slot - (slot / 2).min(MARGIN_MAX)).max(LATE_MIN)
    }

    fn slot_length(&self) -> TimeDelta {
        TimeDelta::microseconds(i64::from(self.seconds) * 1_000_000 / i64::from(self.slots) + 1)
    }

    fn slot(&self, index: i64) -> Timestamp {
        let length = i64::from(self.seconds) * 1_000_000;
        // Rounded up: no slot begins before its time.
        let into =
            (i128::from(index) * i128::from(length) + i128::from(self.slots) - 1) / i128::from(self.slots);
        self.start + TimeDelta::microseconds(i64::try_from(into).unwrap_or(length))
    }
}

/// Whether it is too late to begin with a number of this time, under a limit of so many requests per minute.
pub fn is_void(per_minute: NonZeroU32, at: Timestamp, now: Timestamp) -> bool {
    now - at > Cell::at(per_minute, at).late()
}

/// How many numbers a process holds at a time: what begins in a short while. With more of them ahead of itself it could be
/// late for some, and others would wait for it.
pub fn held_max(per_minute: NonZeroU32) -> u32 {
    const SHORT_MS: u64 = 50;
    let begin = u64::from(per_minute.get()) * SHORT_MS / (u64::from(MINUTE_SECONDS) * 1_000);
    u32::try_from(begin).unwrap_or(u32::MAX).max(1)
}

/// What asking for a number comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbered {
    /// A number: begin at this time, which may be past.
    At(Timestamp),
    /// None is left: ask again then.
    Later(Timestamp),
}

/// What is to be added to the numbers of a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// The cell.
    pub cell: String,
    /// So much.
    pub amount: i64,
    /// Under this id; none if it is nobody else's business.
    pub id: Option<String>,
}

/// Somebody who asks for a number.
#[derive(Clone, Debug)]
pub struct Asking {
    per_minute: NonZeroU32,
    cell: Option<Cell>,
    skip: Option<i64>,
    adds: u32,
}

impl Asking {
    /// Under a limit of so many requests per minute.
    pub fn new(per_minute: NonZeroU32) -> Self {
        Self { per_minute, cell: None, skip: None, adds: 0 }
    }

    /// What is to be added now.
    pub fn next(&mut self, now: Timestamp) -> Add {
        let cell = Cell::at(self.per_minute, now);
        let is_same = self.cell.replace(cell) == Some(cell);
        self.adds += 1;
        match self.skip.take().filter(|_| is_same) {
            Some(amount) => {
                let id = format!("skip/{}/{}/{}", self.per_minute, cell.name(), cell.current(now));
                Add { cell: cell.name(), amount, id: Some(id) }
            }
            None => Add { cell: cell.name(), amount: 1, id: None },
        }
    }

    /// Hears the last number with that; `None` if somebody else had added it. Says what one is, or that more is to be
    /// added.
    pub fn heard(&mut self, number: Option<i64>, now: Timestamp) -> Option<Numbered> {
        let cell = self.cell?;
        match number.map(|number| cell.turn(number, now)) {
            Some(Turn::At(at)) => return Some(Numbered::At(at)),
            Some(Turn::Next(at)) => return Some(Numbered::Later(at)),
            Some(Turn::Skip(count)) => self.skip = Some(count),
            None => {}
        }
        (self.adds >= ADDS_MAX).then(|| Numbered::Later(cell.end().min(now + cell.slot_length())))
    }
}

#[cfg(test)]
mod tests;
