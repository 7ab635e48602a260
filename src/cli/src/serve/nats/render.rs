//! The nats-server's configuration: a template of the repository with five names filled in. Pure.

use std::path::{Path, PathBuf};

use tollgate_config::Durability;

const TEMPLATE: &str = include_str!("../../../../../nats/server.conf.template");

/// Where the configuration of a server in this folder is; by it a server of ours is recognised.
pub(super) fn config_path(folder: &Path) -> PathBuf {
    folder.join("server.conf")
}

/// What is filled in.
#[derive(Clone, Debug)]
pub(super) struct Values<'a> {
    pub(super) host: &'a str,
    /// 0 is any free one.
    pub(super) port: u16,
    pub(super) store: &'a Path,
    pub(super) store_max: &'a str,
    pub(super) durability: Durability,
}

/// The configuration, or why there can be none.
pub(super) fn config(values: &Values<'_>) -> Result<String, String> {
    let store = values
        .store
        .to_str()
        .ok_or_else(|| format!("the folder {} has a name that is not text", values.store.display()))?;
    let port = if values.port == 0 { "-1".to_owned() } else { values.port.to_string() };
    let sync_interval = match values.durability {
        Durability::ProcessCrash => "2m",
        Durability::PowerLoss => "always",
    };
    let filled = fill(&[
        ("host", &quoted(values.host)),
        ("port", &port),
        ("store_dir", &quoted(store)),
        ("max_file_store", values.store_max),
        ("sync_interval", sync_interval),
    ]);
    Ok(filled)
}

/// Goes through the template once, so that a value with braces in it stays what it is.
fn fill(values: &[(&str, &str)]) -> String {
    let mut parts = TEMPLATE.split("{{");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("}}").unwrap_or((part, ""));
        let value = values.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value);
        text.push_str(value);
        text.push_str(rest);
    }
    text
}

/// For the inside of a quoted string of the nats-server's format.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            other => quoted.push(other),
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(store: &str, port: u16, durability: Durability) -> String {
        let store = Path::new(store);
        config(&Values { host: "127.0.0.1", port, store, store_max: "10GB", durability }).expect("plain text")
    }

    #[test]
    fn every_name_is_filled_in() {
        let text = rendered("/data/nats", 4222, Durability::ProcessCrash);
        let values: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| {
                ["host", "port", "store_dir", "max_file_store", "sync_interval"]
                    .iter()
                    .any(|name| line.starts_with(&format!("{name}:")))
            })
            .collect();
        let expected = [
            r#"host: "127.0.0.1""#,
            "port: 4222",
            r#"store_dir: "/data/nats""#,
            "max_file_store: 10GB",
            "sync_interval: 2m",
        ];
        assert_eq!(values, expected);
        assert!(!text.contains("{{") && !text.contains("}}"), "{text}");
    }

    #[test]
    fn port_and_durability_mean_what_they_say() {
        let text = rendered("/data", 0, Durability::PowerLoss);
        assert!(text.contains("port: -1\n") && text.contains("sync_interval: always\n"), "{text}");
    }

    #[test]
    fn paths_stay_what_they_are() {
        let text = rendered(r#"/a b/"q"\ü {{port}}"#, 1, Durability::ProcessCrash);
        assert!(text.contains(r#"store_dir: "/a b/\"q\"\\ü {{port}}""#), "{text}");
    }
}
