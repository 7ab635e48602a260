//! Decides whether a call is answered and how long that takes. Knows nothing of HTTP, clocks or counters.

use super::chance::Digest;
use super::problem::Problem;
use super::settings::{ApiKey, Settings};
use std::time::Duration;

/// What can be told before a call is read: an outage hides everything, also whether the key is right.
pub(super) fn admit(
    outage: Option<u16>,
    expected: Option<&ApiKey>,
    shown: Option<&str>,
) -> Result<(), Problem> {
    if let Some(status) = outage {
        return Err(Problem::simulated(status, "A simulated outage.", None));
    }
    match expected {
        Some(key) if !shown.is_some_and(|shown| key.is(shown)) => Err(Problem::wrong_key()),
        _ => Ok(()),
    }
}

/// Whether a model is served.
pub(super) fn serves(models: &[String], model: &str) -> Result<(), Problem> {
    if models.is_empty() || models.iter().any(|served| served == model) {
        Ok(())
    } else {
        Err(Problem::model_not_found())
    }
}

/// Whether chance lets the `call`-th call through. Only valid calls come here, so a bad request is always a
/// 400.
pub(super) fn survive(settings: &Settings, call: u64) -> Result<(), Problem> {
    if !fails(settings.seed, call, settings.fail.rate) {
        return Ok(());
    }
    Err(Problem::simulated(settings.fail.status, "A simulated failure.", settings.fail.retry_after))
}

/// Whether the `call`-th call fails: a function of these three and nothing else. At a higher rate the same
/// calls fail and further ones.
pub(super) fn fails(seed: u64, call: u64, rate: f64) -> bool {
    Digest::new(seed).number(call).dice().fraction() < rate
}

/// A call that found `max_concurrent` others.
pub(super) fn crowded() -> Problem {
    Problem::simulated(429, "Too many calls at the same time.", Some(Duration::from_millis(100)))
}

/// From the arrival of a call until its `tokens`-th token.
pub(super) fn latency(settings: &Settings, tokens: u64) -> Duration {
    settings
        .first_token
        .saturating_add(settings.per_token.saturating_mul(u32::try_from(tokens).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn failing(seed: u64, rate: f64) -> Vec<u64> {
        (1..=10_000).filter(|call| fails(seed, *call, rate)).collect()
    }

    #[test]
    fn the_rate_is_kept_about() {
        for rate in [0.01, 0.1, 0.5, 0.9] {
            let share = failing(7, rate).len() as f64 / 10_000.0;
            assert!((share - rate).abs() < 0.02, "{share} of calls failed, {rate} were asked for");
        }
        assert!(failing(7, 0.0).is_empty());
        assert_eq!(failing(7, 1.0).len(), 10_000);
    }

    #[test]
    fn seeds_repeat_and_differ() {
        assert_eq!(failing(7, 0.1), failing(7, 0.1));
        assert_ne!(failing(7, 0.1), failing(8, 0.1));
    }

    #[test]
    fn an_outage_hides_everything_else() {
        let key = ApiKey::new("right");
        let status = |outage, shown| admit(outage, Some(&key), shown).err().map(|problem| problem.status);
        assert_eq!(status(Some(500), None), Some(500));
        assert_eq!(status(None, None), Some(401));
        assert_eq!(status(None, Some("wrong")), Some(401));
        assert_eq!(status(None, Some("right")), None);
        assert_eq!(admit(None, None, Some("any")), Ok(()));
    }

    #[test]
    fn latency_counts_tokens_and_never_overflows() {
        let (first_token, per_token) = (Duration::from_millis(200), Duration::from_micros(1_500));
        let settings = Settings { first_token, per_token, ..Settings::default() };
        assert_eq!(latency(&settings, 0), first_token);
        assert_eq!(latency(&settings, 10), Duration::from_millis(215));
        let slow = Settings { first_token: Duration::MAX, per_token: Duration::MAX, ..Settings::default() };
        assert_eq!(latency(&slow, u64::MAX), Duration::MAX);
    }

    proptest! {
        #[test]
        fn a_higher_rate_keeps_the_failures_of_a_lower(
            seed: u64, call: u64, low in 0.0..=1.0, high in 0.0..=1.0,
        ) {
            prop_assume!(low <= high);
            prop_assert!(!fails(seed, call, low) || fails(seed, call, high));
        }
    }
}
