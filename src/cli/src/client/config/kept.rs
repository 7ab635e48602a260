//! The versions of teams, budgets, models and prices that are kept: read, and written without overwriting anybody's.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::Instant;
use tollgate_bus::Bus;
use tollgate_bus::bucket::{CONFIG, Swapped};
use tollgate_bus::versions::Version;
use tollgate_config::Document;
use tollgate_protocol::Sequence;
use tollgate_protocol::applied::{Applied, InUse, KEY};

use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Longest note, in bytes.
const NOTE_BYTES_MAX: usize = 500;
/// How long processes are given to say which version they use.
const ANSWER_WAIT: Duration = Duration::from_millis(400);
/// How long they are given to use a new one, before it is told that they do not.
const TAKEN_UP_WAIT: Duration = Duration::from_secs(5);

/// What is applied now.
pub(crate) struct Current {
    /// The last version, which a new one expects; 0 if there was none.
    pub(crate) revision: Sequence,
    /// What it says; none if nothing is applied, or if it cannot be read.
    pub(crate) document: Option<Document>,
}

impl Current {
    /// The version in force, if one is.
    pub(crate) fn version(&self) -> Option<Sequence> {
        self.document.as_ref().map(|_| self.revision)
    }
}

/// What is applied now.
pub(crate) async fn current(bus: &Bus, output: &Output) -> Result<Current, Failure> {
    let last = bus.version(CONFIG, KEY, None).await.map_err(|reason| no_bucket(&reason))?;
    let Some(last) = last else { return Ok(Current { revision: 0, document: None }) };
    let document = match read(&last) {
        Ok(document) => document.map(|(_, document)| document),
        Err(reason) => {
            output.note(format!("version {} counts as nothing: {reason}", last.revision));
            None
        }
    };
    Ok(Current { revision: last.revision, document })
}

/// What a version says; `None` for the mark that everything was deleted.
pub(crate) fn read(version: &Version) -> Result<Option<(Applied, Document)>, String> {
    let Some(value) = &version.value else { return Ok(None) };
    let applied: Applied = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    let document = Document::parse(&applied.toml, &format!("version {}", version.revision))
        .map_err(|report| report.to_string())?;
    Ok(Some((applied, document)))
}

/// One version, if it is kept.
pub(crate) async fn version(bus: &Bus, number: Option<Sequence>) -> Result<Option<Version>, Failure> {
    // No version has this number, and the server does not take it for one.
    if number == Some(0) {
        return Ok(None);
    }
    bus.version(CONFIG, KEY, number).await.map_err(|reason| no_bucket(&reason))
}

/// All versions that are kept, the oldest first.
pub(crate) async fn versions(bus: &Bus) -> Result<Vec<Version>, Failure> {
    bus.versions(CONFIG, KEY).await.map_err(|reason| no_bucket(&reason))
}

/// What to say of a number that is of no version, or of one that is not kept.
pub(crate) async fn no_version(bus: &Bus, number: Sequence) -> Result<Failure, Failure> {
    let versions = versions(bus).await?;
    let kept: Vec<_> =
        versions.iter().filter(|version| version.value.is_some()).map(|version| version.revision).collect();
    Ok(Failure::failed(format!("there is no version {number} (kept: {})", ranges(&kept))))
}

/// Ascending numbers, those that follow one another in one: `1, 3 to 7`.
fn ranges(numbers: &[Sequence]) -> String {
    let runs: Vec<String> = numbers
        .chunk_by(|one, next| one + 1 == *next)
        .filter_map(|run| match run {
            [] => None,
            [one] => Some(one.to_string()),
            [first, .., last] => Some(format!("{first} to {last}")),
        })
        .collect();
    if runs.is_empty() { "none".to_owned() } else { runs.join(", ") }
}

/// Writes a version after the one that was read. `None`: somebody else has written one meanwhile.
pub(crate) async fn write(
    bus: &Bus,
    document: &Document,
    note: Option<&str>,
    again: Option<Sequence>,
    after: Sequence,
) -> Result<Option<Sequence>, Failure> {
    let note = note.map(str::trim).filter(|note| !note.is_empty()).map(str::to_owned);
    if note.as_ref().is_some_and(|note| note.len() > NOTE_BYTES_MAX) {
        return Err(Failure::usage(format!("--note may have {NOTE_BYTES_MAX} bytes")));
    }
    let applied = Applied { by: by(), note, again, toml: document.text() };
    let value = serde_json::to_vec(&applied)
        .map_err(|error| Failure::failed(format!("the configuration cannot be written: {error}")))?;
    match bus.swap(CONFIG, KEY, Bytes::from(value), after).await {
        Ok(Swapped::Written(revision)) => Ok(Some(revision)),
        Ok(Swapped::Other(..) | Swapped::Gone(_)) => Ok(None),
        Err(reason) => Err(Failure::unreachable(format!(
            "whether the configuration was applied is not known: {reason}. `tollgate config history` tells"
        ))),
    }
}

/// What to say when somebody else was faster.
pub(crate) fn overtaken() -> Failure {
    Failure::failed(
        "nothing was applied: somebody else has applied another version meanwhile. Look at it with `tollgate config \
         plan`, and apply again",
    )
}

