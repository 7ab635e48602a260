//! Reads single fields of a JSON object, so that whatever is wrong is reported with the field's name.
//!
//! A body is first cut into its fields without looking into them; each is then read as what it must be.
//! `null` is the same as absent everywhere, as it is at OpenAI.

use super::problem::Problem;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::ops::RangeInclusive;

/// A field as it was sent; `None` if absent or `null`.
pub(super) type Raw<'a> = Option<&'a RawValue>;

/// Cuts an object into its fields. The brace is looked at first because serde also reads a struct from an
/// array.
pub(super) fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Problem> {
    match json.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => serde_json::from_slice(json).map_err(|_| Problem::not_json()),
        _ => Err(Problem::not_json()),
    }
}

/// As [`object`], for an object inside the body.
pub(super) fn inner_object<'a, T: Deserialize<'a>>(param: &str, raw: &'a RawValue) -> Result<T, Problem> {
    if kind(raw) != "an object" {
        return Err(wrong_type(param, "an object", raw));
    }
    serde_json::from_str(raw.get()).map_err(|_| unreadable(param))
}

pub(super) fn text<'a>(param: &str, raw: &'a RawValue) -> Result<Cow<'a, str>, Problem> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    if kind(raw) != "a string" {
        return Err(wrong_type(param, "a string", raw));
    }
    let Text(text) = serde_json::from_str(raw.get()).map_err(|_| unreadable(param))?;
    Ok(text)
}

pub(super) fn list<'a>(param: &str, raw: &'a RawValue) -> Result<Vec<&'a RawValue>, Problem> {
    if kind(raw) != "an array" {
        return Err(wrong_type(param, "an array", raw));
    }
    serde_json::from_str(raw.get()).map_err(|_| unreadable(param))
}

pub(super) fn boolean(param: &str, raw: &RawValue) -> Result<bool, Problem> {
    match raw.get() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(wrong_type(param, "a boolean", raw)),
    }
}

pub(super) fn integer(param: &str, raw: &RawValue, range: &RangeInclusive<i64>) -> Result<i64, Problem> {
    if kind(raw) != "an integer" {
        return Err(wrong_type(param, "an integer", raw));
    }
    let below = raw.get().starts_with('-');
    match raw.get().parse::<i64>() {
        Ok(value) if range.contains(&value) => Ok(value),
        Ok(value) => Err(out_of_range(param, "integer", value < *range.start(), range)),
        Err(_) => Err(out_of_range(param, "integer", below, range)),
    }
}

pub(super) fn decimal(param: &str, raw: &RawValue, range: &RangeInclusive<f64>) -> Result<f64, Problem> {
    match raw.get().parse::<f64>() {
        Ok(value) if range.contains(&value) => Ok(value),
        Ok(value) => Err(out_of_range(param, "decimal", value < *range.start(), range)),
        Err(_) => Err(wrong_type(param, "a decimal", raw)),
    }
}

pub(super) fn wrong_type(param: &str, expected: &str, raw: &RawValue) -> Problem {
    let found = kind(raw);
    Problem::field(
        param.to_owned(),
        Some("invalid_type"),
        format!("Invalid type for '{param}': expected {expected}, but got {found} instead."),
    )
}

/// What a value is, told by its first character: it is well-formed JSON already.
pub(super) fn kind(raw: &RawValue) -> &'static str {
    match raw.get().as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') | None => "null",
        Some(_) if raw.get().contains(['.', 'e', 'E']) => "a decimal",
        Some(_) => "an integer",
    }
}

fn out_of_range<T: std::fmt::Display>(
    param: &str,
    what: &'static str,
    below: bool,
    range: &RangeInclusive<T>,
) -> Problem {
    let (code, side, sign, bound) = match (what, below) {
        ("integer", true) => ("integer_below_min_value", "below minimum", ">=", range.start()),
        ("integer", false) => ("integer_above_max_value", "above maximum", "<=", range.end()),
        (_, true) => ("decimal_below_min_value", "below minimum", ">=", range.start()),
        (_, false) => ("decimal_above_max_value", "above maximum", "<=", range.end()),
    };
    Problem::field(
        param.to_owned(),
        Some(code),
        format!("Invalid '{param}': {what} {side} value. Expected a value {sign} {bound}."),
    )
}

/// Only a string with half a surrogate pair, or an object with a field twice, is left for this.
fn unreadable(param: &str) -> Problem {
    Problem::field(
        param.to_owned(),
        Some("invalid_value"),
        format!("Invalid '{param}': its JSON cannot be read."),
    )
}
