//! How a command ends when it does not end well: an exit code that scripts can branch on, and a text that
//! says what to do.

use std::fmt;

use tollgate_bus::ConnectError;

/// Exit codes, part of the public contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Some requests failed; or a broker did not end in an orderly way.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The broker, or its nats-server, could not be reached.
    Unreachable = 3,
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What the process ends with.
    pub(crate) exit: Exit,
    /// For the person at the terminal.
    pub(crate) message: String,
}

impl Failure {
    /// The broker did its part, and something failed.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, message: message.into() }
    }

    /// The command line, a file or the configuration is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into() }
    }

    /// The broker is not there.
    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self { exit: Exit::Unreachable, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Settings { .. } | ConnectError::TooOld { .. } | ConnectError::NoJetStream => {
                Self::usage(error.to_string())
            }
            ConnectError::Unreachable { .. } | ConnectError::Unauthorized { .. } => {
                Self::unreachable(error.to_string())
            }
        }
    }
}
