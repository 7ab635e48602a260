//! One row of sums.
//!
//! Rows form a group under addition: what one event adds can be taken away again exactly, in any order.
//! So nothing here saturates. Counts are 64 bits, one per event; what an event *says* (tokens, money,
//! milliseconds) can be 64 bits by itself and is summed in 128.

use serde::{Deserialize, Serialize};
use tollgate_protocol::response::{Outcome, Status};
use tollgate_protocol::usage::{Kind, UsageEvent};

use crate::store::Error;

/// First byte of a stored row. A new field goes to the end with a default and needs no new version.
const VERSION: u8 = 1;

macro_rules! row {
    ($($(#[doc = $doc:literal])* $(#[serde($($serde:tt)*)])? $field:ident: $type:ty,)*) => {
        /// Sums over usage events.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Row {
            $($(#[doc = $doc])* $(#[serde($($serde)*)])? pub $field: $type,)*
        }

        impl Row {
            /// Adds another row.
            pub fn add(&mut self, other: &Self) {
                $(self.$field += other.$field;)*
            }

            /// Takes another row away.
            pub fn subtract(&mut self, other: &Self) {
                $(self.$field -= other.$field;)*
            }
        }
    };
}

row! {
    /// Requests that ended.
    requests: i64,
    /// Requests that a provider answered.
    succeeded: i64,
    /// Requests that failed in every allowed attempt.
    failed: i64,
    /// Requests that were never run.
    rejected: i64,
    /// Requests whose deadline passed.
    expired: i64,
    /// Requests that were taken back.
    cancelled: i64,
    /// Calls of providers, lost ones included.
    attempts: i64,
    /// Calls whose end nobody knows; their tokens and cost are estimates.
    lost: i64,
    /// Calls that failed.
    errors: i64,
    /// Input tokens, cached ones included.
    #[serde(with = "wide")]
    input_tokens: i128,
    /// Input tokens that were read from a provider's cache.
    #[serde(with = "wide")]
    cached_input_tokens: i128,
    /// Output tokens, reasoning included.
    #[serde(with = "wide")]
    output_tokens: i128,
    /// Output tokens that were spent on reasoning.
    #[serde(with = "wide")]
    reasoning_tokens: i128,
    /// Cost in nano-dollars.
    #[serde(with = "wide")]
    cost_nano_usd: i128,
    /// The part of the cost that is an estimate, in nano-dollars.
    #[serde(with = "wide")]
    estimated_cost_nano_usd: i128,
    /// Time in calls whose end is known, in milliseconds.
    #[serde(with = "wide")]
    latency_ms_sum: i128,
    /// How many calls `latency_ms_sum` is over.
    latency_count: i64,
    /// Time from acceptance to the first call, in milliseconds, over `requests`.
    #[serde(with = "wide")]
    queued_ms_sum: i128,
}

impl Row {
    /// What one event adds.
    pub fn of(event: &UsageEvent) -> Self {
        let cost = i128::from(event.cost_nano_usd.0);
        let is_estimate = event.estimated || event.kind == Kind::Lost;
        let mut row = Self {
            input_tokens: event.usage.input_tokens.into(),
            cached_input_tokens: event.usage.cached_input_tokens.into(),
            output_tokens: event.usage.output_tokens.into(),
            reasoning_tokens: event.usage.reasoning_tokens.into(),
            cost_nano_usd: cost,
            estimated_cost_nano_usd: if is_estimate { cost } else { 0 },
            ..Self::default()
        };
        if matches!(event.kind, Kind::Attempt | Kind::Lost) {
            row.attempts = 1;
            row.lost = i64::from(event.kind == Kind::Lost);
            row.errors = i64::from(event.outcome == Some(Outcome::Failed));
        }
        if event.kind == Kind::Attempt {
            row.latency_ms_sum = event.latency_ms.into();
            row.latency_count = 1;
        }
        if event.is_final && event.kind != Kind::Correction {
            row.requests = 1;
            row.queued_ms_sum = event.queued_ms.into();
            match event.status {
                Some(Status::Succeeded) => row.succeeded = 1,
                Some(Status::Failed) => row.failed = 1,
                Some(Status::Rejected) => row.rejected = 1,
                Some(Status::Expired) => row.expired = 1,
                Some(Status::Cancelled) => row.cancelled = 1,
                None => {}
            }
        }
        row
    }

    /// Whether it adds nothing.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// As stored.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        encode(VERSION, self)
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        decode(VERSION, bytes, "a row")
    }
}

/// A version byte and MessagePack.
pub(crate) fn encode<T: Serialize>(version: u8, value: &T) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![version];
    rmp_serde::encode::write(&mut bytes, value).map_err(Error::engine)?;
    Ok(bytes)
}

/// Reads what [`encode`] wrote.
pub(crate) fn decode<'a, T: Deserialize<'a>>(
    version: u8,
    bytes: &'a [u8],
    what: &'static str,
) -> Result<T, Error> {
    match bytes.split_first() {
        Some((found, rest)) if *found == version => {
            rmp_serde::from_slice(rest).map_err(|_| Error::Unreadable(what))
        }
        _ => Err(Error::Unreadable(what)),
    }
}

/// 128-bit numbers, as small as 64-bit ones while they fit.
mod wide {
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &i128, serializer: S) -> Result<S::Ok, S::Error> {
        match i64::try_from(*value) {
            Ok(small) => serializer.serialize_i64(small),
            Err(_) if serializer.is_human_readable() => serializer.serialize_i128(*value),
            Err(_) => serializer.serialize_bytes(&value.to_be_bytes()),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i128, D::Error> {
        deserializer.deserialize_any(Wide)
    }

    struct Wide;

    impl Visitor<'_> for Wide {
        type Value = i128;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a whole number")
        }

        fn visit_i64<E>(self, value: i64) -> Result<i128, E> {
            Ok(value.into())
        }

        fn visit_u64<E>(self, value: u64) -> Result<i128, E> {
            Ok(value.into())
        }

        fn visit_i128<E>(self, value: i128) -> Result<i128, E> {
            Ok(value)
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<i128, E> {
            bytes.try_into().map(i128::from_be_bytes).map_err(|_| E::invalid_length(bytes.len(), &self))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_usual_row_is_small() {
        let row = Row { requests: 1_000, succeeded: 1_000, input_tokens: 5_000_000, ..Row::default() };
        assert!(row.encode().unwrap().len() < 40);
    }

    #[test]
    fn rows_of_an_older_program_are_read() {
        let older = rmp_serde::to_vec(&(7_i64, 6_i64, 1_i64)).unwrap();
        let row = Row::decode(&[&[VERSION], older.as_slice()].concat()).unwrap();
        assert_eq!(row, Row { requests: 7, succeeded: 6, failed: 1, ..Row::default() });
    }

    #[test]
    fn what_is_no_row_is_an_error() {
        for bytes in [b"".as_slice(), b"\x02\x90", b"\x01\xc1", b"\x01"] {
            assert!(Row::decode(bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn a_row_is_read_back(requests: i64, cost: i128, tokens: u64) {
            let row = Row { requests, cost_nano_usd: cost, input_tokens: tokens.into(), ..Row::default() };
            prop_assert_eq!(&Row::decode(&row.encode().unwrap()).unwrap(), &row);
        }
    }
}
