//! Input made to be expensive. The bound is generous: what is quadratic takes minutes.

use std::time::Duration;

use super::*;

#[track_caller]
fn quick(headers: HeaderList<'_>, payload: &[u8]) -> Decoded {
    #[expect(clippy::disallowed_methods, reason = "the test is about time")]
    let start = std::time::Instant::now();
    let decoded = decode_as("research", headers, payload);
    assert!(start.elapsed() < Duration::from_secs(10), "took {:?}", start.elapsed());
    decoded
}

const SIZE: usize = BODY_BYTES_MAX - 200;

#[test]
fn big_input_is_read_in_linear_time() {
    let keys = || (0..SIZE / 14).map(|n| format!("\"key{n:06}\":1")).collect::<Vec<_>>().join(",");
    for payload in [
        "[".repeat(SIZE),
        "{\"a\":".repeat(SIZE / 5),
        format!("\"{}\"", "\\u0000".repeat(SIZE / 6)),
        "\\".repeat(SIZE),
        " ".repeat(SIZE),
        "1".repeat(SIZE),
    ] {
        quick(&[], payload.as_bytes());
    }
    for more in [
        format!(",\"x\":\"{}\"", "\\u0000".repeat(SIZE / 6)),
        format!(",{}", keys()),
        format!(",\"x\":{}", "1".repeat(SIZE)),
        format!(",\"x\":[{}1]", "1,".repeat(SIZE / 2 - 10)),
    ] {
        request(quick(&[], &body_with(&more)));
    }
    for more in [
        format!(",\"tags\":{{{}}}", keys().replace(":1", ":\"\"")),
        format!(",\"fallbacks\":[{}\"m\"]", "\"m\",".repeat(SIZE / 4)),
        format!(",\"ttl_ms\":{}", "1".repeat(SIZE)),
        format!(",\"deadline\":\"{}\"", "1".repeat(SIZE)),
        format!(",\"max_cost_usd\":\"0.{}\"", "1".repeat(SIZE)),
    ] {
        problem(quick(&[], &envelope(&more)));
    }
    let messages = format!(r#"{{"model":"m","messages":[{}{{}}]}}"#, "{},".repeat(SIZE / 3));
    request(quick(&[], messages.as_bytes()));
}

#[test]
fn big_messagepack_is_read_in_linear_time() {
    let zeros = [&[0xdb][..], &u32::try_from(SIZE).unwrap().to_be_bytes(), &vec![0; SIZE]].concat();
    let claims = [&[0xdd][..], &u32::MAX.to_be_bytes(), &vec![0xc2; SIZE]].concat();
    for payload in [vec![0x91; SIZE], vec![0x81; SIZE], zeros, claims, vec![0xdf; SIZE]] {
        problem(quick(MSGPACK, &payload));
    }
}
