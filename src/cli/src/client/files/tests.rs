use tollgate_protocol::{NanoUsd, RequestId, TokenUsage};

use super::*;

fn wanted(custom_id: &str) -> Option<String> {
    custom_id.starts_with("c-").then(|| format!("id-{custom_id}"))
}

fn line(custom_id: &str) -> String {
    format!(r#"{{"custom_id":"{custom_id}","tollgate":{{"id":"id-{custom_id}","cost_nano_usd":5}}}}"#)
}

fn success(custom_id: &str) -> Answer {
    Answer { place: Place::Out, line: line(custom_id), cost: NanoUsd(5), usage: TokenUsage::default() }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn open(&self) -> Result<(Files, Vec<String>), Failure> {
        let mut found = Vec::new();
        let files =
            Files::open(&self.path("out"), &self.path("err"), wanted, |id| found.push(id.to_owned()))?;
        Ok((files, found))
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.path(name)).ok()
    }
}

#[test]
fn files_get_their_names_at_the_end() {
    let folder = Folder::new();
    let (mut files, found) = folder.open().unwrap();
    assert!(found.is_empty());
    files.add(&success("c-1")).unwrap();
    files.flush().unwrap();
    assert_eq!(folder.read("out"), None);
    assert_eq!(folder.read("out.partial").unwrap(), line("c-1") + "\n");
    let finished = files.finish().unwrap();
    assert_eq!(finished, Finished { out: folder.path("out"), errors: None, removed: None });
    assert_eq!(folder.read("out").unwrap(), line("c-1") + "\n");
    assert_eq!(
        (folder.read("out.partial"), folder.read("err"), folder.read("err.partial")),
        (None, None, None)
    );
}

#[test]
fn a_killed_run_is_continued() {
    let folder = Folder::new();
    let cut = &line("c-3")[..20];
    folder
        .write("out.partial", &format!("{}\n{}\nnonsense\n{}\n{cut}", line("c-1"), line("x-9"), line("c-2")));
    folder.write("err.partial", &format!("{}\n{}\n", line("c-4"), line("c-1")));
    let (mut files, found) = folder.open().unwrap();
    assert_eq!(found, ["c-1", "c-2", "c-4"]);
    assert_eq!((files.tally().succeeded, files.tally().failed, files.dropped()), (2, 1, 1));
    assert_eq!(files.tally().cost_nano_usd, NanoUsd(15));
    files.add(&success("c-3")).unwrap();
    files.finish().unwrap();
    assert_eq!(
        folder.read("out").unwrap(),
        [line("c-1"), line("c-2"), line("c-3"), String::new()].join("\n")
    );
    assert_eq!(folder.read("err").unwrap(), line("c-4") + "\n");
}

#[test]
fn of_a_complete_run_the_successes_are_kept() {
    let folder = Folder::new();
    folder.write("out", &format!("{}\n{}\n", line("c-1"), line("x-1")));
    folder.write("err", &format!("{}\n", line("c-2")));
    let (mut files, found) = folder.open().unwrap();
    assert_eq!(found, ["c-1"]);
    files.add(&success("c-2")).unwrap();
    let finished = files.finish().unwrap();
    assert_eq!(finished.removed, Some(folder.path("err")));
    assert_eq!(folder.read("err"), None);
    assert_eq!(folder.read("out").unwrap(), format!("{}\n{}\n", line("c-1"), line("c-2")));
}

#[test]
fn two_runs_at_once_are_refused() {
    let folder = Folder::new();
    let (first, _) = folder.open().unwrap();
    let refused = folder.open().unwrap_err();
    assert!(refused.message.contains("another tollgate"), "{}", refused.message);
    drop(first);
    assert!(folder.open().is_ok());
}

#[test]
fn failures_are_written_to_their_own_file() {
    let folder = Folder::new();
    let (mut files, _) = folder.open().unwrap();
    let failure = crate::client::batch::duplicate("c-1", &RequestId::parse("id-c-1").unwrap());
    files.add(&failure).unwrap();
    let finished = files.finish().unwrap();
    assert_eq!(finished.errors, Some(folder.path("err")));
    assert_eq!(folder.read("out").unwrap(), "");
}
