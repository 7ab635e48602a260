//! What a batch command works on, put together from its arguments and its file before anything is sent.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};

use async_nats::HeaderMap;
use clap::Args;
use tollgate_protocol::{Digest, Group, Priority, RequestId, Team};

use super::batch::{self, Batch, InputProblem, Labels};
use super::gather::Sink;
use super::submit::SubmitArgs;
use crate::failure::Failure;

/// Most problems of a file that are listed.
const PROBLEMS_SHOWN: usize = 100;
/// Room for subject and headers, which the server counts in.
const HEADERS_BYTES_MAX: usize = 1_024;

/// The team of who names none.
const TEAM: &str = "default";

/// The team.
#[derive(Clone, Debug, Args)]
pub(crate) struct TeamArg {
    /// The team
    #[arg(long, env = "TOLLGATE_TEAM", default_value = TEAM)]
    pub(crate) team: String,
}

impl TeamArg {
    /// As the protocol has it.
    pub(crate) fn parse(&self) -> Result<Team, Failure> {
        Team::parse(&self.team).map_err(|error| Failure::usage(format!("--team {:?}: {error}", self.team)))
    }
}

/// The team where none is named.
pub(crate) fn default_team() -> Result<Team, Failure> {
    TeamArg { team: TEAM.to_owned() }.parse()
}

/// Where the results go.
#[derive(Clone, Debug, Args)]
pub(crate) struct Paths {
    /// Where to write the answers [default: FILE with .out.jsonl in place of .jsonl]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Where to write what failed; not written if nothing did [default: FILE with .errors.jsonl]
    #[arg(long, value_name = "FILE")]
    pub(crate) errors: Option<PathBuf>,
}

impl Paths {
    /// The two files: as given, or next to the input, or named after the group in this folder.
    pub(crate) fn resolve(&self, input: Option<&Path>, group: &Group) -> Result<(PathBuf, PathBuf), Failure> {
        let input = input.filter(|input| *input != Path::new("-"));
        let stem = match input {
            Some(input) if input.extension().is_some_and(|extension| extension == "jsonl") => {
                input.with_extension("")
            }
            Some(input) => input.to_owned(),
            None => PathBuf::from(group.as_str()),
        };
        let named = |end: &str| {
            let mut name = stem.as_os_str().to_owned();
            name.push(end);
            PathBuf::from(name)
        };
        let out = self.out.clone().unwrap_or_else(|| named(".out.jsonl"));
        let errors = self.errors.clone().unwrap_or_else(|| named(".errors.jsonl"));
        let same =
            [(Some(out.as_path()), Some(errors.as_path())), (Some(&out), input), (Some(&errors), input)];
        if same.iter().any(|(one, other)| one.is_some() && one == other) {
            return Err(Failure::usage("the input, --out and --errors must be three different files"));
        }
        Ok((out, errors))
    }
}

/// A checked file under its identities.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The team.
    pub(crate) team: Team,
    /// The group.
    pub(crate) group: Group,
    /// The priority.
    pub(crate) priority: Priority,
    batch: Batch,
    ids: Vec<RequestId>,
    by_id: HashMap<RequestId, usize>,
    by_custom_id: HashMap<String, usize>,
    labels: Labels,
    /// Whether the group is not the file's own, so that it may hold answers to other requests.
    group_is_given: bool,
}

impl Plan {
    /// What `submit` is about to do.
    pub(crate) fn for_submit(args: &SubmitArgs) -> Result<Self, Failure> {
        let team = args.team.parse()?;
        let tags: BTreeMap<String, String> = args.tags.iter().cloned().collect();
        let labels = Labels {
            project: args.project.clone(),
            user: args.end_user.clone(),
            task: args.task.clone(),
            tags,
            ttl_ms: args.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
        };
        let problems = labels.problems();
        if !problems.is_empty() {
            return Err(Failure::usage(problems.join("\n")));
        }
        let mut plan = Self::for_file(&args.file, team, args.group.as_deref())?;
        (plan.labels, plan.priority) = (labels, args.priority);
        Ok(plan)
    }

    /// The requests of a file.
    pub(crate) fn for_file(file: &Path, team: Team, group: Option<&str>) -> Result<Self, Failure> {
        let group = group.map(parse_group).transpose()?;
        let text = read_file(file)?;
        let batch = batch::read(text.into()).map_err(|problems| refuse(file, &problems))?;
        Ok(Self::of(batch, team, group))
    }

    fn of(batch: Batch, team: Team, given: Option<Group>) -> Self {
        let group_is_given = given.is_some();
        let group = given.unwrap_or_else(|| batch::default_group(batch.text()));
        let ids: Vec<RequestId> =
            batch.lines.iter().map(|line| batch::request_id(&team, &group, &line.custom_id)).collect();
        let by_id = ids.iter().cloned().zip(0..).collect();
        let by_custom_id = batch.lines.iter().map(|line| line.custom_id.clone()).zip(0..).collect();
        let (priority, labels) = (Priority::Low, Labels::default());
        Self { team, group, priority, batch, ids, by_id, by_custom_id, labels, group_is_given }
    }

    /// For reading only: with what options the requests were sent is not known, so any answer is theirs.
    pub(crate) fn for_reading(self) -> Self {
        Self { group_is_given: false, ..self }
    }

