use super::*;

fn plan(text: &str, group: Option<&str>) -> Plan {
    let batch = batch::read(text.to_owned().into()).unwrap();
    Plan::of(batch, Team::parse("t").unwrap(), group.map(|group| Group::parse(group).unwrap()))
}

fn line(custom_id: &str, model: &str) -> String {
    format!(
        "{{\"custom_id\":\"{custom_id}\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{{\"model\":\"{model}\"}}}}\n"
    )
}

#[test]
fn result_files_stand_next_to_the_input() {
    let group = Group::parse("g").unwrap();
    let none = Paths { out: None, errors: None };
    for (input, out, errors) in [
        (Some("a/b.jsonl"), "a/b.out.jsonl", "a/b.errors.jsonl"),
        (Some("b.txt"), "b.txt.out.jsonl", "b.txt.errors.jsonl"),
        (Some("-"), "g.out.jsonl", "g.errors.jsonl"),
        (None, "g.out.jsonl", "g.errors.jsonl"),
    ] {
        let resolved = none.resolve(input.map(Path::new), &group).unwrap();
        assert_eq!(resolved, (out.into(), errors.into()), "{input:?}");
    }
    let onto_itself = Paths { out: Some("a.jsonl".into()), errors: None };
    assert!(onto_itself.resolve(Some(Path::new("a.jsonl")), &group).is_err());
    let twice = Paths { out: Some("x".into()), errors: Some("x".into()) };
    assert!(twice.resolve(None, &group).is_err());
}

#[test]
fn the_same_file_has_the_same_identities() {
    let text = line("a", "m") + &line("b", "m");
    let (first, again) = (plan(&text, None), plan(&text, None));
    assert_eq!((&first.group, &first.ids), (&again.group, &again.ids));
    assert_eq!(first.payload(1).unwrap(), again.payload(1).unwrap());
    assert_ne!(plan(&line("a", "other"), None).id(0), first.id(0), "another file is another group");
    assert_eq!(plan(&line("a", "other"), Some("g")).id(0), plan(&text, Some("g")).id(0));
}

#[test]
fn an_answer_to_another_request_is_told_apart() {
    let (before, now) = (plan(&line("a", "m"), Some("g")), plan(&line("a", "other"), Some("g")));
    let digest = Digest::of(&before.payload(0).unwrap()).to_string();
    assert!(before.is_answer_to(0, Some(&digest)));
    assert!(!now.is_answer_to(0, Some(&digest)));
    assert!(now.is_answer_to(0, None));
    assert!(
        plan(&line("a", "m"), None).is_answer_to(0, Some(&"0".repeat(64))),
        "options may differ in the file's own group"
    );
}

#[test]
fn each_answer_is_taken_once() {
    let plan = plan(&(line("a", "m") + &line("b", "m")), None);
    let mut open = plan.all();
    assert_eq!(open.remove_id(plan.id(1).as_str()), Some(1));
    assert_eq!(open.remove_id(plan.id(1).as_str()), None);
    assert_eq!(open.remove_id("seq-3"), None);
    assert_eq!(open.indices(), [0]);
    open.remove_custom_id("a");
    open.remove_custom_id("zzz");
    assert_eq!(open.remaining(), 0);
}

#[test]
fn a_bad_file_is_refused_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("in.jsonl");
    std::fs::write(&file, line("a", "m") + "{}\n").unwrap();
    let refused = Plan::for_file(&file, Team::parse("t").unwrap(), None).unwrap_err();
    assert_eq!(refused.exit, crate::failure::Exit::Usage);
    assert!(refused.message.contains("line 2: missing_required_parameter"), "{}", refused.message);
    assert!(Plan::for_file(Path::new("/no/such/file"), Team::parse("t").unwrap(), None).is_err());
}

#[test]
fn what_the_server_would_not_take_is_known_before() {
    let plan = plan(&(line("a", "m") + &line("b", &"x".repeat(20_000))), None);
    assert!(plan.check_sizes(1 << 20).is_ok());
    assert!(plan.check_sizes(16_384).unwrap_err().message.starts_with("lines [2]"));
}
