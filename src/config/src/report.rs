//! Everything that is wrong with a file, each with its place.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use toml::de::DeValue;

use crate::read::Node;

/// Why a configuration cannot be used. Has at least one problem, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The file as it was named to [`crate::load`].
    pub file_name: String,
    /// All that is wrong.
    pub problems: Vec<ConfigProblem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigProblem {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The key, as `providers.openai.max_in_flight`; empty where the text is not TOML at all.
    pub path: String,
    /// What was expected, and what was found.
    pub message: String,
}

impl ConfigProblem {
    /// The key and what is wrong, where lines mean nothing to anybody.
    pub fn without_place(&self) -> String {
        if self.path.is_empty() { self.message.clone() } else { format!("{}: {}", self.path, self.message) }
    }
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// One line for each problem: `tollgate.toml:12:5: providers.openai.max_in_flight: expected …`.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{}:{problem}", self.file_name)?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

/// The place of a key or value: where it stands in the text, and how its path is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) span: Range<usize>,
    pub(crate) path: String,
}

impl Place {
    /// The whole file.
    pub(crate) fn root() -> Self {
        Self { span: 0..0, path: String::new() }
    }

    /// The path of a key below this place. A key that TOML would quote is quoted.
    pub(crate) fn key(&self, key: &str) -> String {
        let bare = !key.is_empty()
            && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        let key = if bare { key.to_owned() } else { shortened(key) };
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }

    /// A key below this place that is not there: it is missed here.
    pub(crate) fn at_key(&self, key: &str) -> Self {
        Self { span: self.span.clone(), path: self.key(key) }
    }
}

/// A text in a message: escaped, and never longer than a line.
pub(crate) fn shortened(text: &str) -> String {
    const SHOWN_MAX: usize = 60;
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Collects problems and warnings while a file is read, so that one does not hide the next.
pub(crate) struct Findings<'a> {
    text: &'a str,
    file_name: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
    problems: Vec<ConfigProblem>,
    warnings: Vec<ConfigProblem>,
}

impl<'a> Findings<'a> {
    pub(crate) fn new(text: &'a str, file_name: &'a str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(newline, _)| newline + 1));
        Self { text, file_name, lines: lines.collect(), problems: Vec::new(), warnings: Vec::new() }
    }

    pub(crate) fn problem(&mut self, place: &Place, message: impl Into<String>) {
        self.problems.push(self.at(place, message.into()));
    }

    pub(crate) fn warning(&mut self, place: &Place, message: impl Into<String>) {
        self.warnings.push(self.at(place, message.into()));
    }

    /// Notes that a value is not what it should be.
    pub(crate) fn mismatch<T>(&mut self, node: &Node<'_>, place: &Place, expected: &str) -> Option<T> {
        self.problem(place, format!("expected {expected}, found {}", self.shown(node)));
        None
    }

    /// A value as the file has it.
    pub(crate) fn shown(&self, node: &Node<'_>) -> String {
        match node.get_ref() {
            DeValue::String(text) => shortened(text),
            DeValue::Array(_) => "an array".into(),
            DeValue::Table(_) => "a table".into(),
            _ => self.text.get(node.span()).unwrap_or_default().chars().take(60).collect(),
        }
    }

    /// The text is not TOML at `span`. What else was found on the lines of such problems comes of reading
    /// broken text, and is taken back at the end.
    pub(crate) fn syntax(&mut self, span: Range<usize>, message: &str) {
        let message = format!("this is not TOML: {message}");
        self.problem(&Place { span, path: String::new() }, message);
    }

    /// Takes back problems that are none here.
    pub(crate) fn excuse(&mut self, is_none: impl Fn(&ConfigProblem) -> bool) {
        self.problems.retain(|problem| !is_none(problem));
    }

    /// The warnings of a file without problems, or everything that is wrong with it.
    pub(crate) fn finish(self) -> Result<Vec<String>, Report> {
        let Self { file_name, mut problems, mut warnings, .. } = self;
        if problems.is_empty() {
            warnings.sort();
            return Ok(warnings.iter().map(|warning| format!("{file_name}:{warning}")).collect());
        }
        let broken: BTreeSet<usize> =
            problems.iter().filter(|problem| problem.path.is_empty()).map(|problem| problem.line).collect();
        problems.retain(|problem| problem.path.is_empty() || !broken.contains(&problem.line));
        problems.sort();
        problems.dedup();
        Err(Report { file_name: file_name.into(), problems })
    }

    fn at(&self, place: &Place, message: String) -> ConfigProblem {
        let line = self.lines.partition_point(|begin| *begin <= place.span.start);
        let begin = self.lines[line - 1];
        let before = self.text.get(begin..place.span.start).unwrap_or_default();
        ConfigProblem { line, column: before.chars().count() + 1, path: place.path.clone(), message }
    }
}
