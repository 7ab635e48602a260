//! What a router takes past the order of a lane: requests of teams that wait behind another team's flood.
//!
//! A lane is delivered in the order of arrival, and a router holds a few of its messages at a time; of those it makes a fair
//! order. A team whose messages all lie behind a flood has none among them. So whoever has much of a lane in hand looks
//! which other teams wait there, and takes some of theirs past the flood, never more than it needs to put that team in
//! its place in the order.
//!
//! Several routers share this by the message: each takes those that hash to it, so that each has a part of every team and
//! the order is fair in each. Two that take the same message waste a dispatch; the record lets it happen once.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tollgate_protocol::Sequence;

use crate::index::caretaker;

/// Messages of a lane in a router's hands from which on others may wait behind them.
pub const FULL: usize = 16;
/// Most messages of one team in hand of which some are express.
const TEAM_MAX: usize = 64;
/// About as many of a whole lane.
const LANE_MAX: usize = 512;
/// Teams of a lane that are looked after at a time; the others have their turn when these have something in hand.
const TEAMS_MAX: usize = 64;
/// How long a lane is looked at to see how fast it comes on.
const WINDOW: Duration = Duration::from_millis(200);
/// What a lane comes to by itself within so many windows is left to it.
const WINDOWS_LEFT: u64 = 2;
/// Most messages that are read for a team at a time.
const READ_MAX: usize = 256;

/// A lane that is looked at: what lies there, by subject, and how far its consumer has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lane {
    /// How many messages each team has in the lane, those in somebody's hands among them.
    pub stored: BTreeMap<String, u64>,
    /// The last message that was delivered to anybody.
    pub delivered: Sequence,
    /// How many were not.
    pub pending: u64,
    /// The last message of the stream, whichever lane it is in.
    pub last: Sequence,
}

/// What a router has in its hands of a team and lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InHand {
    /// Delivered by the lane.
    pub lane: usize,
    /// Taken past it.
    pub express: usize,
}

impl InHand {
    /// All of it.
    pub fn all(&self) -> usize {
        self.lane + self.express
    }
}

/// What is to be read for a team.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The team's subject.
    pub subject: String,
    /// How many messages it needs.
    pub messages: usize,
}

/// Whose messages are to be taken past the others, the neediest first. `in_hand`: what this router has of each subject.
///
/// Who is given enough by the lane needs nothing: what would be taken past it is about to be delivered. Of more than are looked
/// for at a time, those that are equally needy take turns: `after` is who was looked for last.
pub fn wanted(lane: &Lane, in_hand: &HashMap<String, InHand>, after: &str) -> Vec<Wanted> {
    if lane.stored.len() < 2 || lane.pending == 0 {
        return Vec::new();
    }
    let own = (LANE_MAX / lane.stored.len()).clamp(1, TEAM_MAX);
    let mut needy: Vec<(usize, &String)> = lane
        .stored
        .iter()
        .filter_map(|(subject, count)| {
            let has = in_hand.get(subject).copied().unwrap_or_default();
            let is_fed = has.lane > 0 && has.lane * 4 >= own.min(FULL * 2);
            // Not one by one: each reading costs a question to the server.
            let is_needy = has.all() * 4 <= own.saturating_sub(1) * 3 && *count > has.all() as u64;
            (is_needy && !is_fed).then_some((has.all(), subject))
        })
        .collect();
    needy.sort_by_key(|(has, subject)| (*has, subject.as_str() <= after, *subject));
    needy.truncate(TEAMS_MAX);
    let wanted =
        |(have, subject): (usize, &String)| Wanted { subject: subject.clone(), messages: own - have };
    needy.into_iter().map(wanted).collect()
}

/// How far a lane comes by itself in a moment, learnt by looking at it again and again. One whose messages in hand all wait
/// for a gate does not come on at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    since: Duration,
    delivered: Sequence,
    /// In the stream's sequence; unknown before the first window is over.
    reach: Option<Sequence>,
}

impl Reach {
    /// Of a lane that is looked at for the first time. `now`: the time since any fixed moment.
    pub fn new(lane: &Lane, now: Duration) -> Self {
        Self { since: now, delivered: lane.delivered, reach: None }
    }

