//! Any self-describing value → JSON text, or a refusal where JSON has no such value.
//!
//! serde_json itself is more helpful than is good here: it writes NaN as `null`, bytes as an array of numbers
//! and integer keys as strings. A request must not change its meaning on the way, so all of these are errors.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Reads one value and writes it as JSON.
pub(crate) fn to_json<'de, D: Deserializer<'de>>(
    deserializer: D,
    size_hint: usize,
) -> Result<Vec<u8>, D::Error> {
    let mut text = Vec::with_capacity(size_hint);
    Value(&mut text).deserialize(deserializer)?;
    Ok(text)
}

struct Value<'t>(&'t mut Vec<u8>);

struct Key<'t>(&'t mut Vec<u8>);

fn write<T: serde::Serialize + ?Sized, E: Error>(text: &mut Vec<u8>, value: &T) -> Result<(), E> {
    serde_json::to_writer(text, value).map_err(E::custom)
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON has")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        write(self.0, &value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        write(self.0, &value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        write(self.0, &value)
    }

    /// In the shortest form that is this number in 32 bits: what its writer meant by `0.1` stays `0.1`.
    fn visit_f32<E: Error>(self, value: f32) -> Result<(), E> {
        if value.is_finite() { write(self.0, &value) } else { Err(E::custom("a number that is none")) }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        if value.is_finite() { write(self.0, &value) } else { Err(E::custom("a number that is none")) }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        write(self.0, value)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.0.extend_from_slice(b"null");
        Ok(())
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let open = self.0.len();
        self.0.push(b'[');
        while elements.next_element_seed(Value(self.0))?.is_some() {
            self.0.push(b',');
        }
        close(self.0, open, b']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let open = self.0.len();
        self.0.push(b'{');
        while entries.next_key_seed(Key(self.0))?.is_some() {
            self.0.push(b':');
            entries.next_value_seed(Value(self.0))?;
            self.0.push(b',');
        }
        close(self.0, open, b'}');
        Ok(())
    }
}

/// Puts the closing bracket in the place of the comma after the last element, if there is any.
fn close(text: &mut Vec<u8>, open: usize, bracket: u8) {
    if text.len() > open + 1 {
        text.pop();
    }
    text.push(bracket);
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key that is a string")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        write(self.0, value)
    }
}
