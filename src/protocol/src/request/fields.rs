//! One field at a time, so that the problem can name it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::meta::{self, TAG_NAME_LENGTH_MAX, TAGS_MAX, TEXT_LENGTH_MAX};
use crate::{ErrorCode, Problem};

/// A field that is not read yet. Absent and `null` are the same.
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

/// The field that stands twice, if that is the error. Only ever a name that our own type has.
pub(super) fn duplicate(error: &serde_json::Error) -> Option<&'static str> {
    const NAMES: [&str; 27] = [
        "id",
        "group",
        "endpoint",
        "body",
        "project",
        "user",
        "task",
        "tags",
        "deadline",
        "ttl_ms",
        "not_before",
        "reply_to",
        "callback",
        "fallbacks",
        "cache",
        "max_cost_usd",
        "on_limit",
        "messages",
        "input",
        "prompt",
        "stream",
        "seq",
        "error",
        "model",
        "max_tokens",
        "max_completion_tokens",
        "n",
    ];
    let text = error.to_string();
    let name = text.strip_prefix("duplicate field `")?.split('`').next()?;
    NAMES.into_iter().find(|known| *known == name)
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

/// A count that must be at least one.
pub(super) fn positive(raw: Raw<'_>, field: &str) -> Result<Option<u64>, Problem> {
    let Some(raw) = raw else { return Ok(None) };
    match read::<u64>(raw, field, "a whole number of at least 1")? {
        0 => Err(invalid(field, "a whole number of at least 1")),
        count => Ok(Some(count)),
    }
}

/// Hands the elements of an array on, one by one, and stops at the first that is refused: a million of
/// them are never held at once.
pub(super) fn each<'a>(
    raw: &'a RawValue,
    field: &str,
    expected: &str,
    take: &mut dyn FnMut(&'a RawValue) -> Result<(), Problem>,
) -> Result<(), Problem> {
    struct Elements<'f, 'a> {
        take: &'f mut dyn FnMut(&'a RawValue) -> Result<(), Problem>,
        refused: &'f mut Option<Problem>,
    }

    impl<'a> Visitor<'a> for Elements<'_, 'a> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'a>>(self, mut elements: A) -> Result<(), A::Error> {
            while let Some(element) = elements.next_element()? {
                (self.take)(element).map_err(|problem| {
                    *self.refused = Some(problem);
                    serde::de::Error::custom("refused")
                })?;
            }
            Ok(())
        }
    }

    let mut refused = None;
    serde_json::Deserializer::from_str(raw.get())
        .deserialize_seq(Elements { take, refused: &mut refused })
        .map_err(|_| refused.unwrap_or_else(|| invalid(field, expected)))
}

pub(super) fn tags(raw: Raw<'_>) -> Result<BTreeMap<String, String>, Problem> {
    let Some(raw) = raw else { return Ok(BTreeMap::new()) };
    let mut tags = Tags::default();
    let read = tags.deserialize(&mut serde_json::Deserializer::from_str(raw.get()));
    read.map_err(|_| tags.refused.unwrap_or_else(|| invalid("tags", "an object of strings")))?;
    Ok(tags.tags)
}

/// `name=value,name=value`, as the header of a bare request has it.
pub(super) fn header_tags(text: Option<&str>) -> Result<BTreeMap<String, String>, Problem> {
    let mut tags = Tags::default();
    for pair in text.unwrap_or_default().split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(|| invalid("tags", "name=value,name=value"))?;
        tags.add(name.trim().to_owned(), value.trim().to_owned())?;
    }
    Ok(tags.tags)
}

/// Tags while they are read: checked one by one, so that a million of them are never held at once.
#[derive(Default)]
struct Tags {
    tags: BTreeMap<String, String>,
    refused: Option<Problem>,
}

impl Tags {
    fn add(&mut self, name: String, value: String) -> Result<(), Problem> {
        if !meta::is_label(&name, TAG_NAME_LENGTH_MAX) || !meta::is_label(&value, TEXT_LENGTH_MAX) {
            let message = format!(
                "names of 1 to {TAG_NAME_LENGTH_MAX} and values of 1 to {TEXT_LENGTH_MAX} bytes without control characters"
            );
            return Err(invalid("tags", message));
        }
        if self.tags.insert(name, value).is_some() {
            return Err(invalid("tags", "every tag once"));
        }
        if self.tags.len() > TAGS_MAX {
            return Err(invalid("tags", format!("at most {TAGS_MAX} tags")));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for &mut Tags {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Tags {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some((name, value)) = entries.next_entry()? {
            self.add(name, value).map_err(|problem| {
                self.refused = Some(problem);
                serde::de::Error::custom("refused")
            })?;
        }
        Ok(())
    }
}
