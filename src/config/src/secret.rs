//! A credential that cannot be printed by accident.

/// A credential. It has no `Display` and no `Serialize`, and its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// The credential is empty, or holds what no HTTP header can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidSecret;

impl Secret {
    /// A credential that fits into a header: visible ASCII characters only.
    pub fn parse(text: &str) -> Result<Self, InvalidSecret> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidSecret)
        }
    }

    /// The credential itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::parse("sk-very-secret").unwrap();
        assert_eq!(format!("{secret:?} {:#?}", Some(&secret)), "Secret(…) Some(\n    Secret(…),\n)");
        assert_eq!(secret.expose(), "sk-very-secret");
    }

    #[test]
    fn a_secret_fits_into_a_header() {
        for bad in ["", " ", "sk-1\n", "sk 1", "schlüssel"] {
            assert!(Secret::parse(bad).is_err(), "{bad:?}");
        }
    }
}
