//! Requests of a minute: when the next one may begin.
//!
//! A minute has as many slots as the limit allows, at equal distances. Time is cut into cells of some slots each,
//! and each cell has a counter that the server keeps. Whoever wants to begin adds one and gets a number:
//! that slot of the cell is his alone, across any number of processes. Whose slot has come begins; whose slot lies ahead
//! waits for it; a number beyond the cell's slots is nobody's, and one asks again in the next cell. Slots that went by
//! unused are skipped before one is taken, so idleness earns nothing; what is added to skip them is the adder's own. And a
//! number is void once its slot is nearly over: who comes too late for it, because its process or the server was slow, asks
//! again.
//!
//! So of all that begin no two share a slot, and each begins after its slot does and before the next: in any window of a
//! minute there begin at most as many as the limit allows, and one more. (Proof: those of a window of length `W` have their
//! slots in a time shorter than `W` and one slot.) Where slots are shorter than 20 ms, what 20 ms have slots for comes
//! on top. This is the generic cell rate algorithm (ITU-T I.371) with a tolerance of one slot, with the theoretical arrival
//! time in a shared counter. A process that dies with a number wastes a slot; nothing has to be given back.

use std::num::NonZeroU32;

use chrono::{DateTime, TimeDelta};
use tollgate_protocol::Timestamp;

const MINUTE_MICROS: i64 = 60_000_000;
/// A cell has so many slots, or those of a minute if these are fewer.
const SLOTS_MIN: u32 = 10;
/// It is at least so long: several times what a slow server takes for an answer, and not so long that it would matter if
/// some who skip at once skip too much.
const SECONDS_MIN: u32 = 4;

/// However short its slot is, a number is good for this long: nobody is quicker.
const LATE_MIN: TimeDelta = TimeDelta::milliseconds(20);
/// A number is void this long before the next slot begins, or half a slot: whoever looks at it then begins a little later.
const MARGIN_MAX: TimeDelta = TimeDelta::milliseconds(100);

/// Whoever skips many slots within the same moment, or slot, does it under the same id.
const MOMENT: TimeDelta = TimeDelta::milliseconds(100);

/// Adds before one gives up on a cell: others may be skipping the same slots.
const ADDS_MAX: u32 = 4;

