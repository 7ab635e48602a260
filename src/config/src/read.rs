//! How a value is read from TOML: each type says what it expects, and a problem is noted where a value is
//! something else. Reading goes on after a problem.

use std::ops::Deref;

use serde_json::{Value, json};
use tollgate_policy::catalog::nearest;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::report::{Findings, Place};

/// A value as it stands in the file.
pub(crate) type Node<'a> = Spanned<DeValue<'a>>;

/// What can stand behind a key.
pub(crate) trait Read: Sized {
    /// For a message: "expected …".
    fn expected() -> String;

    /// The value, or `None` after noting what is wrong with it.
    fn read(node: &Node<'_>, place: &Place, findings: &mut Findings<'_>) -> Option<Self>;

    /// The same as a JSON Schema.
    fn schema() -> Value;
}

/// A value with its place, for problems that only show when values are compared.
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
}

impl<T> Deref for At<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Read> At<T> {
    fn read(node: &Node<'_>, path: String, findings: &mut Findings<'_>) -> Option<Self> {
        let place = Place { span: node.span(), path };
        T::read(node, &place, findings).map(|value| Self { value, place })
    }
}

/// A key of a section.
pub(crate) trait Entry {
    /// Whether a section without it is incomplete.
    const REQUIRED: bool;
    /// Reads it from its section.
    fn take(table: &DeTable<'_>, key: &str, section: &Place, findings: &mut Findings<'_>) -> Self;
    /// The schema of its value.
    fn schema() -> Value;
}

/// A key that may be absent.
pub(crate) enum Optional<T> {
    /// It is.
    Absent,
    /// Its value was a problem, which is noted.
    Broken,
    /// It has this value.
    Given(At<T>),
}

impl<T> Optional<T> {
    pub(crate) fn given(&self) -> Option<&At<T>> {
        match self {
            Self::Given(at) => Some(at),
            Self::Absent | Self::Broken => None,
        }
    }
}

impl<T: Read> Entry for Optional<T> {
    const REQUIRED: bool = false;

    fn take(table: &DeTable<'_>, key: &str, section: &Place, findings: &mut Findings<'_>) -> Self {
        match table.get(key) {
            None => Self::Absent,
            Some(node) => At::read(node, section.key(key), findings).map_or(Self::Broken, Self::Given),
        }
    }

    fn schema() -> Value {
        T::schema()
    }
}

/// A key that must be there; `None` where it is not or is broken, which is noted.
pub(crate) struct Required<T>(pub(crate) Option<At<T>>);

impl<T: Read> Entry for Required<T> {
    const REQUIRED: bool = true;

    fn take(table: &DeTable<'_>, key: &str, section: &Place, findings: &mut Findings<'_>) -> Self {
        match table.get(key) {
            Some(node) => Self(At::read(node, section.key(key), findings)),
            None => {
                findings.problem(&section.at_key(key), format!("expected {}, found nothing", T::expected()));
                Self(None)
            }
        }
    }

    fn schema() -> Value {
        T::schema()
    }
}

/// Entries whose names the user chooses, in the order of the names.
pub(crate) struct Map<T>(pub(crate) Vec<Named<T>>);

/// One entry of a map.
pub(crate) struct Named<T> {
    pub(crate) name: At<String>,
    /// `None` if it is no table at all, which is noted.
    pub(crate) entry: Option<At<T>>,
}

impl<T: Read> Read for Map<T> {
    fn expected() -> String {
        "a table of tables".into()
    }

    fn read(node: &Node<'_>, place: &Place, findings: &mut Findings<'_>) -> Option<Self> {
        let table = table(node, place, &Self::expected(), findings)?;
        let entries = table.iter().map(|(name, node)| {
            let path = place.key(name.get_ref());
            let entry = At::read(node, path.clone(), findings);
            let name = At { value: name.get_ref().to_string(), place: Place { span: name.span(), path } };
            Named { name, entry }
        });
        Some(Self(entries.collect()))
    }

    fn schema() -> Value {
        json!({"type": "object", "additionalProperties": T::schema()})
    }
}

/// `MIN` to `MAX` values.
pub(crate) struct List<T, const MIN: usize, const MAX: usize>(pub(crate) Vec<At<T>>);

impl<T: Read, const MIN: usize, const MAX: usize> Read for List<T, MIN, MAX> {
    fn expected() -> String {
        format!("an array with {MIN} to {MAX} entries, each {}", T::expected())
    }

