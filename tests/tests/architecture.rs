//! The shape of the workspace: which part may use which, how large a file may be, and a code map that tells
//! the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Every crate of ours, and which of ours it may use, in tests too. A new crate needs a line here, and a
/// reason in `docs/decisions/`.
const MAY_USE: [(&str, &[&str]); 15] = [
    ("tollgate-protocol", &[]),
    ("tollgate-policy", &["tollgate-protocol"]),
    // A megabyte of vocabularies: only who takes requests in carries them.
    ("tollgate-tokens", &["tollgate-protocol", "tollgate-policy"]),
    ("tollgate-config", &["tollgate-protocol", "tollgate-policy"]),
    ("tollgate-bus", &["tollgate-protocol"]),
    ("tollgate-telemetry", &[]),
    // Both who choose targets and who call them know which are up.
    ("tollgate-health", &["tollgate-protocol", "tollgate-policy", "tollgate-bus"]),
    (
        "tollgate-router",
        &[
            "tollgate-protocol",
            "tollgate-policy",
            "tollgate-tokens",
            "tollgate-config",
            "tollgate-bus",
            "tollgate-telemetry",
            "tollgate-health",
        ],
    ),
    ("tollgate-ledger", SHELL),
    ("tollgate-ask", SHELL),
    (
        "tollgate-workers",
        &["tollgate-protocol", "tollgate-policy", "tollgate-bus", "tollgate-telemetry", "tollgate-health"],
    ),
    (
        "tollgate",
        &[
            "tollgate-protocol",
            "tollgate-policy",
            "tollgate-config",
            "tollgate-bus",
            "tollgate-telemetry",
            "tollgate-health",
            "tollgate-router",
            "tollgate-ledger",
            "tollgate-ask",
            "tollgate-workers",
        ],
    ),
    // Stands for the server, and so knows nothing of ours.
    ("tollgate-model", &[]),
    ("tollgate-sim", &["tollgate-protocol", "tollgate-policy", "tollgate-model"]),
    // A checker that shared code with what it checks would share its mistakes. The model is none of what it checks: it is
    // compared with the server there.
    ("tollgate-tests", &["tollgate-model"]),
];

/// What a shell may use. None of them uses another.
const SHELL: &[&str] =
    &["tollgate-protocol", "tollgate-policy", "tollgate-config", "tollgate-bus", "tollgate-telemetry"];

/// Crates that do no IO.
const PURE: [&str; 6] = [
    "tollgate-protocol",
    "tollgate-policy",
    "tollgate-tokens",
    "tollgate-config",
    "tollgate-model",
    "tollgate-sim",
];

/// What no pure crate may bring in, by itself or through others.
const IO: [&str; 10] = [
    "tokio",
    "tokio-util",
    "async-nats",
    "reqwest",
    "hyper",
    "axum",
    "sled",
    "nix",
    "mio",
    "tracing-subscriber",
];

/// A file with as many lines is two files.
const LINES_MAX: usize = 500;

/// Files that may be longer, each with its reason.
const LONG: [(&str, &str); 0] = [];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn metadata() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// Package → what it depends on, for the kinds of dependency that `counts` accepts.
fn dependencies(counts: impl Fn(&Value) -> bool) -> BTreeMap<String, BTreeSet<String>> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    metadata()
        .iter()
        .map(|package| {
            let all = package["dependencies"].as_array().unwrap();
            let names = all.iter().filter(|dependency| counts(dependency)).map(|one| text(&one["name"]));
            (text(&package["name"]), names.collect())
        })
        .collect()
}

#[test]
fn dependencies_point_one_way() {
    let ours: BTreeMap<_, _> = MAY_USE.into_iter().collect();
    let found = dependencies(|_| true);
    let known: BTreeSet<_> = ours.keys().map(|name| (*name).to_owned()).collect();
    assert_eq!(found.keys().cloned().collect::<BTreeSet<_>>(), known, "the crates of the workspace");
    for (name, uses) in &found {
        for other in uses.iter().filter(|other| known.contains(*other)) {
            assert!(ours[name.as_str()].contains(&other.as_str()), "{name} must not use {other}");
        }
    }
}

