//! What holds for any bytes at all.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use crate::subject::Subjects;

/// Stands where a prompt stands. No problem may repeat it.
const SECRET: &str = "hunter2-the-secret";

/// Fields of an envelope, some of them wrong.
fn fields() -> impl Strategy<Value = String> {
    let field = select(vec![
        r#""id":"q1""#,
        r#""id":"a.b""#,
        r#""id":7"#,
        r#""group":"g""#,
        r#""group":"_""#,
        r#""group":"*""#,
        r#""endpoint":"chat.completions""#,
        r#""endpoint":"rerank""#,
        r#""endpoint":"hunter2-the-secret""#,
        r#""user":"ada""#,
        r#""user":"hunter2-the-secret\u0000""#,
        r#""tags":{"a":"b"}"#,
        r#""tags":{"a":1}"#,
        r#""ttl_ms":5"#,
        r#""ttl_ms":-5"#,
        r#""ttl_ms":"hunter2-the-secret""#,
        r#""deadline":"2026-03-01T13:00:00+01:30""#,
        r#""deadline":"hunter2-the-secret""#,
        r#""reply_to":"_INBOX.a""#,
        r#""reply_to":"llm.req.a.high""#,
        r#""fallbacks":["m"]"#,
        r#""fallbacks":"hunter2-the-secret""#,
        r#""cache":false"#,
        r#""cache":true"#,
        r#""on_limit":"reject""#,
        r#""on_limit":"hunter2-the-secret""#,
        r#""max_cost_usd":"hunter2-the-secret""#,
        r#""unknown":[1.5,null]"#,
        r#""messages":null"#,
        r#""input":"hunter2-the-secret""#,
        r#""stream":"x""#,
        r#""seq":1"#,
    ]);
    vec(field, 0..5).prop_map(|fields| fields.into_iter().map(|field| format!(",{field}")).collect())
}