    /// The same lane, later. Says whether it comes on so much less than before that what was left to it is to be looked
    /// at, from the beginning.
    pub fn look(&mut self, lane: &Lane, now: Duration) -> bool {
        let elapsed = now.saturating_sub(self.since);
        if elapsed < WINDOW {
            return false;
        }
        let moved = u128::from(lane.delivered.saturating_sub(self.delivered)) * u128::from(WINDOWS_LEFT);
        let moved = moved.saturating_mul(WINDOW.as_micros()) / elapsed.as_micros().max(1);
        let moved = u64::try_from(moved).unwrap_or(u64::MAX);
        (self.since, self.delivered) = (now, lane.delivered);
        match self.reach {
            Some(reach) if moved >= reach => {
                self.reach = Some(moved);
                false
            }
            // It is not as even as all that.
            Some(reach) if moved >= reach / 2 && moved > 0 => false,
            _ => {
                self.reach = Some(moved);
                true
            }
        }
    }

    /// The first message that is not about to be delivered anyway. That is at most the next `places` of the lane, which lie
    /// in the stream about as close together as all that wait in the lane.
    pub fn beyond(&self, lane: &Lane, places: usize) -> Sequence {
        let apart = lane.last.saturating_sub(lane.delivered).div_ceil(lane.pending.max(1));
        let next = apart.saturating_mul(places as u64).min(self.reach.unwrap_or(Sequence::MAX));
        lane.delivered.saturating_add(next).saturating_add(1)
    }
}

/// How many messages of a team to read in order to find so many that are this router's.
pub fn to_read(messages: usize, routers: usize) -> usize {
    messages.saturating_mul(routers.max(1)).clamp(1, READ_MAX)
}

