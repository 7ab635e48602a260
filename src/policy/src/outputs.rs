//! How long the answers of a team and model are, as they were so far.
//!
//! `max_tokens` bounds an answer and says little of its length; many clients ask for thousands and get fifty. What the next
//! answer is expected to have is the mean of those before it, each new one counting for a sixteenth, and never more than
//! the request allows.

use std::collections::HashMap;

use tollgate_protocol::Team;

/// Pairs of team and model that are remembered. Beyond it all are forgotten, and learnt anew.
const KNOWN_MAX: usize = 10_000;
/// Means are tokens times this, so that small changes are not lost to rounding.
const SCALE: u64 = 1 << 8;
/// A new answer counts for one part in so many.
const PARTS: u64 = 16;

/// What was learnt.
#[derive(Debug, Default)]
pub struct Outputs(HashMap<(Team, String), u64>);

impl Outputs {
    /// An answer had so many tokens.
    pub fn note(&mut self, team: &Team, model: &str, tokens: u64) {
        let tokens = tokens.saturating_mul(SCALE);
        if let Some(mean) = self.0.get_mut(&(team.clone(), model.to_owned())) {
            // The new one's part is rounded up and the old one's down: a mean reaches what all answers have.
            *mean = (*mean - *mean / PARTS).saturating_add(tokens.div_ceil(PARTS)).min(u64::MAX / 2);
            return;
        }
        if self.0.len() >= KNOWN_MAX {
            self.0.clear();
        }
        self.0.insert((team.clone(), model.to_owned()), tokens.min(u64::MAX / 2));
    }

    /// How many tokens the next answer is expected to have. `None`: nothing is known.
    pub fn expected(&self, team: &Team, model: &str, limit: Option<u64>) -> Option<u64> {
        let mean = self.0.get(&(team.clone(), model.to_owned()))?;
        Some(mean.div_ceil(SCALE).min(limit.unwrap_or(u64::MAX)))
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
