//! What a request says about itself, for reports.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most tags of a request.
pub const TAGS_MAX: usize = 16;
/// Longest tag name, in bytes.
pub const TAG_NAME_LENGTH_MAX: usize = 64;
/// Longest value of `project`, `user`, `task` and of a tag, in bytes.
pub const TEXT_LENGTH_MAX: usize = 256;

/// The pattern of a text without control characters.
pub(crate) const PRINTABLE: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";

pub(crate) fn tags_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": ["object", "null"],
        "maxProperties": TAGS_MAX,
        "propertyNames": {"minLength": 1, "maxLength": TAG_NAME_LENGTH_MAX, "pattern": PRINTABLE},
        "additionalProperties":
            {"type": "string", "minLength": 1, "maxLength": TEXT_LENGTH_MAX, "pattern": PRINTABLE},
    })
}

/// Labels that follow a request into its usage events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Meta {
    /// The project that pays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// The person or service behind the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What the request is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Free labels; `application` and `use_case` have meaning in reports.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// The virtual key, by its public name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Whether a text may be a value here: not empty, not too long, no control characters.
pub fn is_label(text: &str, length_max: usize) -> bool {
    (1..=length_max).contains(&text.len()) && !text.chars().any(char::is_control)
}