/// Which version each process uses.
pub(crate) async fn in_use(bus: &Bus) -> Vec<InUse> {
    let client = bus.client();
    let inbox = client.new_inbox();
    let Ok(mut answers) = client.subscribe(inbox.clone()).await else { return Vec::new() };
    let asked = bus.subjects().control("config", "in_use");
    if client.publish_with_reply(asked, inbox, Bytes::new()).await.is_err() {
        return Vec::new();
    }
    let mut found = Vec::new();
    let listening = async {
        while let Some(answer) = answers.next().await {
            if answer.status.is_some() {
                break;
            }
            found.extend(serde_json::from_slice::<InUse>(&answer.payload));
        }
    };
    // Nobody says how many will answer, so listening ends with the time.
    let _ = tokio::time::timeout(ANSWER_WAIT, listening).await;
    found.sort_by(|one, other| one.roles.cmp(&other.roles));
    found
}

/// The same once all use this version or cannot, or have not for a while.
pub(crate) async fn taken_up(bus: &Bus, version: Sequence) -> Vec<InUse> {
    let until = Instant::now() + TAKEN_UP_WAIT;
    loop {
        let found = in_use(bus).await;
        let has_heard = |process: &InUse| uses(process, version) || is_refused(process, version);
        if found.iter().all(has_heard) || Instant::now() >= until {
            return found;
        }
    }
}

/// Whether it uses this version, or one that was applied after it.
pub(crate) fn uses(process: &InUse, version: Sequence) -> bool {
    process.version >= version
}

fn is_refused(process: &InUse, version: Sequence) -> bool {
    process.refused.as_ref().is_some_and(|refused| refused.version == version)
}

/// Who uses a version, and who does not and why, in lines.
pub(crate) fn told(found: &[InUse], version: Sequence) -> Vec<String> {
    if found.is_empty() {
        return vec!["no process answers: it counts for those that are started".to_owned()];
    }
    let name = |process: &InUse| match process.roles.as_slice() {
        [role] => role.clone(),
        _ => "broker".to_owned(),
    };
    let counted =
        |(name, count): (&String, &usize)| format!("{count} {name}{}", if *count > 1 { "s" } else { "" });
    let mut using = BTreeMap::<String, usize>::new();
    for process in found.iter().filter(|process| uses(process, version)) {
        *using.entry(name(process)).or_default() += 1;
    }
    let counted: Vec<String> = using.iter().map(counted).collect();
    let using = if counted.is_empty() { "nobody".to_owned() } else { counted.join(", ") };
    let mut lines = vec![format!("in use by: {using}")];
    if let Some(later) = found.iter().map(|process| process.version).filter(|later| *later > version).max() {
        lines.push(format!("version {later} was applied after it"));
    }
    for process in found.iter().filter(|process| !uses(process, version)) {
        let problems = process.refused.as_ref().filter(|refused| refused.version == version);
        lines.push(match problems {
            Some(refused) => {
                format!(
                    "not by one {}, which cannot use it:\n  {}",
                    name(process),
                    refused.problems.join("\n  ")
                )
            }
            None => format!("not by one {}, which uses version {}", name(process), process.version),
        });
    }
    lines
}

/// Who writes this, as far as this machine knows.
#[expect(clippy::disallowed_methods, reason = "who somebody is comes from where they are")]
fn by() -> String {
    let user = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default();
    let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok()).unwrap_or_default();
    match (user.as_str(), host.as_str()) {
        ("", host) => host.to_owned(),
        (user, "") => user.to_owned(),
        (user, host) => format!("{user}@{host}"),
    }
}

fn no_bucket(reason: &str) -> Failure {
    Failure {
        exit: Exit::Unreachable,
        message: format!(
            "applied configurations cannot be read: {reason}. Was a broker of this version ever started here? \
             `tollgate up` and `tollgate run` make what is missing"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_protocol::applied::Refused;

    #[test]
    fn numbers_that_follow_one_another_are_said_as_one() {
        assert_eq!(ranges(&[]), "none");
        assert_eq!(ranges(&[3]), "3");
        assert_eq!(ranges(&[1, 3, 4, 5, 7, 8]), "1, 3 to 5, 7 to 8");
    }

    #[test]
    fn who_uses_a_version_is_counted_and_who_cannot_is_named() {
        let process = |role: &str, version| InUse { roles: vec![role.into()], version, refused: None };
        let problems = vec!["providers.x: this process's own file has no such provider".to_owned()];
        let refusing = InUse { refused: Some(Refused { version: 4, problems }), ..process("worker", 3) };
        let found =
            [process("router", 4), process("router", 4), process("ledger", 4), refusing, process("ask", 3)];
        insta::assert_snapshot!(told(&found, 4).join("\n"), @r"
        in use by: 1 ledger, 2 routers
        not by one worker, which cannot use it:
          providers.x: this process's own file has no such provider
        not by one ask, which uses version 3
        ");
        assert_eq!(told(&found[..1], 3), ["in use by: 1 router", "version 4 was applied after it"]);
        assert!(told(&[], 4)[0].contains("no process answers"));
    }
}
