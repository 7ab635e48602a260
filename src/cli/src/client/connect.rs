//! Finds the server and connects.
//!
//! `tollgate up` picks its own port when asked to and writes the address into its data folder; a client
//! that was told nothing else looks there first, so that two terminals in one folder find each other.

use std::path::Path;

use clap::Args;
use serde::Deserialize;
use tollgate_bus::{Bus, ConnectError, Connection, PublishError};
use tollgate_protocol::subject::Subjects;

use crate::args::{Global, NATS_URL};
use crate::failure::Failure;

const NAME: &str = "tollgate-client";

/// Where `tollgate up` leaves its server's address, from the folder it was started in.
pub(crate) const ADDRESS_FILE: &str = ".tollgate/nats.json";

/// Which installation on the server.
#[derive(Clone, Debug, Args)]
pub(crate) struct At {
    /// The subject prefix of the installation, as `subject_prefix` in its configuration
    #[arg(long, env = "TOLLGATE_PREFIX", default_value = "llm", value_name = "NAME")]
    #[arg(help_heading = "Connection")]
    pub(crate) prefix: String,
}

impl At {
    /// The names of its subjects and streams.
    pub(crate) fn subjects(&self) -> Result<Subjects, Failure> {
        Subjects::new(&self.prefix)
            .map_err(|error| Failure::usage(format!("--prefix {:?}: {error}", self.prefix)))
    }
}

#[derive(Deserialize)]
struct Address {
    url: String,
}

/// Reads the file that `tollgate up` writes.
fn address(file: &Path) -> Option<String> {
    let text = std::fs::read(file).ok()?;
    serde_json::from_slice::<Address>(&text).ok().map(|address| address.url)
}

/// Connects to the server of the command line, else to that of `tollgate up` in this folder if it lives,
/// else to the default one.
pub(crate) async fn bus(global: &Global, at: &At) -> Result<Bus, Failure> {
    let subjects = at.subjects()?;
    Ok(Bus::new(connection(global).await?, subjects))
}

async fn connection(global: &Global) -> Result<Connection, Failure> {
    let connect = &global.connect;
    if connect.named_server().is_none()
        && let Some(server) = address(Path::new(ADDRESS_FILE))
    {
        match Connection::open(&connect.settings_for(&server, NAME)).await {
            Ok(connection) => return Ok(connection),
            Err(ConnectError::Unreachable { .. }) => {
                // Another broker may be there: nobody should take its answers for those of this folder's.
                tracing::warn!(
                    server,
                    "the server named in {ADDRESS_FILE} is not running; trying {NATS_URL}"
                );
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Connection::open(&connect.settings(NAME)).await?)
}

/// What a refused publish means to the person who asked for it.
pub(crate) fn publish_failure(error: &PublishError) -> Failure {
    match error {
        PublishError::Permission(_) => {
            Failure::usage(format!("{error}. Check --team and the credentials: they are for one team"))
        }
        PublishError::TooLarge { .. } => Failure::usage(format!(
            "{error}. Make the request smaller, or raise max_payload of the nats-server"
        )),
        PublishError::NoAnswer(_) | PublishError::StoreFull(_) => Failure::unreachable(error.to_string()),
        _ => Failure::failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_running_server_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("nats.json");
        assert_eq!(address(&file), None);
        std::fs::write(&file, r#"{"url":"nats://127.0.0.1:5000","pid":7}"#).unwrap();
        assert_eq!(address(&file).as_deref(), Some("nats://127.0.0.1:5000"));
        std::fs::write(&file, "{").unwrap();
        assert_eq!(address(&file), None);
    }
}
