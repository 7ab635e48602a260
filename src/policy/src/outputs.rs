//! How long the answers of a team and model are, as they were so far.
//!
//! `max_tokens` bounds an answer and says little of its length; many clients ask for thousands and get fifty. What the next
//! answer is expected to have is the mean of those before it, each new one counting for a sixteenth: that is for order.
//! What it will hardly have more than is the length that nine of ten of the last 64 had at most: that is for budgets.
//! Neither is more than the request allows.

use std::collections::{HashMap, VecDeque};

use tollgate_protocol::Team;

/// Pairs of team and model that are remembered. Beyond it all are forgotten, and learnt anew.
const KNOWN_MAX: usize = 10_000;
/// Means are tokens times this, so that small changes are not lost to rounding.
const SCALE: u64 = 1 << 8;
/// A new answer counts for one part in so many.
const PARTS: u64 = 16;

/// The last answers of which each length is known.
const LENGTHS_MAX: usize = 64;
/// Of them, so many of ten are no longer than what is said of the next one.
const OF_TEN: usize = 9;

/// What was learnt.
#[derive(Debug, Default)]
pub struct Outputs(HashMap<(Team, String), Learnt>);

#[derive(Debug)]
struct Learnt {
    mean: u64,
    lengths: VecDeque<u32>,
}

impl Learnt {
    fn note(&mut self, tokens: u64) {
        if self.lengths.len() == LENGTHS_MAX {
            self.lengths.pop_front();
        }
        self.lengths.push_back(u32::try_from(tokens).unwrap_or(u32::MAX));
    }
}

impl Outputs {
    /// An answer had so many tokens.
    pub fn note(&mut self, team: &Team, model: &str, tokens: u64) {
        let scaled = tokens.saturating_mul(SCALE);
        if let Some(learnt) = self.0.get_mut(&(team.clone(), model.to_owned())) {
            let mean = learnt.mean;
            // The new one's part is rounded up and the old one's down: a mean reaches what all answers have.
            learnt.mean = (mean - mean / PARTS).saturating_add(scaled.div_ceil(PARTS)).min(u64::MAX / 2);
            learnt.note(tokens);
            return;
        }
        if self.0.len() >= KNOWN_MAX {
            self.0.clear();
        }
        let mut learnt = Learnt { mean: scaled.min(u64::MAX / 2), lengths: VecDeque::new() };
        learnt.note(tokens);
        self.0.insert((team.clone(), model.to_owned()), learnt);
    }

    /// How many tokens the next answer is expected to have. `None`: nothing is known.
    pub fn expected(&self, team: &Team, model: &str, limit: Option<u64>) -> Option<u64> {
        let learnt = self.0.get(&(team.clone(), model.to_owned()))?;
        Some(learnt.mean.div_ceil(SCALE).min(limit.unwrap_or(u64::MAX)))
    }

    /// How many tokens the next answer will hardly have more than. `None`: nothing is known.
    pub fn most(&self, team: &Team, model: &str, limit: Option<u64>) -> Option<u64> {
        let learnt = self.0.get(&(team.clone(), model.to_owned()))?;
        let mut lengths: Vec<u32> = learnt.lengths.iter().copied().collect();
        // The nearest rank, counted from one.
        let rank = (lengths.len() * OF_TEN).div_ceil(10).max(1) - 1;
        let (_, most, _) = (rank < lengths.len()).then(|| lengths.select_nth_unstable(rank))?;
        Some(u64::from(*most).min(limit.unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn team(name: &str) -> Team {
        Team::parse(name).unwrap()
    }

    #[test]
    fn the_mean_follows_the_answers() {
        let mut outputs = Outputs::default();
        let expected = |outputs: &Outputs, limit| outputs.expected(&team("a"), "small", limit);
        assert_eq!(expected(&outputs, Some(1_000)), None);
        outputs.note(&team("a"), "small", 50);
        assert_eq!(expected(&outputs, Some(1_000)), Some(50));
        assert_eq!(expected(&outputs, Some(7)), Some(7), "never more than the request allows");
        for _ in 0..200 {
            outputs.note(&team("a"), "small", 400);
        }
        let after = expected(&outputs, None).unwrap();
        assert!((395..=405).contains(&after), "{after}");
        assert_eq!(outputs.expected(&team("a"), "large", None), None);
        assert_eq!(outputs.expected(&team("b"), "small", None), None);
    }

    #[test]
    fn nine_of_ten_are_no_longer_than_what_is_said() {
        let mut outputs = Outputs::default();
        assert_eq!(outputs.most(&team("a"), "small", None), None);
        for tokens in 1..=10 {
            outputs.note(&team("a"), "small", tokens * 10);
        }
        assert_eq!(outputs.most(&team("a"), "small", None), Some(90));
        assert_eq!(outputs.most(&team("a"), "small", Some(7)), Some(7), "never more than the request allows");
        for _ in 0..LENGTHS_MAX {
            outputs.note(&team("a"), "small", 5);
        }
        assert_eq!(outputs.most(&team("a"), "small", None), Some(5), "what is long ago is forgotten");
        outputs.note(&team("b"), "small", u64::MAX);
        assert_eq!(outputs.most(&team("b"), "small", None), Some(u64::from(u32::MAX)));
    }

    #[test]
    fn no_number_of_a_provider_overflows_it() {
        let mut outputs = Outputs::default();
        for _ in 0..3 {
            outputs.note(&team("a"), "small", u64::MAX);
        }
        assert!(outputs.expected(&team("a"), "small", None) > Some(1_000_000_000));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut outputs = Outputs::default();
        for n in 0..=KNOWN_MAX {
            outputs.note(&team("a"), &format!("model-{n}"), 1);
        }
        assert!(outputs.0.len() <= KNOWN_MAX);
        assert!(outputs.expected(&team("a"), &format!("model-{KNOWN_MAX}"), None).is_some());
    }
}
