//! The question of `usage.query`, checked; and its answer, added up.
//!
//! Everything is exact for whole hours of UTC, which is what rows are kept by: `from` is rounded down and
//! `to` up to the hour, and the answer says which hours it is about.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tollgate_protocol::{ErrorCode, Problem, Sequence, Timestamp};

use crate::key::{self, Label, MAIN_LABELS};
use crate::row::Row;

mod answer;
#[cfg(test)]
mod tests;

pub use answer::{Sums, answer};

/// Most rows of an answer.
pub const ROWS_MAX: usize = 10_000;

/// How a value beyond a cap is named.
pub const OTHER: &str = "(other)";

/// How rows are divided by time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bucket {
    /// By hour.
    Hour,
    /// By day, UTC.
    Day,
    /// Not at all.
    #[default]
    Total,
}

/// A question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Request {
    /// What to divide by: `team`, one of [`MAIN_LABELS`], `user` or `tag:NAME`.
    pub by: Vec<String>,
    /// Events from this time on.
    pub from: Option<Timestamp>,
    /// Events before this time.
    pub to: Option<Timestamp>,
    /// Only events with these values; `null` is for events without one.
    #[serde(rename = "where")]
    pub only: BTreeMap<String, Option<String>>,
    /// How to divide by time.
    pub bucket: Bucket,
}

/// One row of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerRow {
    /// When its hour or day begins; absent if the answer is not divided by time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// The numbers.
    #[serde(flatten)]
    pub sums: Row,
    /// A value for everything in `by`; `null` for events without one.
    #[serde(flatten)]
    pub labels: BTreeMap<String, Option<String>>,
}

/// How fresh an answer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsOf {
    /// The last event of the usage stream that is in it.
    pub sequence: Sequence,
    /// The last event of the stream, if the server could be asked.
    pub stream_last_sequence: Option<Sequence>,
    /// How many events that is behind.
    pub lag: Option<u64>,
    /// Messages of the stream that are no usage event.
    pub skipped: u64,
    /// Events that the stream no longer had when they were to be folded.
    pub missing: u64,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// In the order of time and labels.
    pub rows: Vec<AnswerRow>,
    /// The sum over all that was asked for, cut rows included.
    pub total: Row,
    /// Whether there are more rows than an answer may have.
    pub truncated: bool,
    /// The first hour that was added up; absent: from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// The end of the last hour that was added up; absent: to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Timestamp>,
    /// How fresh it is.
    pub as_of: AsOf,
}

/// What is divided by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dimension {
    /// The team.
    Team,
    /// A position in [`MAIN_LABELS`].
    Main(usize),
    /// The user.
    User,
    /// The tag of this name.
    Tag(String),
}

impl Dimension {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "team" => Some(Self::Team),
            "user" => Some(Self::User),
            _ => match name.strip_prefix("tag:") {
                Some("") => None,
                Some(tag) => Some(Self::Tag(tag.to_owned())),
                None => MAIN_LABELS.iter().position(|label| *label == name).map(Self::Main),
            },
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Team => "team".into(),
            Self::Main(position) => MAIN_LABELS[*position].into(),
            Self::User => "user".into(),
            Self::Tag(tag) => format!("tag:{tag}"),
        }
    }
}

/// Which table has the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The main table.
    Main,
    /// The table of users.
    Users,
    /// The table of tags, for this name.
    Tag(String),
}

/// A question that can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The table.
    pub source: Source,
    /// What to divide by.
    pub by: Vec<Dimension>,
    /// Which events.
    pub only: Vec<(Dimension, Option<String>)>,
    /// The hours: from the first, included, to the second, excluded.
    pub hours: (u32, u32),
    /// How to divide by time.
    pub bucket: Bucket,
    /// Most rows.
    pub rows_max: usize,
}

/// Reads and checks a question; an empty one asks for the total.
pub fn parse(payload: &[u8]) -> Result<(Request, Query), Problem> {
    let request: Request = if payload.is_empty() {
        Request::default()
    } else {
        serde_json::from_slice(payload).map_err(|error| {
            Problem::new(ErrorCode::InvalidEnvelope, format!("the query cannot be read: {error}"))
        })?
    };
    let query = check(&request)?;
    Ok((request, query))
}

