//! Through the body of a chat completion, to its text.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::Count;

/// What is being looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Body,
    Messages,
    Message,
    /// The content of a message: text, or parts.
    Content,
    /// A part of a message.
    Part,
    /// A picture, sound or file.
    Media,
    /// Tools, schemas, calls of tools: names count as well as values.
    Schema,
}

/// Counts what a body has.
pub(crate) fn body(text: &str, count: &mut Count) -> Result<(), serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    Walk { place: Place::Body, count }.deserialize(&mut reader)
}

struct Walk<'a> {
    place: Place,
    count: &'a mut Count,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        if matches!(self.place, Place::Content | Place::Schema) {
            self.count.text(text);
        }
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.scalar()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let place = match self.place {
            Place::Messages => Place::Message,
            Place::Content => Place::Part,
            Place::Schema => Place::Schema,
            _ => return ignore_all(items),
        };
        while items.next_element_seed(Walk { place, count: self.count })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<(), A::Error> {
        match self.place {
            Place::Media => media(fields, self.count),
            place => {
                if place == Place::Message {
                    self.count.message();
                }
                each(fields, place, self.count)
            }
        }
    }
}

impl Walk<'_> {
    /// A number, or true or false.
    fn scalar<E: Error>(self) -> Result<(), E> {
        if self.place == Place::Schema {
            self.count.more(1);
        }
        Ok(())
    }
}

fn ignore_all<'de, A: SeqAccess<'de>>(mut items: A) -> Result<(), A::Error> {
    while items.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

fn each<'de, A: MapAccess<'de>>(mut fields: A, place: Place, count: &mut Count) -> Result<(), A::Error> {
    while let Some(name) = fields.next_key::<Cow<'_, str>>()? {
        let inner = match (place, name.as_ref()) {
            (Place::Body, "messages") => Some(Place::Messages),
            (Place::Body, "tools" | "functions" | "response_format")
            | (Place::Message, "tool_calls" | "function_call") => Some(Place::Schema),
            (Place::Message, "content" | "refusal") | (Place::Part, "text" | "refusal") => {
                Some(Place::Content)
            }
            (Place::Message, "role") => {
                count.more(1);
                None
            }
            (Place::Message, "name") => {
                count.more(1);
                Some(Place::Content)
            }
            (Place::Part, "image_url" | "input_audio" | "file") => Some(Place::Media),
            (Place::Schema, name) => {
                count.text(name);
                Some(Place::Schema)
            }
            _ => None,
        };
        match inner {
            Some(place) => fields.next_value_seed(Walk { place, count })?,
            None => drop(fields.next_value::<IgnoredAny>()?),
        }
    }
    Ok(())
}

/// A picture, sound or file: in the body itself, or named by an address.
fn media<'de, A: MapAccess<'de>>(mut fields: A, count: &mut Count) -> Result<(), A::Error> {
    let (mut bytes, mut is_low) = (0, false);
    while let Some(name) = fields.next_key::<Cow<'_, str>>()? {
        let value = fields.next_value::<&RawValue>()?.get();
        match name.as_ref() {
            "url" | "data" | "file_data" if value.starts_with('"') => bytes += value.len() - 2,
            "detail" => is_low = value == r#""low""#,
            _ => {}
        }
    }
    count.media(bytes, is_low);
    Ok(())
}
