//! One field at a time, so that the problem can name it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::meta::{self, TAG_NAME_LENGTH_MAX, TAGS_MAX, TEXT_LENGTH_MAX};
use crate::{ErrorCode, Problem, Timestamp};

pub(super) type Raw<'a> = Option<&'a RawValue>;

pub(super) fn invalid(field: &str, expected: impl AsRef<str>) -> Problem {
    Problem::at(ErrorCode::InvalidField, field, format!("{field}: expected {}", expected.as_ref()))
}

pub(super) fn read<'a, T: Deserialize<'a>>(
    raw: &'a RawValue,
    field: &str,
    expected: &str,
) -> Result<T, Problem> {
    // The error's own text may quote the value, which may be content: it is not passed on.
    serde_json::from_str(raw.get()).map_err(|_| invalid(field, expected))
}

pub(super) fn text<'a>(raw: Raw<'a>, field: &str) -> Result<Option<Cow<'a, str>>, Problem> {
    raw.map(|raw| string(raw, field)).transpose()
}

pub(super) fn string<'a>(raw: &'a RawValue, field: &str) -> Result<Cow<'a, str>, Problem> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    read::<Text<'a>>(raw, field, "a string").map(|text| text.0)
}

pub(super) fn label(raw: Raw<'_>, field: &str) -> Result<Option<String>, Problem> {
    text(raw, field)?.map(|text| checked_label(&text, field)).transpose()
}

pub(super) fn checked_label(text: &str, field: &str) -> Result<String, Problem> {
    if meta::is_label(text, TEXT_LENGTH_MAX) {
        Ok(text.to_owned())
    } else {
        Err(invalid(field, format!("1 to {TEXT_LENGTH_MAX} bytes without control characters")))
    }
}

pub(super) fn tags(raw: Raw<'_>) -> Result<BTreeMap<String, String>, Problem> {
    match raw {
        Some(raw) => checked_tags(read(raw, "tags", "an object of strings")?),
        None => Ok(BTreeMap::new()),
    }
}

pub(super) fn checked_tags(tags: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Problem> {
    if tags.len() > TAGS_MAX {
        return Err(invalid("tags", format!("at most {TAGS_MAX} tags")));
    }
    for (name, value) in &tags {
        if !meta::is_label(name, TAG_NAME_LENGTH_MAX) || !meta::is_label(value, TEXT_LENGTH_MAX) {
            let message = format!(
                "names of 1 to {TAG_NAME_LENGTH_MAX} and values of 1 to {TEXT_LENGTH_MAX} bytes without control characters"
            );
            return Err(invalid("tags", message));
        }
    }
    Ok(tags)
}

/// `name=value,name=value`, as the header of a bare request has it.
pub(super) fn header_tags(text: Option<&str>) -> Result<BTreeMap<String, String>, Problem> {
    let mut tags = BTreeMap::new();
    for pair in text.unwrap_or_default().split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(|| invalid("tags", "name=value,name=value"))?;
        tags.insert(name.trim().to_owned(), value.trim().to_owned());
    }
    checked_tags(tags)
}

/// A count that must be at least one.
pub(super) fn positive(raw: Raw<'_>, field: &str) -> Result<Option<u64>, Problem> {
    let Some(raw) = raw else { return Ok(None) };
    match read::<u64>(raw, field, "a whole number of at least 1")? {
        0 => Err(invalid(field, "a whole number of at least 1")),
        count => Ok(Some(count)),
    }
}

pub(super) fn instant(text: &str, field: &str) -> Result<Timestamp, Problem> {
    chrono::DateTime::parse_from_rfc3339(text).map(|time| time.to_utc()).map_err(|_| {
        Problem::at(
            ErrorCode::InvalidDeadline,
            field,
            format!("{field}: expected an RFC 3339 time with a zone"),
        )
    })
}

/// An inbox is the only subject the broker ever replies to: anything else would let a client make it
/// publish wherever it likes.
pub(super) fn inbox(text: &str) -> Result<String, Problem> {
    let rest = text.strip_prefix("_INBOX");
    let valid = text.len() <= 256
        && rest.is_some_and(|rest| rest.starts_with(['.', '_']))
        && text.split('.').all(|token| {
            !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic() && !b"*>".contains(&byte))
        })
        && text.contains('.');
    if valid {
        Ok(text.to_owned())
    } else {
        let message = "reply_to: expected an inbox: a subject that begins with _INBOX, without wildcards";
        Err(Problem::at(ErrorCode::InvalidReplyTo, "reply_to", message))
    }
}