fn check(request: &Request) -> Result<Query, Problem> {
    let mut by = Vec::new();
    for name in &request.by {
        let dimension = dimension(name, "by")?;
        if by.contains(&dimension) {
            return Err(Problem::at(ErrorCode::InvalidField, "by", format!("{name:?} is there twice")));
        }
        by.push(dimension);
    }
    let mut only = Vec::new();
    for (name, value) in &request.only {
        only.push((dimension(name, "where")?, value.clone()));
    }
    let from = request.from.map_or(0, key::hour_of);
    let to = request.to.map_or(u32::MAX, |to| {
        let hour = key::hour_of(to);
        if key::start_of(hour) < to { hour.saturating_add(1) } else { hour }
    });
    if request.from.zip(request.to).is_some_and(|(from, to)| from >= to) {
        return Err(Problem::at(ErrorCode::InvalidField, "to", "`to` must be after `from`"));
    }
    let source = source(by.iter().chain(only.iter().map(|(dimension, _)| dimension)))?;
    Ok(Query { source, by, only, hours: (from, to), bucket: request.bucket, rows_max: ROWS_MAX })
}

fn dimension(name: &str, field: &str) -> Result<Dimension, Problem> {
    Dimension::parse(name).ok_or_else(|| {
        let known = MAIN_LABELS.join(", ");
        let hint = if matches!(name, "hour" | "day") { "; for time use \"bucket\"" } else { "" };
        Problem::at(
            ErrorCode::InvalidField,
            field,
            format!("unknown dimension {name:?}: expected team, {known}, user or tag:NAME{hint}"),
        )
    })
}

/// Users and tags have tables of their own, so they cannot be combined with each other or with more than
/// the team.
fn source<'a>(dimensions: impl Iterator<Item = &'a Dimension>) -> Result<Source, Problem> {
    let (mut special, mut main) = (None::<&Dimension>, None::<&Dimension>);
    for dimension in dimensions {
        match dimension {
            Dimension::Team => {}
            Dimension::Main(_) => main = Some(dimension),
            Dimension::User | Dimension::Tag(_) => match special {
                Some(other) if other != dimension => return Err(unmixable(other, dimension)),
                _ => special = Some(dimension),
            },
        }
    }
    match (special, main) {
        (Some(special), Some(main)) => Err(unmixable(special, main)),
        (Some(Dimension::Tag(tag)), None) => Ok(Source::Tag(tag.clone())),
        (Some(_), None) => Ok(Source::Users),
        (None, _) => Ok(Source::Main),
    }
}

fn unmixable(special: &Dimension, other: &Dimension) -> Problem {
    let (special, other) = (special.name(), other.name());
    Problem::at(
        ErrorCode::InvalidField,
        "by",
        format!(
            "{special:?} and {other:?} cannot be combined: the ledger keeps totals of {special:?} by team and hour only"
        ),
    )
}

impl Answer {
    /// Puts an answer together.
    pub fn new(request: &Request, query: &Query, sums: Sums, as_of: AsOf) -> Self {
        let rows = sums
            .groups
            .into_iter()
            .map(|(group, sums)| AnswerRow {
                time: (query.bucket != Bucket::Total).then(|| key::start_of(group.hour)),
                labels: query
                    .by
                    .iter()
                    .map(Dimension::name)
                    .zip(group.labels.into_iter().map(text_of))
                    .collect(),
                sums,
            })
            .collect();
        Self {
            rows,
            total: sums.total,
            truncated: sums.truncated,
            from: request.from.map(|_| key::start_of(query.hours.0)),
            to: request.to.map(|_| key::start_of(query.hours.1)),
            as_of,
        }
    }

    /// As JSON of at most `size_max` bytes, with as many rows as fit; `None` if not even the total does.
    pub fn encode(mut self, size_max: usize) -> Result<Option<Vec<u8>>, serde_json::Error> {
        loop {
            let json = serde_json::to_vec(&self)?;
            if json.len() <= size_max {
                return Ok(Some(json));
            }
            if self.rows.is_empty() {
                return Ok(None);
            }
            self.rows.truncate(self.rows.len() / 2);
            self.truncated = true;
        }
    }
}

fn text_of(label: Label) -> Option<String> {
    match label {
        Label::Absent => None,
        Label::Other => Some(OTHER.into()),
        Label::Text(text) => Some(text),
    }
}
