//! The single values of a file. A value that has been read is in range.

use serde_json::{Value, json};
use tollgate_policy::budget::Tz;
use tollgate_policy::catalog::ModelPattern;
use tollgate_protocol::meta::is_label;
use tollgate_protocol::subject::Subjects;
use tollgate_protocol::{NanoUsd, money};
use toml::de::DeValue;

use crate::read::{Node, Read};
use crate::report::{Findings, Place};
use crate::url;

/// A whole number from `MIN` to `MAX`.
pub(crate) struct Whole<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Whole<MIN, MAX> {
    pub(crate) fn get(&self) -> u64 {
        self.0
    }
}

/// A whole number whose `MAX` is at most that of 32 bits.
impl<const MIN: u64, const MAX: u64> Whole<MIN, MAX> {
    const FITS_32_BITS: () = assert!(MAX <= u32::MAX as u64, "the range has to fit into 32 bits");

    pub(crate) fn get_u32(&self) -> u32 {
        let () = Self::FITS_32_BITS;
        self.0 as u32
    }
}

impl<const MIN: u64, const MAX: u64> Read for Whole<MIN, MAX> {
    fn expected() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }

    fn read(node: &Node<'_>, place: &Place, findings: &mut Findings<'_>) -> Option<Self> {
        let number = node
            .get_ref()
            .as_integer()
            .and_then(|number| u64::from_str_radix(number.as_str(), number.radix()).ok())
            .filter(|number| (MIN..=MAX).contains(number));
        match number {
            Some(number) => Some(Self(number)),
            None => findings.mismatch(node, place, &Self::expected()),
        }
    }

    fn schema() -> Value {
        json!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

/// A number from 0 to 1.
pub(crate) struct Fraction(pub(crate) f64);

impl Read for Fraction {
    fn expected() -> String {
        "a number from 0 to 1".into()
    }

    fn read(node: &Node<'_>, place: &Place, findings: &mut Findings<'_>) -> Option<Self> {
        let number = match node.get_ref() {
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse().ok(),
            _ => None,
        };
        match number.filter(|number| (0.0..=1.0).contains(number)) {
            Some(number) => Some(Self(number)),
            None => findings.mismatch(node, place, &Self::expected()),
        }
    }

    fn schema() -> Value {
        json!({"type": "number", "minimum": 0, "maximum": 1})
    }
}

/// A price in nano-dollars per million tokens, written as a decimal string of dollars.
pub(crate) struct UsdPerMtok(pub(crate) u64);

impl Read for UsdPerMtok {
    fn expected() -> String {
        "a decimal string of US dollars per million tokens such as \"0.15\"".into()
    }

    fn read(node: &Node<'_>, place: &Place, findings: &mut Findings<'_>) -> Option<Self> {
        match node.get_ref() {
            DeValue::String(text) => match money::parse_usd(text) {
                Ok(amount) => u64::try_from(amount.0).ok().map(Self),
                Err(money::ParseError::NotDecimal) => findings.mismatch(node, place, &Self::expected()),
                Err(error) => {
                    findings.problem(place, format!("{} is {error}", findings.shown(node)));
                    None
                }
            },
            DeValue::Float(_) | DeValue::Integer(_) => {
                let found = format!(
                    "the number {}; write it in quotes, since binary fractions cannot hold most decimal \
                     prices exactly and money is exact here",
                    findings.shown(node)
                );
                findings.problem(place, format!("expected {}, found {found}", Self::expected()));
                None
            }
            _ => findings.mismatch(node, place, &Self::expected()),
        }
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^[0-9]+(\\.[0-9]{1,9}0*)?$"})
    }
}

/// An amount of money in nano-dollars, written as a decimal string of dollars.
pub(crate) struct Usd(pub(crate) NanoUsd);

impl Read for Usd {
    fn expected() -> String {
        "a decimal string of US dollars such as \"100.00\"".into()
    }

    fn read(node: &Node<'_>, place: &Place, findings: &mut Findings<'_>) -> Option<Self> {
        match node.get_ref().as_str().map(money::parse_usd) {
            Some(Ok(amount)) => Some(Self(amount)),
            Some(Err(error)) if error != money::ParseError::NotDecimal => {
                findings.problem(place, format!("{} is {error}", findings.shown(node)));
                None
            }
            _ => findings.mismatch(node, place, &Self::expected()),
        }
    }

    fn schema() -> Value {
        UsdPerMtok::schema()
    }
}

/// The name of a budget, which stands in a subject.
pub(crate) struct BudgetName(pub(crate) String);

impl Read for BudgetName {
    fn expected() -> String {
        "1 to 64 characters of A-Z a-z 0-9 _ -".into()
    }

    fn read(node: &Node<'_>, place: &Place, findings: &mut Findings<'_>) -> Option<Self> {
        parsed(node, place, &Self::expected(), findings, |text| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
            let valid = (1..=64).contains(&text.len()) && text.bytes().all(allowed);
            valid.then(|| Self(text.into()))
        })
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"})
    }
}

