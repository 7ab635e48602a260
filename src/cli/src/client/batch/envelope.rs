//! The message that is published for a line of a batch file.
//!
//! The same line with the same options gives the same bytes: the broker tells a repeat from another request
//! under the same identity by the digest of what was published. So a time to live is sent, not a deadline.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use tollgate_protocol::meta::{TAG_NAME_LENGTH_MAX, TAGS_MAX, TEXT_LENGTH_MAX, is_label};
use tollgate_protocol::request::{RequestEnvelope, TTL_MS_MAX};
use tollgate_protocol::{Group, JsonText, RequestId};

use super::{Batch, Line};

/// What the command line says about every request of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    /// The project that pays.
    pub(crate) project: Option<String>,
    /// The person or service behind the requests.
    pub(crate) user: Option<String>,
    /// What the requests are for.
    pub(crate) task: Option<String>,
    /// Free labels.
    pub(crate) tags: BTreeMap<String, String>,
    /// Time to live, in milliseconds.
    pub(crate) ttl_ms: Option<u64>,
}

impl Labels {
    /// What is wrong with them: every request would be rejected for it, so none is sent.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let texts = [("--project", &self.project), ("--user", &self.user), ("--task", &self.task)];
        for (option, text) in texts {
            if text.as_ref().is_some_and(|text| !is_label(text, TEXT_LENGTH_MAX)) {
                problems.push(format!("{option}: expected 1 to {TEXT_LENGTH_MAX} bytes of printable text"));
            }
        }
        if self.tags.len() > TAGS_MAX {
            problems.push(format!("--tag: {} tags, the limit is {TAGS_MAX}", self.tags.len()));
        }
        for (name, value) in &self.tags {
            if !is_label(name, TAG_NAME_LENGTH_MAX) || !is_label(value, TEXT_LENGTH_MAX) {
                problems.push(format!(
                    "--tag {name:?}: expected name=value of printable text, at most {TAG_NAME_LENGTH_MAX} and \
                     {TEXT_LENGTH_MAX} bytes"
                ));
            }
        }
        if self.ttl_ms.is_some_and(|ttl| ttl > TTL_MS_MAX) {
            problems.push("--ttl: the most that can be asked for is 7d".into());
        }
        problems
    }
}

/// The message for one line.
pub(crate) fn payload(
    batch: &Batch,
    line: &Line,
    group: &Group,
    id: &RequestId,
    labels: &Labels,
) -> Result<Vec<u8>, serde_json::Error> {
    let body: &RawValue = serde_json::from_slice(batch.body(line))?;
    serde_json::to_vec(&RequestEnvelope {
        id: Some(id.to_string()),
        group: Some(group.to_string()),
        endpoint: Some(line.endpoint),
        body: Some(JsonText::from(body)),
        project: labels.project.clone(),
        user: labels.user.clone(),
        task: labels.task.clone(),
        tags: labels.tags.clone(),
        ttl_ms: labels.ttl_ms,
        ..RequestEnvelope::default()
    })
}

#[cfg(test)]
mod tests {
    use super::super::{read, request_id};
    use super::*;
    use tollgate_protocol::Team;

    #[test]
    fn a_line_becomes_an_envelope() {
        let text =
            r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m", "x":1.0}}"#;
        let batch = read(text.into()).unwrap();
        let (team, group) = (Team::parse("t").unwrap(), Group::parse("g").unwrap());
        let id = request_id(&team, &group, "a");
        let labels = Labels {
            project: Some("p".into()),
            tags: BTreeMap::from([("application".into(), "demo".into())]),
            ttl_ms: Some(5),
            ..Labels::default()
        };
        let payload = payload(&batch, &batch.lines[0], &group, &id, &labels).unwrap();
        insta::assert_snapshot!(String::from_utf8(payload).unwrap(), @r#"{"id":"318177ff-9e36-5289-a3ec-fbbf71c82aaa","group":"g","endpoint":"chat.completions","body":{"model":"m", "x":1.0},"project":"p","tags":{"application":"demo"},"ttl_ms":5}"#);
    }

    #[test]
    fn labels_that_every_request_would_be_rejected_for_are_refused() {
        let bad = Labels {
            project: Some(String::new()),
            user: Some("a\nb".into()),
            tags: (0..17).map(|n| (format!("t{n}"), "x".repeat(if n == 3 { 257 } else { 1 }))).collect(),
            ttl_ms: Some(TTL_MS_MAX + 1),
            ..Labels::default()
        };
        insta::assert_snapshot!(bad.problems().join("\n"), @r#"
        --project: expected 1 to 256 bytes of printable text
        --user: expected 1 to 256 bytes of printable text
        --tag: 17 tags, the limit is 16
        --tag "t3": expected name=value of printable text, at most 64 and 256 bytes
        --ttl: the most that can be asked for is 7d
        "#);
        assert!(Labels::default().problems().is_empty());
    }
}