/// A cell: a time with a whole number of slots. Slots are counted from 1970 on, so that all agree on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    per_minute: NonZeroU32,
    /// Its first slot.
    first: i64,
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
        let slots = per_minute.get().div_ceil(60 / SECONDS_MIN).max(SLOTS_MIN.min(per_minute.get()));
        let slot =
            i128::from(now.timestamp_micros()) * i128::from(per_minute.get()) / i128::from(MINUTE_MICROS);
        let slot = i64::try_from(slot).unwrap_or(i64::MAX);
        Self { per_minute, first: slot - slot.rem_euclid(i64::from(slots)), slots }
    }

    /// How it is named in a subject: the number of its first slot. A limit that is changed has other cells.
    pub fn name(&self) -> String {
        format!("{}-{}", self.per_minute, self.first)
    }

    /// When it ends.
    pub fn end(&self) -> Timestamp {
        self.slot(i64::from(self.slots))
    }

    /// What the last `amount` numbers up to `number` are worth, which are all one's own: 1 is the first. Who skips for
    /// all may have skipped too far, when others asked meanwhile; the first of his that is not void is good.
    ///
    /// `travel` is how long the answer was on its way: what is skipped to must be good when the next one is here.
    pub fn turn(&self, number: i64, amount: i64, now: Timestamp, travel: TimeDelta) -> Turn {
        let last = number.saturating_sub(1);
        let current = self.current(now);
        let index = number.saturating_sub(amount.max(1)).max(current);
        if index >= i64::from(self.slots) {
            return Turn::Next(self.end());
        }
        if last < current {
            // To the slot that is now: what comes next is then good for as long as a number is, and who asks soon after finds
            // no void one again. Of those before it the skipper still has the first that is good.
            let here = now + travel * 2;
            let then = self.current(here).max(self.index(here)).min(i64::from(self.slots));
            return Turn::Skip((then - last).max(1));
        }
        Turn::At(self.slot(index))
    }

    /// The first slot that is not void then, from 0.
    fn current(&self, then: Timestamp) -> i64 {
        let since = i128::from((then - self.late()).timestamp_micros()) * i128::from(self.per_minute.get());
        let current = since.div_euclid(i128::from(MINUTE_MICROS)) + 1;
        let is_exact = since.rem_euclid(i128::from(MINUTE_MICROS)) == 0;
        let current = current - i128::from(is_exact) - i128::from(self.first);
        i64::try_from(current.max(0)).unwrap_or(i64::MAX)
    }

    /// The slot that is then, from 0.
    fn index(&self, then: Timestamp) -> i64 {
        let slot = i128::from(then.timestamp_micros()) * i128::from(self.per_minute.get())
            / i128::from(MINUTE_MICROS);
        i64::try_from(slot - i128::from(self.first)).unwrap_or(i64::MAX)
    }

    /// How long those who skip so many slots do it under one id. One who skips few may come after another who has just
    /// skipped, by as long as a number is good for; who skips more than a moment's can not.
    fn moment(&self, amount: i64) -> TimeDelta {
        let slot = self.slot_length();
        let skipped = i128::from(slot.num_microseconds().unwrap_or(i64::MAX)) * i128::from(amount);
        let is_much = skipped > i128::from((slot * 2).max(MOMENT).num_microseconds().unwrap_or(i64::MAX));
        if is_much { slot.max(MOMENT) } else { self.late() }
    }

    /// How long a number is good for, from the beginning of its slot.
    fn late(&self) -> TimeDelta {
        let slot = self.slot_length();
        (slot - (slot / 2).min(MARGIN_MAX)).max(LATE_MIN)
    }

    fn slot_length(&self) -> TimeDelta {
        TimeDelta::microseconds(MINUTE_MICROS / i64::from(self.per_minute.get()) + 1)
    }

    fn slot(&self, index: i64) -> Timestamp {
        let number = i128::from(self.first) + i128::from(index);
        let per_minute = i128::from(self.per_minute.get());
        // Rounded up: no slot begins before its time.
        let micros = (number * i128::from(MINUTE_MICROS) + per_minute - 1).div_euclid(per_minute);
        DateTime::from_timestamp_micros(i64::try_from(micros).unwrap_or(i64::MAX))
            .unwrap_or(DateTime::UNIX_EPOCH)
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
    let begin = u64::from(per_minute.get()) * SHORT_MS / 60_000;
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
    limit: String,
    per_minute: NonZeroU32,
    cell: Option<Cell>,
    asked_at: Timestamp,
    skip: Option<i64>,
    /// What was added last.
    amount: i64,
    adds: u32,
}

impl Asking {
    /// Under this limit, of so many requests per minute.
    pub fn new(limit: &str, per_minute: NonZeroU32) -> Self {
        Self {
            limit: limit.to_owned(),
            per_minute,
            cell: None,
            asked_at: DateTime::UNIX_EPOCH,
            skip: None,
            amount: 1,
            adds: 0,
        }
    }

    /// What is to be added now.
    pub fn next(&mut self, now: Timestamp) -> Add {
        let cell = Cell::at(self.per_minute, now);
        let is_same = self.cell.replace(cell) == Some(cell);
        self.adds += 1;
        self.asked_at = now;
        let skip = self.skip.take().filter(|_| is_same);
        self.amount = skip.unwrap_or(1);
        match skip {
            Some(amount) => {
                // Those who see the same within a moment do it once. Cells of limits of one pace have the same name.
                let length = cell.moment(amount).num_microseconds().unwrap_or(1).max(1);
                let moment = now.timestamp_micros() / length;
                let id = format!("skip/{}/{}/{length}/{moment}", self.limit, cell.name());
                Add { cell: cell.name(), amount, id: Some(id) }
            }
            None => Add { cell: cell.name(), amount: 1, id: None },
        }
    }

    /// Hears the last number with that; `None` if somebody else had added it. Says what one is, or that more is to be
    /// added.
    pub fn heard(&mut self, number: Option<i64>, now: Timestamp) -> Option<Numbered> {
        let cell = self.cell?;
        let travel = (now - self.asked_at).max(TimeDelta::zero());
        match number.map(|number| cell.turn(number, self.amount, now, travel)) {
            Some(Turn::At(at)) => return Some(Numbered::At(at)),
            Some(Turn::Next(at)) if at > now => return Some(Numbered::Later(at)),
            // Meanwhile it has ended.
            Some(Turn::Next(_)) => {}
            Some(Turn::Skip(count)) => self.skip = Some(count),
            None => {}
        }
        (self.adds >= ADDS_MAX).then(|| Numbered::Later(now + cell.slot_length().clamp(LATE_MIN, MOMENT)))
    }
}

#[cfg(test)]
mod tests;
