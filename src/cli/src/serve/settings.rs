//! Finds and reads the configuration.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tollgate_config::Settings;

use crate::failure::Failure;

/// Used when it is there and no other was named.
const FILE: &str = "tollgate.toml";

/// The text of a configuration, for what is laid over it.
#[derive(Clone)]
pub(super) struct Own {
    pub(super) text: String,
}

/// It may have a key in it.
impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Own(…)")
    }
}

/// Settings and where they are from.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) settings: Settings,
    /// The text that they are from.
    pub(super) own: Own,
    /// `None`: there is no file, these are the settings to try things out with.
    pub(super) file: Option<PathBuf>,
}

/// Reads the named file, else `tollgate.toml` of the current folder if there is one.
pub(super) fn load(named: Option<&Path>) -> Result<Loaded, Failure> {
    let named = named.filter(|path| !path.as_os_str().is_empty());
    let environment = |name: &str| variable(name);
    let path = named.unwrap_or(Path::new(FILE));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => {
            let own = Own { text: tollgate_config::zero_text(&environment) };
            return Ok(warned(Loaded { settings: tollgate_config::zero(&environment), own, file: None }));
        }
        Err(error) => {
            return Err(Failure::usage(format!("cannot read the configuration {}: {error}", path.display())));
        }
    };
    let settings = tollgate_config::load(&text, &path.display().to_string(), &environment)
        .map_err(|report| Failure::usage(format!("the configuration has problems:\n{report}")))?;
    Ok(warned(Loaded { settings, own: Own { text }, file: Some(path.to_owned()) }))
}

fn warned(loaded: Loaded) -> Loaded {
    for warning in &loaded.settings.warnings {
        tracing::warn!("{warning}");
    }
    loaded
}

#[expect(clippy::disallowed_methods, reason = "where `env:NAME` of the configuration is looked up")]
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn a_named_file_has_to_be_there_and_right() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("my.toml");
        let failure = load(Some(&path)).expect_err("no such file");
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.contains("my.toml"), "{failure}");

        std::fs::write(&path, "[teams.research]\nwieght = 1\n").expect("a file");
        let failure = load(Some(&path)).expect_err("a wrong key");
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.contains("my.toml:2:"), "{failure}");
    }
}