    /// How many requests there are; at least one.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// The id of a request.
    pub(crate) fn id(&self, index: usize) -> &RequestId {
        &self.ids[index]
    }

    /// The name that the file's author gave a request.
    pub(crate) fn custom_id(&self, index: usize) -> &str {
        &self.batch.lines[index].custom_id
    }

    /// The id of the request with this `custom_id`.
    pub(crate) fn id_of(&self, custom_id: &str) -> Option<&RequestId> {
        self.by_custom_id.get(custom_id).map(|index| &self.ids[*index])
    }

    /// The request with this id.
    pub(crate) fn index_of(&self, id: &str) -> Option<usize> {
        self.by_id.get(&RequestId::parse(id).ok()?).copied()
    }

    /// The message of a request.
    pub(crate) fn payload(&self, index: usize) -> Result<Vec<u8>, Failure> {
        let line = &self.batch.lines[index];
        batch::payload(&self.batch, line, &self.group, &self.ids[index], &self.labels)
            .map_err(|error| Failure::usage(format!("line {}: {error}", line.number)))
    }

    /// Whether an answer is to this very request. In the file's own group it always is; in a group that was
    /// named, the same `custom_id` may have been used before.
    pub(crate) fn is_answer_to(&self, index: usize, digest: Option<&str>) -> bool {
        let Some(digest) = digest.filter(|_| self.group_is_given).and_then(Digest::parse) else {
            return true;
        };
        self.payload(index).is_ok_and(|payload| Digest::of(&payload) == digest)
    }

    /// Refuses a file with requests that the server would not take.
    pub(crate) fn check_sizes(&self, max_payload: usize) -> Result<(), Failure> {
        let too_large: Vec<usize> = (0..self.len())
            .filter(|index| {
                let body = self.batch.body(&self.batch.lines[*index]).len();
                body + HEADERS_BYTES_MAX + 8_192 > max_payload
                    && self.payload(*index).map_or(0, |payload| payload.len()) + HEADERS_BYTES_MAX
                        > max_payload
            })
            .map(|index| self.batch.lines[index].number)
            .collect();
        if too_large.is_empty() {
            return Ok(());
        }
        Err(Failure::usage(format!(
            "lines {too_large:?} are larger than the nats-server takes ({max_payload} bytes). Nothing was sent; \
             raise max_payload in its configuration"
        )))
    }

    /// All requests, as the ones without an answer yet.
    pub(crate) fn all(&self) -> Open<'_> {
        Open { plan: self, indices: (0..self.len()).collect() }
    }
}

/// The requests of a plan that have no answer yet.
#[derive(Clone, Debug)]
pub(crate) struct Open<'a> {
    plan: &'a Plan,
    indices: BTreeSet<usize>,
}

impl Open<'_> {
    /// Takes out the request with this id. `None` if it is none of the plan's, or was answered before.
    pub(crate) fn remove_id(&mut self, id: &str) -> Option<usize> {
        let index = self.plan.index_of(id)?;
        self.indices.remove(&index).then_some(index)
    }

    /// Takes out the request with this `custom_id`.
    pub(crate) fn remove_custom_id(&mut self, custom_id: &str) {
        if let Some(index) = self.plan.by_custom_id.get(custom_id) {
            self.indices.remove(index);
        }
    }

    /// In the order of the file.
    pub(crate) fn indices(&self) -> Vec<usize> {
        self.indices.iter().copied().collect()
    }

    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.indices.len()
    }
}

/// Waiting without wanting the answers themselves.
impl Sink for Open<'_> {
    fn take(&mut self, id: &str, _: &HeaderMap, _: &[u8]) -> Result<(), Failure> {
        self.remove_id(id);
        Ok(())
    }

    fn remaining(&self) -> usize {
        self.len()
    }

    fn tick(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

/// A group as it is typed.
pub(crate) fn parse_group(text: &str) -> Result<Group, Failure> {
    Group::parse(text).map_err(|error| Failure::usage(format!("group {text:?}: {error}")))
}

/// A priority as it is typed.
pub(crate) fn priority(text: &str) -> Result<Priority, String> {
    text.parse().map_err(|()| "expected high, normal or low".to_owned())
}

/// A tag as it is typed.
pub(crate) fn tag(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected name=value")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn read_file(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut text)
    } else {
        std::fs::File::open(file).and_then(|mut file| file.read_to_end(&mut text))
    };
    match read {
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::usage(format!("cannot read {}: {error}", file.display()))),
    }
}

fn refuse(file: &Path, problems: &[InputProblem]) -> Failure {
    let mut text = format!("{} cannot be submitted, and nothing was sent:", file.display());
    for problem in problems.iter().take(PROBLEMS_SHOWN) {
        text.push_str(&format!("\n  {problem}"));
    }
    if problems.len() > PROBLEMS_SHOWN {
        text.push_str(&format!("\n  and {} more", problems.len() - PROBLEMS_SHOWN));
    }
    text.push_str("\nEach line must be {\"custom_id\": …, \"method\": \"POST\", \"url\": \"/v1/chat/completions\", \"body\": {…}}");
    Failure::usage(text)
}

#[cfg(test)]
mod tests;
