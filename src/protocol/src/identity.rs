//! Who a request is: (team, group, id), everywhere.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The group of a request that named none. No client may send it.
pub const NO_GROUP: &str = "_";

/// The prefix of ids that the broker gives: `seq-<stream sequence>`. No client may send it.
pub const SEQUENCE_ID_PREFIX: &str = "seq-";

const NAME_LENGTH_MAX: usize = 64;
const ID_LENGTH_MAX: usize = 128;
/// Longer than any name that is valid, so that a cut team is never somebody else's.
const PUBLISHED_LENGTH_MAX: usize = 2 * NAME_LENGTH_MAX;

/// A name or id is not of the allowed form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Other characters than letters, digits, `_` and `-`, or a wrong length.
    #[error("expected 1 to {0} characters of A-Z a-z 0-9 _ -")]
    Form(usize),
    /// A form that only the broker may use.
    #[error("{0} is reserved for the broker")]
    Reserved(&'static str),
}

fn is_name(text: &str, length_max: usize) -> bool {
    (1..=length_max).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        $(#[$doc])*
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&self.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

name! {
    /// A team, as the second token of a request's subject. Only a rejection of a request to a badly named
    /// team has another one than 1 to 64 characters of `A-Z a-z 0-9 _ -`.
    #[schemars(extend("pattern" = r"^[^.*>\s]{1,128}$"))]
    Team
}
name! {
    /// What a client groups its requests by; one batch, one process. `_` if the request named none.
    #[schemars(extend("pattern" = "^[A-Za-z0-9_-]{1,64}$"))]
    Group
}
name! {
    /// The id of a request inside its team and group; `seq-<stream sequence>` if it named none.
    #[schemars(extend("pattern" = "^[A-Za-z0-9_-]{1,128}$"))]
    RequestId
}

impl Team {
    /// A valid team name.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if is_name(text, NAME_LENGTH_MAX) {
            Ok(Self(text.into()))
        } else {
            Err(Invalid::Form(NAME_LENGTH_MAX))
        }
    }

    /// Any token of a subject that a message really arrived on, so that even a request to a badly named
    /// team can be told what is wrong with it. Such a team is never configured.
    ///
    /// The server takes wildcards and very long tokens in the subject of a publish. What is built from them
    /// here must still be one token that can be published to, so they are cut off and written `?`.
    pub fn as_published(token: &str) -> Self {
        let unsafe_in_a_subject = |character: char| {
            ".*>".contains(character) || character.is_whitespace() || character.is_control()
        };
        let cut = token
            .char_indices()
            .take_while(|(at, character)| at + character.len_utf8() <= PUBLISHED_LENGTH_MAX);
        let written = |character| if unsafe_in_a_subject(character) { '?' } else { character };
        match cut.map(|(_, character)| written(character)).collect::<String>() {
            empty if empty.is_empty() => Self("?".into()),
            safe => Self(safe),
        }
    }
}

impl Group {
    /// A group as a client may send it.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        match text {
            NO_GROUP => Err(Invalid::Reserved("the group \"_\"")),
            _ if is_name(text, NAME_LENGTH_MAX) => Ok(Self(text.into())),
            _ => Err(Invalid::Form(NAME_LENGTH_MAX)),
        }
    }

    /// The group of requests that named none.
    pub fn none() -> Self {
        Self(NO_GROUP.into())
    }
}

impl RequestId {
    /// An id as a client may send it.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if text.starts_with(SEQUENCE_ID_PREFIX) {
            Err(Invalid::Reserved("an id that begins with \"seq-\""))
        } else if is_name(text, ID_LENGTH_MAX) {
            Ok(Self(text.into()))
        } else {
            Err(Invalid::Form(ID_LENGTH_MAX))
        }
    }

    /// The id of a request that brought none: its place in the request stream.
    pub fn from_sequence(sequence: crate::Sequence) -> Self {
        Self(format!("{SEQUENCE_ID_PREFIX}{sequence}"))
    }
}

/// (team, group, id). The same identity is the same request and has the same answer.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Identity {
    /// The team.
    pub team: Team,
    /// The group, `_` if the request named none.
    pub group: Group,
    /// The id.
    pub id: RequestId,
}

impl Identity {
    /// Reads `<team>.<group>.<id>` as it stands in the subjects of stored messages. A wildcard is no identity: read by
    /// it, a record would be another request's.
    pub fn from_tokens(text: &str) -> Option<Self> {
        let mut tokens = text.split('.');
        let (team, group, id) = (tokens.next()?, tokens.next()?, tokens.next()?);
        let is_token = |token: &str| {
            let is_odd = |character: char| character.is_whitespace() || character.is_control();
            !token.is_empty() && !matches!(token, "*" | ">") && !token.contains(is_odd)
        };
        if tokens.next().is_some() || ![team, group, id].into_iter().all(is_token) {
            return None;
        }
        Some(Self { team: Team(team.into()), group: Group(group.into()), id: RequestId(id.into()) })
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.team, self.group, self.id)
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_subject_safe() {
        for good in ["a", "A-z_09", &"x".repeat(64)] {
            assert!(Team::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a.b", "a b", "*", ">", "ü", "a\n", &"x".repeat(65)] {
            assert!(Team::parse(bad).is_err(), "{bad}");
        }
        assert!(RequestId::parse(&"x".repeat(128)).is_ok());
        assert!(RequestId::parse(&"x".repeat(129)).is_err());
    }

    #[test]
    fn a_team_as_published_is_one_token_and_nobody_elses() {
        for (token, expected) in [
            ("research", "research"),
            ("ü", "ü"),
            ("", "?"),
            ("*", "?"),
            (">", "?"),
            ("a b\t\u{a0}", "a?b??"),
            ("a.b\r\n", "a?b??"),
            (&"x".repeat(5000), &"x".repeat(128)),
            (&"ü€".repeat(50), &("ü€".repeat(25) + "ü")),
        ] {
            let team = Team::as_published(token);
            assert_eq!(team.as_str(), expected);
            assert_eq!(Team::parse(team.as_str()).is_ok(), Team::parse(token).is_ok(), "{token}");
        }
    }

    #[test]
    fn what_the_broker_writes_no_client_may_send() {
        assert_eq!(Group::parse("_"), Err(Invalid::Reserved("the group \"_\"")));
        assert!(RequestId::parse("seq-1").is_err());
        assert!(RequestId::parse("sequence").is_ok());
    }

    #[test]
    fn an_identity_is_read_back_from_a_subject() {
        let identity = Identity::from_tokens("team._.seq-7").unwrap();
        assert_eq!(identity.to_string(), "team._.seq-7");
        for bad in ["a.b", "a.b.c.d", "a..c", ""] {
            assert_eq!(Identity::from_tokens(bad), None, "{bad}");
        }
    }
}
