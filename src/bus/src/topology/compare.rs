//! What to do about a stream that is there already. Pure.

use async_nats::jetstream::stream::Config;

/// One setting that is not as planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The setting's name in NATS.
    pub setting: &'static str,
    /// What was planned.
    pub wanted: String,
    /// What the server has.
    pub found: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is {}, expected {}", self.setting, self.found, self.wanted)
    }
}

/// The verdict on one stream.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Differences that nobody may change silently.
    pub(super) refused: Vec<Difference>,
    /// The found settings with bounds raised, if any is lower than planned.
    pub(super) raised: Option<Config>,
    /// Bounds that stay higher than planned, because lowering one deletes messages.
    pub(super) kept: Vec<Difference>,
}

pub(super) fn compare(wanted: &Config, found: &Config) -> Verdict {
    let mut verdict = Verdict::default();
    let mut must_equal = |setting, wanted: String, found: String| {
        if wanted != found {
            verdict.refused.push(Difference { setting, wanted, found });
        }
    };
    let sorted = |subjects: &[String]| {
        let mut subjects = subjects.to_vec();
        subjects.sort();
        format!("{subjects:?}")
    };
    must_equal("subjects", sorted(&wanted.subjects), sorted(&found.subjects));
    must_equal("retention", format!("{:?}", wanted.retention), format!("{:?}", found.retention));
    must_equal("storage", format!("{:?}", wanted.storage), format!("{:?}", found.storage));
    must_equal("discard", format!("{:?}", wanted.discard), format!("{:?}", found.discard));
    must_equal(
        "discard_new_per_subject",
        wanted.discard_new_per_subject.to_string(),
        found.discard_new_per_subject.to_string(),
    );
    must_equal("allow_direct", wanted.allow_direct.to_string(), found.allow_direct.to_string());
    must_equal("allow_msg_ttl", wanted.allow_message_ttl.to_string(), found.allow_message_ttl.to_string());
    must_equal(
        "allow_msg_schedules",
        wanted.allow_message_schedules.to_string(),
        found.allow_message_schedules.to_string(),
    );
    must_equal(
        "subject_transform",
        format!(
            "{:?}",
            wanted.subject_transform.as_ref().map(|transform| (&transform.source, &transform.destination))
        ),
        format!(
            "{:?}",
            found.subject_transform.as_ref().map(|transform| (&transform.source, &transform.destination))
        ),
    );
    must_equal(
        "republish",
        format!(
            "{:?}",
            wanted.republish.as_ref().map(|republish| (&republish.source, &republish.destination))
        ),
        format!(
            "{:?}",
            found.republish.as_ref().map(|republish| (&republish.source, &republish.destination))
        ),
    );
    if wanted.max_messages_per_subject == 1 || found.max_messages_per_subject == 1 {
        must_equal(
            "max_msgs_per_subject",
            wanted.max_messages_per_subject.to_string(),
            found.max_messages_per_subject.to_string(),
        );
    } else {
        bound(&mut verdict, wanted, found, "max_msgs_per_subject", |config| {
            &mut config.max_messages_per_subject
        });
    }
    // How long things are kept is a bound too: raised when asked for, never lowered by the way.
    if wanted.max_age > found.max_age && !found.max_age.is_zero() {
        verdict.raised.get_or_insert_with(|| found.clone()).max_age = wanted.max_age;
    } else if wanted.max_age < found.max_age {
        let (wanted, found) = (format!("{:?}", wanted.max_age), format!("{:?}", found.max_age));
        verdict.kept.push(Difference { setting: "max_age", wanted, found });
    }
    bound(&mut verdict, wanted, found, "max_msgs", |config| &mut config.max_messages);
    bound(&mut verdict, wanted, found, "max_bytes", |config| &mut config.max_bytes);
    verdict
}

/// Raises a bound, or keeps it. -1 is no bound at all.
fn bound(
    verdict: &mut Verdict,
    wanted: &Config,
    found: &Config,
    setting: &'static str,
    field: impl Fn(&mut Config) -> &mut i64,
) {
    let value = |config: &Config| *field(&mut config.clone());
    let (want, have) = (value(wanted), value(found));
    let limitless = |bound: i64| if bound <= 0 { i64::MAX } else { bound };
    match limitless(want).cmp(&limitless(have)) {
        std::cmp::Ordering::Greater => *field(verdict.raised.get_or_insert_with(|| found.clone())) = want,
        std::cmp::Ordering::Less => {
            verdict.kept.push(Difference { setting, wanted: want.to_string(), found: have.to_string() });
        }
        std::cmp::Ordering::Equal => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::jetstream::stream::RetentionPolicy;

    fn config(per_subject: i64, in_all: i64) -> Config {
        Config {
            max_messages_per_subject: per_subject,
            max_messages: in_all,
            max_bytes: -1,
            ..Config::default()
        }
    }

    #[test]
    fn a_bound_is_raised_and_never_lowered() {
        let raised = compare(&config(72, 88), &config(18, 22));
        assert!(raised.refused.is_empty() && raised.kept.is_empty());
        let update = raised.raised.unwrap();
        assert_eq!((update.max_messages_per_subject, update.max_messages), (72, 88));

        let lowered = compare(&config(18, 22), &config(72, 88));
        assert!(lowered.raised.is_none() && lowered.refused.is_empty());
        assert_eq!(lowered.kept.len(), 2);

        let from_limitless = compare(&config(18, 22), &config(-1, -1));
        assert!(from_limitless.raised.is_none(), "no bound is the highest bound");
        assert!(compare(&config(-1, -1), &config(18, 22)).raised.is_some());
    }

    #[test]
    fn what_is_kept_is_kept_longer_and_never_shorter() {
        let days =
            |days: u64| Config { max_age: std::time::Duration::from_secs(days * 86_400), ..config(5, 5) };
        assert_eq!(compare(&days(9), &days(7)).raised.unwrap().max_age, days(9).max_age);
        let shorter = compare(&days(7), &days(9));
        assert!(shorter.raised.is_none() && shorter.kept.len() == 1);
        assert!(compare(&days(7), &days(0)).raised.is_none(), "without an age, everything is kept already");
    }

    #[test]
    fn one_entry_per_subject_is_not_a_bound_but_the_meaning_of_the_stream() {
        assert_eq!(compare(&config(1, -1), &config(-1, -1)).refused.len(), 1);
        assert_eq!(compare(&config(-1, -1), &config(1, -1)).refused.len(), 1);
    }

    #[test]
    fn what_differs_is_named() {
        let found =
            Config { retention: RetentionPolicy::Limits, subjects: vec!["other".into()], ..config(5, 5) };
        let wanted =
            Config { retention: RetentionPolicy::WorkQueue, subjects: vec!["llm.x".into()], ..config(5, 5) };
        let refused = compare(&wanted, &found).refused;
        assert_eq!(refused.len(), 2);
        assert_eq!(refused[0].to_string(), "subjects is [\"other\"], expected [\"llm.x\"]");
    }
}
