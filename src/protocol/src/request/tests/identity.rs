//! Identities, reply inboxes and labels.

use super::*;
use crate::ErrorCode::*;

fn of(id: &str, group: &str) -> Vec<u8> {
    format!(r#"{{"id":"{id}","group":"{group}","body":{BODY}}}"#).into()
}

#[test]
fn ids_and_groups() {
    let id = |id: &str| of(id, "g1");
    let group = |group: &str| of("q1", group);
    check(vec![
        Row("empty id", &[], id(""), Unaddressed(InvalidIdentity, "id")),
        Row("id with a dot", &[], id("a.b"), Unaddressed(InvalidIdentity, "id")),
        Row("id with a star", &[], id("a*"), Unaddressed(InvalidIdentity, "id")),
        Row("id with >", &[], id(">"), Unaddressed(InvalidIdentity, "id")),
        Row("id with a space", &[], id("a b"), Unaddressed(InvalidIdentity, "id")),
        Row("id with a line break", &[], id("a\\nb"), Unaddressed(InvalidIdentity, "id")),
        Row("id with NUL", &[], id("\\u0000"), Unaddressed(InvalidIdentity, "id")),
        Row("id with ü", &[], id("ü"), Unaddressed(InvalidIdentity, "id")),
        Row("id that is half a surrogate pair", &[], id("\\ud800"), Unaddressed(InvalidIdentity, "id")),
        Row("id of the broker", &[], id("seq-7"), Unaddressed(InvalidIdentity, "id")),
        Row("id of the broker, escaped", &[], id("\\u0073eq-7"), Unaddressed(InvalidIdentity, "id")),
        Row("id of 129", &[], id(&"x".repeat(129)), Unaddressed(InvalidIdentity, "id")),
        Row("id of 128", &[], id(&"x".repeat(128)), Accepted(|_| {})),
        Row(
            "id with an escape",
            &[],
            id("\\u0071-1"),
            Accepted(|request| {
                assert_eq!(request.head.identity.to_string(), "research.g1.q-1");
            }),
        ),
        Row("id seq", &[], id("seq"), Accepted(|_| {})),
        Row("id Seq-1", &[], id("Seq-1"), Accepted(|_| {})),
        Row("group _", &[], group("_"), Unaddressed(InvalidIdentity, "group")),
        Row("group __", &[], group("__"), Accepted(|_| {})),
        Row("empty group", &[], group(""), Unaddressed(InvalidIdentity, "group")),
        Row("group of 65", &[], group(&"x".repeat(65)), Unaddressed(InvalidIdentity, "group")),
        Row("group of 64", &[], group(&"x".repeat(64)), Accepted(|_| {})),
        Row("group with a dot", &[], group("a.b"), Unaddressed(InvalidIdentity, "group")),
        Row(
            "no group",
            &[],
            format!(r#"{{"id":"q1","body":{BODY}}}"#).into(),
            Accepted(|request| {
                assert_eq!(request.head.identity.to_string(), "research._.q1");
            }),
        ),
        Row(
            "headers are for bare bodies",
            &[(header::ID, "other"), (header::GROUP, "_")],
            of("q1", "g1"),
            Accepted(|request| {
                assert_eq!(request.head.identity.to_string(), "research.g1.q1");
            }),
        ),
    ]);
}

#[test]
fn a_team_that_cannot_be_is_rejected_where_it_can_hear_it() {
    for (team, answered) in [
        ("a b", "a?b._.seq-7"),
        ("*", "?._.seq-7"),
        (">", "?._.seq-7"),
        ("ü", "ü._.seq-7"),
        ("", "?._.seq-7"),
        ("a\u{7f}", "a?._.seq-7"),
        ("a$b", "a$b._.seq-7"),
        (&"x".repeat(65), &("x".repeat(65) + "._.seq-7")),
        (&"x".repeat(4000), &("x".repeat(128) + "._.seq-7")),
    ] {
        let Decoded::Rejected(head, problem) = decode_as(team, &[], &envelope("")) else { panic!("{team}") };
        assert_eq!((problem.code, problem.field.as_deref()), (InvalidIdentity, Some("team")), "{team}");
        assert_eq!(head.identity.to_string(), answered);
    }
}

#[test]
fn only_inboxes_get_answers() {
    fn to(inbox: &str) -> Vec<u8> {
        envelope(&format!(r#","reply_to":"{inbox}""#))
    }
    let bad = || Rejected(InvalidReplyTo, "reply_to");
    check(vec![
        Row("a request subject", &[], to("llm.req.x.high"), bad()),
        Row("no token", &[], to("_INBOX"), bad()),
        Row("an empty token", &[], to("_INBOX."), bad()),
        Row("an empty token inside", &[], to("_INBOX.a..b"), bad()),
        Row("all inboxes", &[], to("_INBOX.>"), bad()),
        Row("any inbox", &[], to("_INBOX.*"), bad()),
        Row("a star inside", &[], to("_INBOX.a*b"), bad()),
        Row("another word", &[], to("_INBOXfoo.x"), bad()),
        Row("a space", &[], to("_INBOX.a b"), bad()),
        Row("a space before", &[], to(" _INBOX.a"), bad()),
        Row("a line break", &[], to("_INBOX.a\\r\\nPUB"), bad()),
        Row("not ASCII", &[], to("_INBOX.ü"), bad()),
        Row("lower case", &[], to("_inbox.a"), bad()),
        Row("empty", &[], to(""), bad()),
        Row("257 bytes", &[], to(&format!("_INBOX.{}", "x".repeat(250))), bad()),
        Row("256 bytes", &[], to(&format!("_INBOX.{}", "x".repeat(249))), Accepted(|_| {})),
        Row(
            "an inbox",
            &[],
            to("_INBOX.abc.1"),
            Accepted(|request| {
                assert_eq!(request.head.reply_to.as_deref(), Some("_INBOX.abc.1"));
            }),
        ),
        Row("a prefix of its own", &[], to("_INBOX_research.abc"), Accepted(|_| {})),
        Row("a bad header", &[(header::REPLY_TO, "llm.req.x.high")], envelope(""), bad()),
        Row("a bad field under a good header", &[(header::REPLY_TO, "_INBOX.h")], to("x"), bad()),
        Row(
            "the header goes before",
            &[(header::REPLY_TO, "_INBOX.h")],
            to("_INBOX.f"),
            Accepted(|request| {
                assert_eq!(request.head.reply_to.as_deref(), Some("_INBOX.h"));
            }),
        ),
    ]);
    let Decoded::Rejected(head, _) =
        decode_json(of("a.b", "g").replace(b"}}", r#"},"reply_to":"_INBOX.a"}"#))
    else {
        panic!()
    };
    assert_eq!(head.reply_to.as_deref(), Some("_INBOX.a"), "a bad id does not silence the reply");
}

trait Replace {
    fn replace(&self, tail: &[u8], with: &str) -> Vec<u8>;
}

impl Replace for Vec<u8> {
    fn replace(&self, tail: &[u8], with: &str) -> Vec<u8> {
        [self.strip_suffix(tail).unwrap(), with.as_bytes()].concat()
    }
}

#[test]
fn labels_are_short_and_printable() {
    let tags = |tags: &str| envelope(&format!(r#","tags":{{{tags}}}"#));
    let many = |count: usize| (0..count).map(|n| format!(r#""t{n}":"v""#)).collect::<Vec<_>>().join(",");
    let bad = || Rejected(InvalidField, "tags");
    check(vec![
        Row(
            "16 tags",
            &[],
            tags(&many(16)),
            Accepted(|request| assert_eq!(request.head.meta.tags.len(), 16)),
        ),
        Row("17 tags", &[], tags(&many(17)), bad()),
        Row("no tags", &[], tags(""), Accepted(|_| {})),
        Row("an empty name", &[], tags(r#""":"v""#), bad()),
        Row("an empty value", &[], tags(r#""a":"""#), bad()),
        Row("a name of 65", &[], tags(&format!(r#""{}":"v""#, "x".repeat(65))), bad()),
        Row("a name of 64", &[], tags(&format!(r#""{}":"v""#, "x".repeat(64))), Accepted(|_| {})),
        Row("a value of 257", &[], tags(&format!(r#""a":"{}""#, "x".repeat(257))), bad()),
        Row("a value of 256", &[], tags(&format!(r#""a":"{}""#, "x".repeat(256))), Accepted(|_| {})),
        Row("a value of 129 ü, 258 bytes", &[], tags(&format!(r#""a":"{}""#, "ü".repeat(129))), bad()),
        Row("a control character", &[], tags(r#""a":"\u0007""#), bad()),
        Row("a line break in a name", &[], tags(r#""a\nb":"v""#), bad()),
        Row("a tag twice", &[], tags(r#""a":"1","a":"2""#), bad()),
        Row("any other character", &[], tags(r#""a b":"ü, = 🚀""#), Accepted(|_| {})),
        Row("an empty project", &[], envelope(r#","project":"""#), Rejected(InvalidField, "project")),
        Row(
            "a long user",
            &[],
            envelope(&format!(r#","user":"{}""#, "x".repeat(257))),
            Rejected(InvalidField, "user"),
        ),
        Row("a task with DEL", &[], envelope(r#","task":"\u007f""#), Rejected(InvalidField, "task")),
    ]);
}