#[test]
fn decisions_and_formats_do_no_io() {
    let direct = dependencies(|dependency| dependency["kind"].is_null());
    let locked = locked();
    for name in PURE {
        for io in IO {
            assert!(!direct[name].contains(io), "{name} must not use {io}");
        }
        // The lock file does not tell tests from the product, so this is stricter: not even for tests.
        let reached = reach(&locked, name);
        let io: Vec<_> = IO.iter().filter(|io| reached.contains(**io)).collect();
        assert!(io.is_empty(), "{name} reaches {io:?} through its dependencies");
    }
}

/// Package → its dependencies, out of `Cargo.lock`. Versions are not told apart.
fn locked() -> BTreeMap<String, BTreeSet<String>> {
    let text = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let mut packages: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for block in text.split("[[package]]").skip(1) {
        let mut names = block.lines().filter_map(|line| {
            let line = line.trim();
            line.strip_prefix("name = ").or_else(|| line.strip_prefix('"').map(|_| line))
        });
        let name = |quoted: &str| {
            let plain = quoted.trim_matches(|character| character == '"' || character == ',');
            plain.split(' ').next().unwrap().to_owned()
        };
        let package = name(names.next().unwrap());
        packages.entry(package).or_default().extend(names.map(name));
    }
    assert!(packages.contains_key("tokio"), "the lock file was not understood");
    packages
}

fn reach(packages: &BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<String> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from.to_owned()]);
    while let Some(name) = open.pop() {
        if seen.insert(name.clone()) {
            open.extend(packages.get(&name).into_iter().flatten().cloned());
        }
    }
    assert!(packages.contains_key(from), "{from} is in the lock file");
    seen
}

#[test]
fn files_are_short_enough_to_read() {
    let mut files = Vec::new();
    for folder in ["src", "workers", "tests"] {
        rust_files(&root().join(folder), &mut files);
    }
    assert!(files.len() > 100, "found {} files", files.len());
    let exceptions: BTreeMap<_, _> = LONG.into_iter().collect();
    for file in files {
        let name = file.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        let lines = std::fs::read_to_string(&file).unwrap().lines().count();
        let allowed = exceptions.contains_key(name.as_str());
        assert!(
            lines < LINES_MAX || allowed,
            "{name} has {lines} lines: split it by what its parts are about"
        );
        assert!(lines >= LINES_MAX || !allowed, "{name} needs no exception any more");
    }
}

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // A build started in a crate's own folder leaves generated sources there.
        if path.is_dir() && !path.ends_with("target") {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// What stands between backticks in a text.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn the_code_map_shows_what_is_there() {
    let map = std::fs::read_to_string(root().join("src/README.md")).unwrap();
    let mut functions = 0;
    for place in quoted(&map).filter(|text| text.contains(".rs")) {
        let (file, function) = place.split_once("::").unwrap_or((place, ""));
        let text = std::fs::read_to_string(root().join(file));
        let text = text.unwrap_or_else(|error| panic!("the code map names {file}: {error}"));
        if !function.is_empty() {
            functions += 1;
            let there =
                text.contains(&format!("fn {function}(")) || text.contains(&format!("fn {function}<"));
            assert!(there, "the code map names {place}, and {file} has no such function");
        }
    }
    assert!(functions > 10, "the walk of a request names {functions} functions");
    for (name, _) in MAY_USE {
        let folder = match name.strip_prefix("tollgate-") {
            None => "src/cli",
            Some(part @ ("workers" | "tests")) => part,
            Some(part @ ("model" | "sim")) => &format!("tests/{part}"),
            Some(part) => &format!("src/{part}"),
        };
        assert!(root().join(folder).join("Cargo.toml").is_file(), "{folder} is a crate");
        assert!(quoted(&map).any(|text| text == folder), "the code map lacks {folder}");
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut documents =
        vec![root().join("README.md"), root().join("CONTRIBUTING.md"), root().join("CHANGELOG.md")];
    for folder in ["docs", "docs/decisions", "src", "tests", "nats"] {
        let entries = std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
        documents.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    let mut links = 0;
    for document in documents {
        let text = std::fs::read_to_string(&document).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap();
            if path.is_empty() || path.contains("://") || path.contains(char::is_whitespace) {
                continue;
            }
            links += 1;
            let from = document.parent().unwrap();
            assert!(from.join(path).exists(), "{} links to {path}, which is not there", document.display());
        }
    }
    assert!(links > 20, "found {links} links");
}