/// Whether a message is for this router to take, of those that are live.
pub fn is_mine(sequence: Sequence, live: &[String], own: &str) -> bool {
    caretaker(&sequence.to_string(), live.iter().map(String::as_str)) == Some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(stored: &[(&str, u64)]) -> Lane {
        let stored: BTreeMap<_, _> =
            stored.iter().map(|(team, count)| ((*team).to_owned(), *count)).collect();
        let pending = stored.values().sum();
        Lane { stored, delivered: 100, pending, last: 100 + pending }
    }

    fn hand(in_hand: &[(&str, usize)]) -> HashMap<String, InHand> {
        let some = |count| InHand { lane: 0, express: count };
        in_hand.iter().map(|(team, count)| ((*team).to_owned(), some(*count))).collect()
    }

    #[test]
    fn who_has_little_in_hand_is_looked_for() {
        let two = lane(&[("flood", 100_000), ("quiet", 1)]);
        let quiet = Wanted { subject: "quiet".into(), messages: 64 };
        assert_eq!(wanted(&two, &hand(&[("flood", 64)]), ""), [quiet]);
        assert_eq!(wanted(&two, &hand(&[("flood", 64), ("quiet", 1)]), ""), [], "all of it is in hand");
        assert_eq!(
            wanted(&lane(&[("flood", 100_000)]), &hand(&[("flood", 1)]), ""),
            [],
            "nobody else is there"
        );
        let nothing = Lane { pending: 0, ..two };
        assert_eq!(wanted(&nothing, &hand(&[]), ""), [], "everything is delivered");
    }

    #[test]
    fn who_is_given_enough_by_the_lane_needs_nothing() {
        let two = lane(&[("one", 1_000), ("other", 1_000)]);
        let with = |lane| HashMap::from([("one".to_owned(), InHand { lane, express: 0 })]);
        let others = |lane| {
            wanted(&two, &with(lane), "").iter().map(|wanted| wanted.subject.clone()).collect::<Vec<_>>()
        };
        assert_eq!(others(8), ["other"]);
        assert_eq!(others(7), ["other", "one"], "hardly any");
    }

    #[test]
    fn many_teams_share_what_is_in_hand_and_the_neediest_come_first() {
        let names: Vec<String> = (0..300).map(|n| format!("team-{n:03}")).collect();
        let teams: Vec<_> = names.iter().map(|name| (name.as_str(), 50)).collect();
        let mut in_hand = hand(&[("team-000", 1)]);
        let first = wanted(&lane(&teams), &in_hand, "");
        assert_eq!(first.len(), TEAMS_MAX);
        assert!(first.iter().all(|wanted| wanted.messages == 1 && wanted.subject != "team-000"));
        let one = InHand { lane: 0, express: 1 };
        in_hand.extend(first.into_iter().map(|wanted| (wanted.subject, one)));
        assert_eq!(wanted(&lane(&teams), &in_hand, "")[0].subject, "team-065", "then the others");
        // Nothing of the first was there for this router: the others have their turn all the same, and then the first again.
        let none = hand(&[("team-000", 1)]);
        let next = |after: &str| wanted(&lane(&teams), &none, after)[0].subject.clone();
        assert_eq!((next("team-064"), next("team-299")), ("team-065".to_owned(), "team-001".to_owned()));
    }

    #[test]
    fn what_is_delivered_next_is_left_to_the_lane() {
        let beyond = |lane: &Lane| Reach::new(lane, WINDOW).beyond(lane, 32);
        assert_eq!(beyond(&lane(&[("flood", 1_000)])), 133, "one beside the other");
        let sparse = Lane { last: 100 + 16_000, ..lane(&[("flood", 1_000)]) };
        assert_eq!(beyond(&sparse), 100 + 16 * 32 + 1, "every sixteenth is of this lane");
        let empty = Lane { pending: 0, last: 100, ..Lane::default() };
        assert!(beyond(&empty) > 100);
    }

    #[test]
    fn nothing_is_left_to_a_lane_that_does_not_come_on() {
        let mut lane = lane(&[("waits", 800), ("other", 100)]);
        let mut reach = Reach::new(&lane, WINDOW * 5);
        assert!(!reach.look(&lane, WINDOW * 5 + WINDOW / 2), "too soon to say");
        assert_eq!(reach.beyond(&lane, 32), 133);
        assert!(reach.look(&lane, WINDOW * 6));
        assert_eq!(reach.beyond(&lane, 32), 101);
        assert!(!reach.look(&lane, WINDOW * 7), "nor is it said again");
        // It comes on by six in a window.
        lane.delivered += 6;
        assert!(!reach.look(&lane, WINDOW * 8));
        assert_eq!(reach.beyond(&lane, 32), 106 + 12 + 1);
        lane.delivered += 3;
        assert!(!reach.look(&lane, WINDOW * 9), "half as fast is not much slower");
        assert_eq!(reach.beyond(&lane, 32), 109 + 12 + 1);
        lane.delivered += 4;
        assert!(reach.look(&lane, WINDOW * 11), "two in a window");
        assert_eq!(reach.beyond(&lane, 32), 113 + 4 + 1);
    }

    #[test]
    fn what_lies_far_behind_in_the_stream_does_not_stretch_what_a_lane_comes_to() {
        // Dense where it is delivered, and then other lanes' messages.
        let mut lane = Lane { last: 1_000_000, ..lane(&[("flood", 100), ("other", 100)]) };
        let mut reach = Reach::new(&lane, Duration::ZERO);
        lane.delivered += 10;
        reach.look(&lane, WINDOW);
        assert_eq!(reach.beyond(&lane, 32), 110 + 20 + 1);
    }

    #[test]
    fn every_message_is_of_one_router() {
        let live: Vec<String> = (0..4).map(|n| format!("router-{n}")).collect();
        let mut each = [0_usize; 4];
        for sequence in 1_790_000_000_000..1_790_000_004_000 {
            let mine: Vec<_> = (0..4).filter(|n| is_mine(sequence, &live, &live[*n])).collect();
            assert_eq!(mine.len(), 1);
            each[mine[0]] += 1;
        }
        assert!(each.iter().all(|count| (800..1_200).contains(count)), "{each:?}");
    }

    #[test]
    fn no_reading_is_without_bound() {
        assert_eq!((to_read(32, 1), to_read(32, 4), to_read(32, 1_000), to_read(0, 0)), (32, 128, 256, 1));
    }
}
