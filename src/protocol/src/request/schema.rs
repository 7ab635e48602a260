//! What the types of an envelope cannot say by themselves.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::{FALLBACKS_MAX, MODEL_LENGTH_MAX};
use crate::identity::{NO_GROUP, SEQUENCE_ID_PREFIX};
use crate::meta::PRINTABLE;

pub(super) fn reserved_ids() -> Value {
    json!({"type": "string", "pattern": format!("^{SEQUENCE_ID_PREFIX}")})
}

pub(super) fn reserved_groups() -> Value {
    json!({"const": NO_GROUP})
}

fn model() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": MODEL_LENGTH_MAX, "pattern": PRINTABLE})
}

pub(super) fn fallbacks(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["array", "null"], "items": model(), "maxItems": FALLBACKS_MAX})
}

/// What the broker reads of a body. Everything else is the provider's to judge.
pub(super) fn body(_: &mut SchemaGenerator) -> Schema {
    let count = json!({"type": ["integer", "null"], "minimum": 1, "maximum": u64::MAX});
    json_schema!({
        "type": "object",
        "required": ["model"],
        "properties": {
            "model": model(),
            "messages": {"type": ["array", "null"], "items": {"type": "object"}, "minItems": 1},
            "stream": {"type": ["boolean", "null"]},
            "max_tokens": count,
            "max_completion_tokens": count,
            "n": count,
        },
    })
}

pub(super) fn rules_of_requests() -> Value {
    json!([
        {
            "$comment": "deadline and ttl_ms: at most one of them",
            "not": {
                "required": ["deadline", "ttl_ms"],
                "properties": {"deadline": {"type": "string"}, "ttl_ms": {"type": "integer"}},
            },
        },
        {
            "$comment": "a body, and nothing of a bare body beside it",
            "required": ["body"],
            "properties": {"messages": {"type": "null"}, "input": {"type": "null"}, "prompt": {"type": "null"}},
        },
        {
            "$comment": "a chat completion needs messages",
            "if": {"properties": {"endpoint": {"enum": ["chat.completions", null]}}},
            "then": {
                "properties": {"body": {"required": ["messages"], "properties": {"messages": {"type": "array"}}}},
            },
        },
    ])
}
