//! Reads an OpenAI batch file and checks it as a whole, so that nothing is sent of a file that has a fault.
//!
//! Only what makes a line unusable is checked here: whether a model exists or a parameter is allowed is for
//! the broker and the provider to say, and comes back as that line's answer.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tollgate_protocol::json::depth;
use tollgate_protocol::request::{BODY_BYTES_MAX, DEPTH_MAX, Endpoint};

/// A file without faults.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    text: Bytes,
    /// Its lines, in the order of the file; at least one, and no two with the same `custom_id`.
    pub(crate) lines: Vec<Line>,
}

/// One request of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Where it stands, from 1.
    pub(crate) number: usize,
    /// The name its author gave it.
    pub(crate) custom_id: String,
    /// What its `url` means.
    pub(crate) endpoint: Endpoint,
    body: Range<usize>,
}

/// Something that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct InputProblem {
    /// The line, from 1; 0 for the file as a whole.
    pub(crate) line: usize,
    /// What OpenAI calls it, where OpenAI has a name for it.
    pub(crate) code: &'static str,
    /// What is wrong and what would be right.
    pub(crate) message: String,
}

impl std::fmt::Display for InputProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.code, self.message),
            line => write!(f, "line {line}: {}: {}", self.code, self.message),
        }
    }
}

impl Batch {
    /// The JSON text of a line's body, exactly as it stands in the file.
    pub(crate) fn body(&self, line: &Line) -> &[u8] {
        self.text.get(line.body.clone()).unwrap_or_default()
    }

    /// The whole file.
    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }
}

#[derive(Deserialize)]
struct RawLine<'a> {
    #[serde(borrow, default)]
    custom_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<&'a RawValue>,
    #[serde(borrow, default)]
    url: Option<&'a RawValue>,
    #[serde(borrow, default)]
    body: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawBody<'a> {
    #[serde(borrow, default)]
    stream: Option<&'a RawValue>,
}

/// Reads a file, or names everything that is wrong with it, in the order of its lines. Lines of nothing but
/// spaces are skipped, a byte order mark too.
pub(crate) fn read(text: Bytes) -> Result<Batch, Vec<InputProblem>> {
    let (mut lines, mut problems) = (Vec::new(), Vec::new());
    let mut seen: HashMap<String, usize> = HashMap::new();
    let start = if text.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let mut at = start;
    for (index, raw) in text[start..].split(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        let offset = at;
        at += raw.len() + 1;
        if raw.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match read_line(raw, number, offset) {
            Ok(line) => match seen.insert(line.custom_id.clone(), number) {
                None => lines.push(line),
                Some(first) => problems.push(InputProblem {
                    line: number,
                    code: "duplicate_custom_id",
                    message: format!("custom_id {:?} stands on line {first} already", line.custom_id),
                }),
            },
            Err(found) => problems.extend(found),
        }
    }
    if lines.is_empty() && problems.is_empty() {
        let message = "no line with a request; expected one JSON object on each line".to_owned();
        problems.push(InputProblem { line: 0, code: "empty_file", message });
    }
    if problems.is_empty() { Ok(Batch { text, lines }) } else { Err(problems) }
}

fn read_line(raw: &[u8], number: usize, offset: usize) -> Result<Line, Vec<InputProblem>> {
    let problem = |code, message: String| InputProblem { line: number, code, message };
    // The broker counts the envelope around the body as one level, as the line does here.
    let levels = depth(raw);
    if levels > DEPTH_MAX {
        let message = format!("{levels} levels of nesting, the limit is {DEPTH_MAX}");
        return Err(vec![problem("too_deep", message)]);
    }
    // The parser would take an array for the fields in their order.
    if !raw.trim_ascii_start().starts_with(b"{") {
        return Err(vec![problem("invalid_json_line", "not a JSON object".into())]);
    }
    let line: RawLine<'_> = match serde_json::from_slice(raw) {
        Ok(line) => line,
        Err(error) => return Err(vec![problem("invalid_json_line", json_message(raw, &error))]),
    };
    let mut problems = Vec::new();
    let custom_id = text_field(line.custom_id, "custom_id", "a name of your own").and_then(|id| {
        if id.is_empty() { Err("custom_id is empty; expected a name of your own".to_owned()) } else { Ok(id) }
    });
    let method = text_field(line.method, "method", "\"POST\"").and_then(|method| match method.as_str() {
        "POST" => Ok(()),
        other => Err(format!("method is {other:?}, expected \"POST\"")),
    });
    let endpoint = text_field(line.url, "url", "such as \"/v1/chat/completions\"")
        .and_then(|url| endpoint_of(&url).ok_or_else(|| unknown_url(&url)));
    let body = read_body(line.body);
    let mut collect = |code, message: Option<String>| {
        if let Some(message) = message {
            problems.push(problem(code, message));
        }
    };
    collect("missing_required_parameter", custom_id.as_ref().err().cloned());
    collect("invalid_method", method.err());
    collect("invalid_url", endpoint.as_ref().err().cloned());
    if let Err((code, message)) = &body {
        collect(code, Some(message.clone()));
    }
    match (custom_id, endpoint, body) {
        (Ok(custom_id), Ok(endpoint), Ok(body)) if problems.is_empty() => {
            let from = offset + (body.as_ptr() as usize - raw.as_ptr() as usize);
            Ok(Line { number, custom_id, endpoint, body: from..from + body.len() })
        }
        _ => Err(problems),
    }
}

fn read_body(body: Option<&RawValue>) -> Result<&str, (&'static str, String)> {
    let Some(body) = body else {
        return Err(("missing_body", "body is missing; expected the JSON object of the request".into()));
    };
    let text = body.get();
    if text.len() > BODY_BYTES_MAX {
        let message = format!("body has {} bytes, the limit is {BODY_BYTES_MAX}", text.len());
        return Err(("request_too_large", message));
    }
    if !text.starts_with('{') {
        return Err(("invalid_body", "body is not an object".into()));
    }
    let head: RawBody<'_> =
        serde_json::from_str(text).map_err(|error| ("invalid_body", format!("body: {error}")))?;
    if head.stream.is_some_and(|stream| stream.get() == "true") {
        let message = "body.stream is true; a batch has no stream, leave it out".to_owned();
        return Err(("invalid_body", message));
    }
    Ok(text)
}

fn text_field(raw: Option<&RawValue>, name: &str, expected: &str) -> Result<String, String> {
    let Some(raw) = raw else {
        return Err(format!("{name} is missing; expected a string, {expected}"));
    };
    serde_json::from_str(raw.get()).map_err(|_| format!("{name} is not a string; expected {expected}"))
}

/// `/v1/chat/completions` and its like.
fn endpoint_of(url: &str) -> Option<Endpoint> {
    Endpoint::ALL.into_iter().find(|endpoint| url_of(*endpoint) == url)
}

fn url_of(endpoint: Endpoint) -> String {
    format!("/v1/{}", endpoint.as_str().replace('.', "/"))
}

fn unknown_url(url: &str) -> String {
    let known: Vec<String> = Endpoint::ALL.into_iter().map(url_of).collect();
    format!("url {url:?} is not known; expected one of {}", known.join(", "))
}

/// The parser counts lines from 1 and this text is always its line 1, so only the column is of use.
fn json_message(raw: &[u8], error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or(&text);
    if std::str::from_utf8(raw).is_err() {
        return "not UTF-8 text".into();
    }
    format!("not a JSON object: {reason} (column {})", error.column())
}

#[cfg(test)]
mod tests;