    fn read(node: &Node<'_>, place: &Place, findings: &mut Findings<'_>) -> Option<Self> {
        let Some(array) = node.get_ref().as_array() else {
            return findings.mismatch(node, place, &Self::expected());
        };
        if !(MIN..=MAX).contains(&array.len()) {
            let message = format!("expected {}, found {} entries", Self::expected(), array.len());
            findings.problem(place, message);
            return None;
        }
        let indexed = array.iter().enumerate();
        let items =
            indexed.filter_map(|(index, node)| At::read(node, format!("{}[{index}]", place.path), findings));
        Some(Self(items.collect()))
    }

    fn schema() -> Value {
        json!({"type": "array", "items": T::schema(), "minItems": MIN, "maxItems": MAX, "uniqueItems": true})
    }
}

/// The value as a table, or `None` after noting that it is none.
pub(crate) fn table<'n, 'i>(
    node: &'n Node<'i>,
    place: &Place,
    expected: &str,
    findings: &mut Findings<'_>,
) -> Option<&'n DeTable<'i>> {
    match node.get_ref().as_table() {
        Some(table) => Some(table),
        None => findings.mismatch(node, place, expected),
    }
}

/// A key of a section, as its declaration has it.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    pub(crate) required: bool,
    pub(crate) schema: fn() -> Value,
}

/// The keys that a user may write, for a message.
pub(crate) fn listed(keys: &[Key]) -> String {
    let names: Vec<_> = keys.iter().map(|key| key.name).collect();
    names.join(", ")
}

/// Notes every key that a section does not have.
pub(crate) fn refuse_unknown(
    table: &DeTable<'_>,
    keys: &[Key],
    section: &Place,
    findings: &mut Findings<'_>,
) {
    for given in table.keys().filter(|given| keys.iter().all(|key| key.name != given.get_ref())) {
        let place = Place { span: given.span(), path: section.key(given.get_ref()) };
        let message = match nearest(given.get_ref(), keys.iter().map(|key| key.name), 1).first() {
            Some(near) => format!("unknown key; did you mean {near}?"),
            None => format!("unknown key; expected one of {}", listed(keys)),
        };
        findings.problem(&place, message);
    }
}

/// A section with fixed keys: declares the struct, reads it, and describes it. Rust's doc comments on the
/// keys are the descriptions in the schema.
macro_rules! section {
    ($(#[$meta:meta])* $name:ident { $( $(#[doc = $doc:literal])* $key:ident: $entry:ty, )* }) => {
        $(#[$meta])*
        pub(crate) struct $name {
            $( $(#[doc = $doc])* pub(crate) $key: $entry, )*
        }

        impl $name {
            pub(crate) const KEYS: &[$crate::read::Key] = &[$( $crate::read::Key {
                name: stringify!($key),
                description: concat!($( $doc ),*),
                required: <$entry as $crate::read::Entry>::REQUIRED,
                schema: <$entry as $crate::read::Entry>::schema,
            } ),*];

            pub(crate) fn from_table(
                table: &toml::de::DeTable<'_>,
                place: &$crate::report::Place,
                findings: &mut $crate::report::Findings<'_>,
            ) -> Self {
                $crate::read::refuse_unknown(table, Self::KEYS, place, findings);
                Self { $( $key: $crate::read::Entry::take(table, stringify!($key), place, findings), )* }
            }
        }

        impl $crate::read::Read for $name {
            fn expected() -> String {
                format!("a table with keys of {}", $crate::read::listed(Self::KEYS))
            }

            fn read(
                node: &$crate::read::Node<'_>,
                place: &$crate::report::Place,
                findings: &mut $crate::report::Findings<'_>,
            ) -> Option<Self> {
                let table = $crate::read::table(node, place, &Self::expected(), findings)?;
                Some(Self::from_table(table, place, findings))
            }

            fn schema() -> serde_json::Value {
                $crate::read::section_schema(Self::KEYS)
            }
        }
    };
}
pub(crate) use section;

/// The schema of a section.
pub(crate) fn section_schema(keys: &[Key]) -> Value {
    let mut properties = serde_json::Map::new();
    for key in keys {
        let mut schema = (key.schema)();
        schema["description"] = key.description.trim().into();
        properties.insert(key.name.into(), schema);
    }
    let required: Vec<_> = keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}
