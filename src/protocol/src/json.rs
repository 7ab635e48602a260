//! JSON that is carried, not interpreted.
//!
//! A request's body is checked once, where it arrives, and from then on travels as text: unknown fields,
//! number formats and field order reach the provider untouched, and no stage pays for parsing it again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

mod rewrite;

pub(crate) use rewrite::to_json;

/// Valid JSON text.
#[derive(Clone, Debug)]
pub struct JsonText(Box<RawValue>);

impl JsonText {
    /// Checks that `bytes` are one JSON value in UTF-8 and keeps them as they are.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes).map(Self)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

impl From<&RawValue> for JsonText {
    fn from(raw: &RawValue) -> Self {
        Self(raw.to_owned())
    }
}

impl From<serde_json::Value> for JsonText {
    fn from(value: serde_json::Value) -> Self {
        // Writing a `Value` cannot fail: its keys are strings and its numbers finite.
        Self(RawValue::from_string(value.to_string()).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }
}

impl PartialEq for JsonText {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for JsonText {}

/// In JSON the text stands as it is; in MessagePack it is written as the value it means.
impl Serialize for JsonText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            self.0.serialize(serializer)
        } else {
            let mut reader = serde_json::Deserializer::from_str(self.as_str());
            serde_transcode::transcode(&mut reader, serializer)
        }
    }
}

impl<'de> Deserialize<'de> for JsonText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return Box::<RawValue>::deserialize(deserializer).map(Self);
        }
        let text = to_json(deserializer, 0)?;
        Self::from_slice(&text).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for JsonText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AnyJson".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!(true)
    }
}

/// How deep arrays and objects are nested in JSON text that may not even be valid. Reads each byte once and
/// needs no stack, so it can be asked before anything that recurses.
pub fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in text {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_is_kept_to_the_letter() {
        let text = r#"{"b":1.50, "a":[ 1e2,18446744073709551615 ],"ü":"\u00fc"}"#;
        let json = JsonText::from_slice(text.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&json).unwrap(), text);
    }

    #[test]
    fn msgpack_carries_the_same_value() {
        let json =
            JsonText::from_slice(br#"{"a":[1,-2,0.5,null,true,"x",{"big":18446744073709551615}]}"#).unwrap();
        let packed = rmp_serde::to_vec_named(&json).unwrap();
        let back: JsonText = rmp_serde::from_slice(&packed).unwrap();
        assert_eq!(json, back);
    }

    #[test]
    fn depth_ignores_brackets_in_strings() {
        assert_eq!(depth(br#"{"a":"[[[\"[["}"#), 1);
        assert_eq!(depth(br#"[[{"a":[]}],[]]"#), 4);
        assert_eq!(depth(b"]]]][["), 2);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = depth(&bytes);
            let _ = JsonText::from_slice(&bytes);
            let _: Result<JsonText, _> = rmp_serde::from_slice(&bytes);
        }
    }
}
