//! How the simulator behaves: what it is started with, and what may be changed while it runs.

use super::Error;
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Where a simulated status has to lie: anything else would not be a failure.
pub(super) const FAILURE_STATUSES: RangeInclusive<u16> = 400..=599;

/// How the simulator behaves. The default answers everything at once and never fails.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// From the arrival of a call to its first token (`first_token_ms` in configuration files).
    pub first_token: Duration,
    /// For every output token after that (`per_token_ms` in configuration files).
    pub per_token: Duration,
    /// Failures by chance.
    pub fail: Failures,
    /// Start of all chance in failures. Answers do not depend on it.
    pub seed: u64,
    /// How many calls are answered at the same time; further ones get a 429 at once. `None` is no bound.
    pub max_concurrent: Option<u32>,
    /// The models that are served; empty serves every name.
    pub models: Vec<String>,
    /// What callers have to show as bearer; `None` asks for nothing.
    pub api_key: Option<ApiKey>,
    /// Who may use the control paths.
    pub control: Control,
}

/// Failures by chance, the same ones for the same seed: whether call `k` fails depends on the seed, `k` and
/// the rate.
#[derive(Clone, Debug, PartialEq)]
pub struct Failures {
    /// The share of calls that fail, 0 to 1.
    pub rate: f64,
    /// The status they fail with, 400 to 599.
    pub status: u16,
    /// What `retry-after` and `retry-after-ms` say on them.
    pub retry_after: Option<Duration>,
}

/// Who may use the control paths, which ask for no key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Control {
    /// Only callers from this machine.
    #[default]
    Loopback,
    /// Everybody who can connect; for closed networks, such as that of a compose file.
    Anywhere,
}

/// A key that does not show itself in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

/// What may be changed while the simulator runs; the body of `POST /__sim/settings`. What is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// See [`Settings::first_token`].
    pub first_token_ms: Option<u64>,
    /// See [`Settings::per_token`]; may have a fraction.
    pub per_token_ms: Option<f64>,
    /// See [`Settings::fail`].
    #[serde(default)]
    pub fail: FailuresChange,
    /// See [`Settings::seed`].
    pub seed: Option<u64>,
    /// See [`Settings::max_concurrent`]; `null` takes the bound away.
    #[serde(default, deserialize_with = "present")]
    pub max_concurrent: Option<Option<u32>>,
}

/// The part of a [`Change`] about failures.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailuresChange {
    /// See [`Failures::rate`].
    pub rate: Option<f64>,
    /// See [`Failures::status`].
    pub status: Option<u16>,
    /// See [`Failures::retry_after`]; `null` takes the header away.
    #[serde(default, deserialize_with = "present")]
    pub retry_after_ms: Option<Option<u64>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            first_token: Duration::ZERO,
            per_token: Duration::ZERO,
            fail: Failures::default(),
            seed: 0,
            max_concurrent: None,
            models: Vec::new(),
            api_key: None,
            control: Control::default(),
        }
    }
}

impl Default for Failures {
    fn default() -> Self {
        Self { rate: 0.0, status: 503, retry_after: None }
    }
}

impl Settings {
    /// Says what is out of range, if anything is.
    ///
    /// # Errors
    /// [`Error::Settings`] names the first setting that makes no sense.
    pub fn check(&self) -> Result<(), Error> {
        if !(0.0..=1.0).contains(&self.fail.rate) {
            return Err(Error::Settings("fail.rate: a number from 0 to 1 is expected"));
        }
        if !FAILURE_STATUSES.contains(&self.fail.status) {
            return Err(Error::Settings("fail.status: a status from 400 to 599 is expected"));
        }
        Ok(())
    }

    /// These settings with a change made to them.
    ///
    /// # Errors
    /// [`Error::Settings`] if the change makes no sense; nothing is changed then.
    pub fn with(&self, change: &Change) -> Result<Self, Error> {
        let mut next = self.clone();
        if let Some(wait_ms) = change.first_token_ms {
            next.first_token = Duration::from_millis(wait_ms);
        }
        if let Some(wait_ms) = change.per_token_ms {
            next.per_token = Duration::try_from_secs_f64(wait_ms / 1_000.0)
                .map_err(|_| Error::Settings("per_token_ms: a number that is not negative is expected"))?;
        }
        next.fail.rate = change.fail.rate.unwrap_or(next.fail.rate);
        next.fail.status = change.fail.status.unwrap_or(next.fail.status);
        if let Some(wait_ms) = change.fail.retry_after_ms {
            next.fail.retry_after = wait_ms.map(Duration::from_millis);
        }
        next.seed = change.seed.unwrap_or(next.seed);
        next.max_concurrent = change.max_concurrent.unwrap_or(next.max_concurrent);
        next.check()?;
        Ok(next)
    }

    /// What the control paths show.
    pub(super) fn view(&self) -> impl Serialize + use<> {
        #[derive(Serialize)]
        struct View {
            first_token_ms: u128,
            per_token_ms: f64,
            fail: Fail,
            seed: u64,
            max_concurrent: Option<u32>,
        }
        #[derive(Serialize)]
        struct Fail {
            rate: f64,
            status: u16,
            retry_after_ms: Option<u128>,
        }
        View {
            first_token_ms: self.first_token.as_millis(),
            per_token_ms: self.per_token.as_secs_f64() * 1_000.0,
            fail: Fail {
                rate: self.fail.rate,
                status: self.fail.status,
                retry_after_ms: self.fail.retry_after.map(|wait| wait.as_millis()),
            },
            seed: self.seed,
            max_concurrent: self.max_concurrent,
        }
    }
}

impl ApiKey {
    /// A key as callers have to send it.
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    pub(super) fn is(&self, shown: &str) -> bool {
        self.0 == shown
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ApiKey(…)")
    }
}

/// Tells `null` (take away) from absent (leave).
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(json: &str) -> Change {
        serde_json::from_str(json).expect("a change")
    }

    #[test]
    fn what_is_absent_stays_and_null_takes_away() {
        let before = Settings { max_concurrent: Some(3), seed: 9, ..Settings::default() };
        assert_eq!(before.with(&change("{}")).expect("no change"), before);
        let after = before
            .with(&change(
                r#"{"per_token_ms":0.25,"max_concurrent":null,"fail":{"rate":1,"retry_after_ms":1500}}"#,
            ))
            .expect("a change");
        assert_eq!(after.per_token, Duration::from_micros(250));
        assert_eq!(after.max_concurrent, None);
        assert_eq!(after.seed, 9);
        assert_eq!(
            after.fail,
            Failures { rate: 1.0, status: 503, retry_after: Some(Duration::from_millis(1_500)) }
        );
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (json, name) in [
            (r#"{"fail":{"rate":1.5}}"#, "fail.rate"),
            (r#"{"fail":{"rate":-0.1}}"#, "fail.rate"),
            (r#"{"fail":{"status":200}}"#, "fail.status"),
            (r#"{"per_token_ms":-1}"#, "per_token_ms"),
        ] {
            let error = Settings::default().with(&change(json)).expect_err(json);
            assert!(error.to_string().contains(name), "{error}");
        }
        assert!(
            serde_json::from_str::<Change>(r#"{"first_tokens_ms":1}"#).is_err(),
            "unknown names are refused"
        );
    }

    #[test]
    fn keys_do_not_show_themselves() {
        let settings = Settings { api_key: Some(ApiKey::new("sk-secret")), ..Settings::default() };
        assert!(!format!("{settings:?}").contains("secret"));
    }
}