fn body() -> impl Strategy<Value = String> {
    let more = select(vec![
        "",
        r#","max_tokens":5"#,
        r#","max_tokens":"hunter2-the-secret""#,
        r#","n":2"#,
        r#","stream":false"#,
        r#","user":"hunter2-the-secret""#,
        r#","model":"hunter2-the-secret""#,
        r#","hunter2-the-secret":1"#,
    ]);
    let messages = select(vec![
        r#"[{"role":"user","content":"hunter2-the-secret"}]"#,
        r#"["hunter2-the-secret"]"#,
        r#""hunter2-the-secret""#,
        r#"{"hunter2-the-secret":1}"#,
    ]);
    (messages, more)
        .prop_map(|(messages, more)| format!(r#"{{"model":"small","messages":{messages}{more}}}"#))
}

fn payload() -> impl Strategy<Value = String> {
    (body(), fields(), any::<bool>())
        .prop_map(|(body, fields, bare)| if bare { body } else { format!(r#"{{"body":{body}{fields}}}"#) })
}

/// One way to damage a payload.
#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    Cut(Index),
    Splice(Index, Vec<u8>),
    Repeat(Index, Index),
}

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let snippet = prop_oneof![
        vec(any::<u8>(), 1..9),
        select(vec![
            "{",
            "[",
            "]",
            "}",
            "\"",
            "\\",
            ",",
            ":null",
            "\\ud800",
            "\u{feff}",
            "1e999",
            "\"body\":"
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    vec(
        prop_oneof![
            (any::<Index>(), any::<u8>()).prop_map(|(at, bits)| Damage::Flip(at, bits)),
            any::<Index>().prop_map(Damage::Cut),
            (any::<Index>(), snippet).prop_map(|(at, bytes)| Damage::Splice(at, bytes)),
            (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Damage::Repeat(from, to)),
        ],
        0..4,
    )
}

fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        if bytes.is_empty() {
            break;
        }
        match damage {
            Damage::Flip(at, bits) => {
                let at = at.index(bytes.len());
                bytes[at] ^= bits;
            }
            Damage::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Damage::Splice(at, more) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, more.iter().copied());
            }
            Damage::Repeat(from, to) => {
                let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
                let copy = bytes[from.min(to)..from.max(to)].to_vec();
                bytes.extend(copy);
            }
        }
    }
    bytes
}

/// What must hold whatever came in.
fn holds(team: &str, headers: HeaderList<'_>, payload: &[u8]) -> Result<(), TestCaseError> {
    let decoded = decode_as(team, headers, payload);
    prop_assert_eq!(&decoded, &decode_as(team, headers, payload), "decoded twice, read twice");
    let head = match &decoded {
        Decoded::Acknowledgement => return Ok(()),
        Decoded::Rejected(head, problem) => {
            let text = format!("{problem} {}", problem.to_openai());
            prop_assert!(!text.contains(SECRET), "{}", text);
            head
        }
        Decoded::Request(request) => {
            let (text, (start, end)) = (request.body.as_str(), request.facts.model_at);
            let model: String = serde_json::from_str(&text[start..end]).unwrap();
            prop_assert_eq!(&model, &request.facts.model);
            prop_assert!(request.head.deadline > request.head.accepted_at);
            &request.head
        }
    };
    let subject = Subjects::default().response(&head.identity);
    prop_assert_eq!(subject.split('.').count(), 5, "{}", subject);
    for token in subject.split('.') {
        let bad =
            |character: char| "*>".contains(character) || character.is_whitespace() || character.is_control();
        prop_assert!(!token.is_empty() && token.len() <= 128 && !token.contains(bad), "{:?}", subject);
    }
    prop_assert_eq!(Subjects::default().parse_response(&subject), Some(head.identity.clone()));
    if let Some(inbox) = &head.reply_to {
        prop_assert!(inbox.starts_with("_INBOX") && !inbox.contains([' ', '*', '>']));
    }
    Ok(())
}

/// Without what must differ between encodings.
fn comparable(decoded: Decoded) -> Decoded {
    let alike = |head: Head| Head { digest: crate::Digest::of(b""), encoding: Encoding::Json, ..head };
    match decoded {
        Decoded::Request(request) => {
            Decoded::Request(Box::new(Request { head: alike(request.head.clone()), ..*request }))
        }
        Decoded::Rejected(head, problem) => Decoded::Rejected(Box::new(alike(*head)), problem),
        Decoded::Acknowledgement => Decoded::Acknowledgement,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_give_a_verdict(team in ".{0,9}", bytes in vec(any::<u8>(), 0..200), packed: bool) {
        holds(&team, if packed { MSGPACK } else { &[] }, &bytes)?;
    }

    #[test]
    fn damaged_json_gives_a_verdict(payload in payload(), damages in damage()) {
        holds("research", &[], &damaged(payload.into_bytes(), &damages))?;
    }

    #[test]
    fn damaged_msgpack_gives_a_verdict(payload in payload(), damages in damage()) {
        if let Ok(value) = serde_json::from_str::<serde_json::Value>(&payload) {
            let packed = rmp_serde::to_vec_named(&value).unwrap();
            holds("research", MSGPACK, &damaged(packed, &damages))?;
        }
    }

    #[test]
    fn any_headers_give_a_verdict(
        values in vec((select(&[
            header::CONTENT_TYPE, header::ID, header::GROUP, header::ENDPOINT, header::PROJECT, header::USER,
            header::TASK, header::TAGS, header::DEADLINE, header::TTL_MS, header::REPLY_TO, header::TRACEPARENT,
        ][..]), prop_oneof![".{0,12}", select(vec!["a=b".to_owned(), "5".into(), "_INBOX.x".into()])]), 0..5),
        payload in payload(),
    ) {
        let headers: Vec<_> = values.iter().map(|(name, value)| (*name, value.as_str())).collect();
        holds("research", &headers, payload.as_bytes())?;
    }

    #[test]
    fn json_and_msgpack_say_the_same(payload in payload()) {
        // Through a `Value`, which sorts fields and drops repeated ones, so that both have the same text.
        let value: serde_json::Value = serde_json::from_str(&payload).unwrap();
        let in_json = decode_as("research", &[], &serde_json::to_vec(&value).unwrap());
        let in_msgpack = decode_as("research", MSGPACK, &rmp_serde::to_vec_named(&value).unwrap());
        prop_assert_eq!(comparable(in_json), comparable(in_msgpack));
    }
}