/// A value that a request can have.
pub(crate) struct Label(pub(crate) String);

impl Read for Label {
    fn expected() -> String {
        "a text of 1 to 256 bytes".into()
    }

    fn read(node: &Node<'_>, place: &Place, findings: &mut Findings<'_>) -> Option<Self> {
        parsed(node, place, &Self::expected(), findings, |text| {
            is_label(text, 256).then(|| Self(text.into()))
        })
    }

    fn schema() -> Value {
        json!({"type": "string", "minLength": 1, "maxLength": 256})
    }
}

/// `name=value`.
pub(crate) struct TagText(pub(crate) (String, String));

impl Read for TagText {
    fn expected() -> String {
        "\"name=value\"".into()
    }

    fn read(node: &Node<'_>, place: &Place, findings: &mut Findings<'_>) -> Option<Self> {
        parsed(node, place, &Self::expected(), findings, |text| {
            let (name, value) = text.split_once('=')?;
            let valid = is_label(name, 256) && is_label(value, 256);
            valid.then(|| Self((name.into(), value.into())))
        })
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^[^=]+=.+$"})
    }
}

impl Read for Tz {
    fn expected() -> String {
        "a time zone of the IANA database such as \"Europe/Berlin\"".into()
    }

    fn read(node: &Node<'_>, place: &Place, findings: &mut Findings<'_>) -> Option<Self> {
        parsed(node, place, &Self::expected(), findings, |text| text.parse().ok())
    }

    fn schema() -> Value {
        json!({"type": "string"})
    }
}

/// A credential, or where it comes from. Its value is in no message.
pub(crate) struct SecretText(pub(crate) String);

impl Read for SecretText {
    fn expected() -> String {
        "\"env:NAME\", the name of an environment variable that holds the key".into()
    }

    fn read(node: &Node<'_>, place: &Place, findings: &mut Findings<'_>) -> Option<Self> {
        match node.get_ref().as_str() {
            Some(text) => Some(Self(text.into())),
            None => {
                let found = node.get_ref().type_str();
                findings
                    .problem(place, format!("expected {}, found a value of type {found}", Self::expected()));
                None
            }
        }
    }

    fn schema() -> Value {
        json!({"type": "string", "minLength": 1})
    }
}

/// Reads a string with `parse`.
fn parsed<T>(
    node: &Node<'_>,
    place: &Place,
    expected: &str,
    findings: &mut Findings<'_>,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Option<T> {
    match node.get_ref().as_str().and_then(parse) {
        Some(value) => Some(value),
        None => findings.mismatch(node, place, expected),
    }
}

/// `provider/model`.
pub(crate) struct TargetName {
    pub(crate) provider: String,
    pub(crate) model: String,
}

impl Read for TargetName {
    fn expected() -> String {
        "\"provider/model\"".into()
    }

    fn read(node: &Node<'_>, place: &Place, findings: &mut Findings<'_>) -> Option<Self> {
        parsed(node, place, &Self::expected(), findings, |text| {
            let (provider, model) = text.split_once('/')?;
            let valid = !provider.is_empty() && !model.is_empty();
            valid.then(|| Self { provider: provider.into(), model: model.into() })
        })
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^[^/]+/."})
    }
}

impl Read for ModelPattern {
    fn expected() -> String {
        "\"*\", a model name, or the beginning of model names followed by one \"*\"".into()
    }

    fn read(node: &Node<'_>, place: &Place, findings: &mut Findings<'_>) -> Option<Self> {
        parsed(node, place, &Self::expected(), findings, |text| Self::parse(text).ok())
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^(\\*|[^*]+\\*?)$"})
    }
}

impl Read for Subjects {
    fn expected() -> String {
        "1 to 32 characters of a-z 0-9 _ -".into()
    }

    fn read(node: &Node<'_>, place: &Place, findings: &mut Findings<'_>) -> Option<Self> {
        parsed(node, place, &Self::expected(), findings, |text| Self::new(text).ok())
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^[a-z0-9_-]{1,32}$"})
    }
}

/// The address of an HTTP API, without a slash at the end.
pub(crate) struct BaseUrl(pub(crate) String);

impl Read for BaseUrl {
    fn expected() -> String {
        "an address such as \"https://host:port/v1\"".into()
    }

    fn read(node: &Node<'_>, place: &Place, findings: &mut Findings<'_>) -> Option<Self> {
        let Some(text) = node.get_ref().as_str() else {
            return findings.mismatch(node, place, &Self::expected());
        };
        match url::parse_base(text) {
            Ok(url) => Some(Self(url)),
            // The text itself is not shown, since it may hold a password.
            Err(error) => {
                findings.problem(place, format!("expected {}, found one {error}", Self::expected()));
                None
            }
        }
    }

    fn schema() -> Value {
        json!({"type": "string", "format": "uri", "pattern": "^https?://"})
    }
}
