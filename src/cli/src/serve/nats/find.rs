//! Finds a nats-server that is new enough.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tollgate_bus::connect::SERVER_VERSION_MIN;

use crate::failure::Failure;

const PROGRAM: &str = "nats-server";
/// A program that does not tell its version by then is none.
const ANSWERS: Duration = Duration::from_secs(10);

/// A usable nats-server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
}

/// The named one, which then has to be usable; else the first usable one on the PATH; else the one that
/// `make tools` fetched into this folder or one above it.
pub(crate) async fn program(named: Option<&Path>) -> Result<Found, Failure> {
    if let Some(path) = named.filter(|path| !path.as_os_str().is_empty()) {
        return probe(path).await.map_err(|reason| {
            Failure::usage(format!("the nats-server that was named cannot be used: {reason}"))
        });
    }
    let here = std::env::current_dir().unwrap_or_default();
    let mut skipped = Vec::new();
    for path in candidates(std::env::var_os("PATH").as_deref(), &here) {
        if !path.is_file() {
            continue;
        }
        match probe(&path).await {
            Ok(found) => return Ok(found),
            Err(reason) => skipped.push(reason),
        }
    }
    Err(Failure::usage(none_found(&skipped)))
}

/// Where to look, in this order.
fn candidates(search_path: Option<&OsStr>, here: &Path) -> Vec<PathBuf> {
    let on_path =
        search_path.into_iter().flat_map(std::env::split_paths).filter(|folder| folder.is_absolute());
    let fetched = here.ancestors().map(|folder| folder.join(".tools"));
    on_path.chain(fetched).map(|folder| folder.join(PROGRAM)).collect()
}

async fn probe(path: &Path) -> Result<Found, String> {
    let shown = path.display();
    let asking = Command::new(path).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
    let answer = tokio::time::timeout(ANSWERS, asking)
        .await
        .map_err(|_| format!("{shown} does not tell its version"))?
        .map_err(|error| format!("{shown} does not run: {error}"))?;
    judge(path, &String::from_utf8_lossy(&answer.stdout))
}

/// `nats-server: v2.15.1` is what a good one says.
fn judge(path: &Path, said: &str) -> Result<Found, String> {
    let shown = path.display();
    let version = said.trim().rsplit(['v', ' ']).next().unwrap_or_default();
    let mut parts = version.split(['.', '-', '+']).map(str::parse::<u64>);
    let (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) = (parts.next(), parts.next(), parts.next())
    else {
        return Err(format!("{shown} is no nats-server"));
    };
    if (major, minor, patch) < SERVER_VERSION_MIN {
        return Err(format!("{shown} is {version}, and 2.12.0 is the oldest that will do"));
    }
    Ok(Found { path: path.to_owned(), version: version.to_owned() })
}

fn none_found(skipped: &[String]) -> String {
    let skipped: String = skipped.iter().map(|reason| format!("\n  not usable: {reason}")).collect();
    format!(
        "no nats-server was found on the PATH, nor in .tools here or above.{skipped}\n\
         Get one in one of these ways:\n\
         \x20 * in a checkout of Tollgate: make tools\n\
         \x20 * https://github.com/nats-io/nats-server/releases (2.12 or newer), unpacked onto the PATH or named \
         with --nats-server\n\
         \x20 * on macOS: brew install nats-server\n\
         Or use one that runs already: tollgate up --server nats://HOST:4222"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_comes_first_then_the_tools_of_the_project() {
        let found = candidates(Some(OsStr::new("/usr/bin::bin:/opt/bin")), Path::new("/home/me/project"));
        let expected = [
            "/usr/bin/nats-server",
            "/opt/bin/nats-server",
            "/home/me/project/.tools/nats-server",
            "/home/me/.tools/nats-server",
            "/home/.tools/nats-server",
            "/.tools/nats-server",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
    }

    #[test]
    fn versions_are_judged() {
        for (said, version) in [
            ("nats-server: v2.15.1\n", Ok("2.15.1")),
            ("nats-server: v2.12.0-RC.3", Ok("2.12.0-RC.3")),
            ("nats-server: v2.9.25", Err("oldest")),
            ("nats-server: v1.4.1", Err("oldest")),
            ("hello", Err("is no nats-server")),
            ("", Err("is no nats-server")),
        ] {
            match (judge(Path::new("/x"), said), version) {
                (Ok(found), Ok(version)) => assert_eq!(found.version, version),
                (Err(reason), Err(part)) => assert!(reason.contains(part), "{reason}"),
                (found, _) => panic!("{said}: {found:?}"),
            }
        }
    }

    #[test]
    fn whoever_has_none_is_told_how_to_get_one() {
        let text =
            none_found(&["/usr/bin/nats-server is 2.9.25, and 2.12.0 is the oldest that will do".into()]);
        for part in ["make tools", "github.com/nats-io", "2.9.25", "--server"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
