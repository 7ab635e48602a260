//! What is written down about the own nats-server: by us in `nats.json`, by the server in its ports file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// `nats.json`: the server that was started last. Clients in the same folder find it by `url`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) url: String,
    pub(super) pid: u32,
    pub(super) port: u16,
}

impl Record {
    pub(super) fn new(pid: u32, port: u16) -> Self {
        Self { url: url(port), pid, port }
    }

    /// `None` if there is none, or none that can be read: it only helps, nothing depends on it.
    pub(super) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// Appears whole or not at all.
    pub(super) fn write(&self, path: &Path) -> std::io::Result<()> {
        let text = serde_json::to_vec(self)?;
        let beside = path.with_extension("json.new");
        std::fs::write(&beside, text)?;
        std::fs::rename(&beside, path)
    }
}

pub(super) fn url(port: u16) -> String {
    format!("nats://127.0.0.1:{port}")
}

/// The file in which the server of this process id says where it listens.
pub(super) fn ports_file(folder: &Path, pid: u32) -> PathBuf {
    folder.join(format!("nats-server_{pid}.ports"))
}

/// The client port out of a ports file.
pub(super) fn client_port(text: &str) -> Option<u16> {
    #[derive(Deserialize)]
    struct Ports {
        nats: Vec<String>,
    }
    let ports: Ports = serde_json::from_str(text).ok()?;
    ports.nats.first()?.rsplit(':').next()?.parse().ok()
}

/// The servers that said where they listen and did not take it back.
pub(super) fn pids_of_ports_files(folder: &Path) -> Vec<u32> {
    ports_files(folder).into_iter().map(|(pid, _)| pid).collect()
}

/// Removes what killed servers have left. Call it only when none is alive.
pub(super) fn remove_ports_files(folder: &Path) {
    for (_, path) in ports_files(folder) {
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::debug!(%error, file = %path.display(), "an old ports file stays");
        }
    }
}

fn ports_files(folder: &Path) -> Vec<(u32, PathBuf)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((pid_of(entry.file_name().to_str()?)?, entry.path()))).collect()
}

fn pid_of(file_name: &str) -> Option<u32> {
    file_name.strip_prefix("nats-server_")?.strip_suffix(".ports")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("nats.json");
        assert_eq!(Record::read(&path), None);
        let record = Record::new(7, 4222);
        record.write(&path).expect("it is written");
        assert_eq!(Record::read(&path), Some(record));
        let text = std::fs::read_to_string(&path).expect("it is there");
        assert_eq!(text, r#"{"url":"nats://127.0.0.1:4222","pid":7,"port":4222}"#);
        std::fs::write(&path, "{").expect("a damaged one");
        assert_eq!(Record::read(&path), None);
    }

    #[test]
    fn ports_files_are_understood() {
        assert_eq!(client_port(r#"{"nats":["nats://127.0.0.1:39441"],"monitoring":[]}"#), Some(39_441));
        for text in ["", "{", r#"{"nats":[]}"#, r#"{"nats":["nats://x"]}"#] {
            assert_eq!(client_port(text), None, "{text}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(ports_file(folder.path(), 12), "").expect("a file");
        std::fs::write(folder.path().join("nats-server_x.ports"), "").expect("a file");
        assert_eq!(pids_of_ports_files(folder.path()), [12]);
        remove_ports_files(folder.path());
        assert_eq!(pids_of_ports_files(folder.path()), Vec::<u32>::new());
    }
}
