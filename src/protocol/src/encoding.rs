//! JSON or MessagePack. The answer uses the request's encoding.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The two encodings of an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// `application/json`, the default.
    #[default]
    Json,
    /// `application/msgpack`.
    Msgpack,
}

/// Bytes could not be read as the type they should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the JSON expected.
    #[error("read JSON")]
    Json(#[from] serde_json::Error),
    /// Not the MessagePack expected.
    #[error("read MessagePack")]
    Msgpack(#[from] rmp_serde::decode::Error),
    /// The value cannot be written as MessagePack.
    #[error("write MessagePack")]
    MsgpackWrite(#[from] rmp_serde::encode::Error),
}

impl Encoding {
    /// The `Content-Type` that names it.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Msgpack => "application/msgpack",
        }
    }

    /// Reads a `Content-Type`; parameters such as `charset` are ignored. `None` for any other type.
    pub fn from_content_type(text: &str) -> Option<Self> {
        let essence = text.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/json") {
            Some(Self::Json)
        } else if ["application/msgpack", "application/x-msgpack", "application/vnd.msgpack"]
            .iter()
            .any(|name| essence.eq_ignore_ascii_case(name))
        {
            Some(Self::Msgpack)
        } else {
            None
        }
    }

    /// Writes `value`.
    pub fn encode<T: Serialize>(self, value: &T) -> Result<Vec<u8>, Error> {
        Ok(match self {
            Self::Json => serde_json::to_vec(value)?,
            Self::Msgpack => rmp_serde::to_vec_named(value)?,
        })
    }

    /// Reads a value.
    pub fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, Error> {
        Ok(match self {
            Self::Json => serde_json::from_slice(bytes)?,
            Self::Msgpack => rmp_serde::from_slice(bytes)?,
        })
    }
}
