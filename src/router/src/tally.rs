//! How many messages of each lane and team this router has in its hands.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tollgate_policy::express::InHand;

/// By lane (a subject without its last token), then by subject.
type Lanes = HashMap<String, HashMap<String, InHand>>;

/// How a message came into hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Its lane delivered it.
    Lane,
    /// It was taken past its lane.
    Express,
}

/// The counts. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally(Arc<Mutex<Lanes>>);

/// A message that is counted as long as this lives.
#[derive(Debug)]
pub(crate) struct Counted {
    tally: Tally,
    subject: String,
    way: Way,
}

/// The lane of a stored subject.
fn lane_of(subject: &str) -> &str {
    subject.rsplit_once('.').map_or(subject, |(lane, _)| lane)
}

fn number(in_hand: &mut InHand, way: Way) -> &mut usize {
    match way {
        Way::Lane => &mut in_hand.lane,
        Way::Express => &mut in_hand.express,
    }
}

impl Counted {
    /// The lane that it has a place of.
    pub(crate) fn lane(&self) -> Option<&str> {
        (self.way == Way::Lane).then(|| lane_of(&self.subject))
    }
}

impl Tally {
    /// Counts a message.
    pub(crate) fn count(&self, subject: &str, way: Way) -> Counted {
        let mut lanes = self.lanes();
        let lane = lanes.entry(lane_of(subject).to_owned()).or_default();
        *number(lane.entry(subject.to_owned()).or_default(), way) += 1;
        Counted { tally: self.clone(), subject: subject.to_owned(), way }
    }

    /// What is in hand of a lane, by subject, if it is at least so much.
    pub(crate) fn of_lane(&self, filter: &str, least: usize) -> Option<HashMap<String, InHand>> {
        let lanes = self.lanes();
        let lane = lanes.get(lane_of(filter))?;
        (lane.values().map(InHand::all).sum::<usize>() >= least).then(|| lane.clone())
    }

    /// How many of its places in hand the lane of a subject has taken.
    pub(crate) fn places(&self, subject: &str) -> usize {
        self.lanes().get(lane_of(subject)).map_or(0, |lane| lane.values().map(|in_hand| in_hand.lane).sum())
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut lanes = self.tally.lanes();
        let lane = lane_of(&self.subject);
        let Some(teams) = lanes.get_mut(lane) else { return };
        if let Some(in_hand) = teams.get_mut(&self.subject) {
            *number(in_hand, self.way) -= 1;
            if in_hand.all() == 0 {
                teams.remove(&self.subject);
            }
        }
        if teams.is_empty() {
            lanes.remove(lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_hand_is_counted_as_long_as_it_is() {
        let tally = Tally::default();
        let flood: Vec<_> = (0..3).map(|_| tally.count("llm.lane.low.3.flood", Way::Lane)).collect();
        let quiet = tally.count("llm.lane.low.3.quiet", Way::Express);
        let _other = tally.count("llm.lane.low.4.other", Way::Lane);
        let of_lane = |least| tally.of_lane("llm.lane.low.3.*", least);
        assert_eq!(of_lane(5), None);
        let counts = of_lane(4).unwrap();
        assert_eq!(counts["llm.lane.low.3.flood"], InHand { lane: 3, express: 0 });
        assert_eq!(counts["llm.lane.low.3.quiet"], InHand { lane: 0, express: 1 });
        assert_eq!((tally.places("llm.lane.low.3.any"), tally.places("llm.lane.low.5.any")), (3, 0));
        assert_eq!((flood[0].lane(), quiet.lane()), (Some("llm.lane.low.3"), None));
        drop(quiet);
        assert_eq!(of_lane(3).unwrap().len(), 1);
        drop(flood);
        assert_eq!(of_lane(0), None, "nothing is kept of an empty lane");
    }
}
