//! The credential behind `api_key`. No message here shows one, not even one in the wrong place.

use crate::read::At;
use crate::report::{Findings, Place};
use crate::scalar::SecretText;
use crate::{Environment, Secret};

pub(super) fn resolve(
    key: &At<SecretText>,
    environment: &dyn Environment,
    findings: &mut Findings<'_>,
) -> Option<Secret> {
    let (text, place) = (&key.value.0, &key.place);
    let Some(name) = text.strip_prefix("env:") else {
        return literal(text, place, findings);
    };
    let valid = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if name.is_empty() || !valid || name.starts_with(|first: char| first.is_ascii_digit()) {
        // What follows may be a key put there by mistake, so it is not shown.
        findings.problem(
            place,
            "expected the name of an environment variable after \"env:\", such as \"env:OPENAI_API_KEY\"",
        );
        return None;
    }
    let Some(value) = environment.get(name).filter(|value| !value.is_empty()) else {
        findings.problem(place, format!("the environment variable {name} is not set, or empty"));
        return None;
    };
    let secret = Secret::parse(&value).ok();
    if secret.is_none() {
        let message = format!(
            "the environment variable {name} holds no key: spaces, line ends and characters \
             beyond ASCII fit into no HTTP header"
        );
        findings.problem(place, message);
    }
    secret
}

fn literal(text: &str, place: &Place, findings: &mut Findings<'_>) -> Option<Secret> {
    match Secret::parse(text) {
        Ok(secret) => {
            findings.warning(
                place,
                "the key itself stands in the file; \"env:NAME\" keeps it out of backups and version control",
            );
            Some(secret)
        }
        Err(_) => {
            findings
                .problem(place, "expected \"env:NAME\" or a key: visible ASCII characters without spaces");
            None
        }
    }
}
