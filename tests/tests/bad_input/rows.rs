//! One row for each way to be wrong.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tollgate_tests::request::{Encoding, encode};

/// Where the answer to a bad request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// Under the identity that the request names: group `g`, the row's number as id.
    Named,
    /// Under group `_` and `seq-<sequence>`.
    Sequence,
}

/// A bad request and its documented verdict.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) team: &'static str,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) payload: Bytes,
    pub(super) at: At,
    pub(super) code: &'static str,
    /// Empty if no field is at fault.
    pub(super) field: &'static str,
}

/// The id of the `n`-th row.
pub(super) fn id(n: usize) -> String {
    format!("row-{n}")
}

/// A body that is right.
fn chat() -> Value {
    json!({"model": "small", "messages": [{"role": "user", "content": "bad input"}]})
}

fn in_the_past() -> String {
    (chrono::Utc::now() - Duration::from_secs(60)).to_rfc3339()
}

fn in_eight_days() -> String {
    (chrono::Utc::now() + Duration::from_secs(8 * 24 * 60 * 60)).to_rfc3339()
}

/// Collects rows.
struct Rows(Vec<Row>);

impl Rows {
    fn add(
        &mut self,
        name: &'static str,
        payload: impl Into<Bytes>,
        at: At,
        code: &'static str,
        field: &'static str,
    ) {
        let payload = payload.into();
        self.0.push(Row { name, team: "research", headers: Vec::new(), payload, at, code, field });
    }

    fn header(&mut self, name: &'static str, value: impl Into<String>) {
        self.0.last_mut().unwrap().headers.push((name, value.into()));
    }

    fn team(&mut self, team: &'static str) {
        self.0.last_mut().unwrap().team = team;
    }

    /// An envelope with one field that is wrong, which is also the field that is reported.
    fn field(&mut self, name: &'static str, field: &'static str, value: Value, code: &'static str) {
        let payload = envelope(self.0.len(), |envelope| envelope[field] = value);
        self.add(name, payload, At::Named, code, field);
    }

    /// An envelope whose body has one field that is wrong.
    fn body(&mut self, name: &'static str, field: &'static str, value: Value, code: &'static str) {
        let inside = field.strip_prefix("body.").unwrap();
        let payload = envelope(self.0.len(), |envelope| envelope["body"][inside] = value);
        self.add(name, payload, At::Named, code, field);
    }

    /// An envelope whose identity is wrong.
    fn identity(&mut self, name: &'static str, field: &'static str, value: impl Into<Value>) {
        let payload = envelope(self.0.len(), |envelope| envelope[field] = value.into());
        self.add(name, payload, At::Sequence, "invalid_identity", field);
    }
}

fn envelope(n: usize, spoil: impl FnOnce(&mut Value)) -> Bytes {
    let mut envelope = json!({"id": id(n), "group": "g", "body": chat()});
    spoil(&mut envelope);
    encode(&envelope, Encoding::Json)
}

pub(super) fn all() -> Vec<Row> {
    let mut rows = Rows(Vec::new());
    unreadable(&mut rows);
    message_pack(&mut rows);
    identities(&mut rows);
    fields(&mut rows);
    bodies(&mut rows);
    bare(&mut rows);
    access(&mut rows);
    rows.0
}

fn unreadable(rows: &mut Rows) {
    let bad = "invalid_envelope";
    rows.add("nothing", "", At::Sequence, bad, "");
    rows.add("not JSON", "{ this is not JSON", At::Sequence, bad, "");
    rows.add("half of an object", r#"{"id":"q","body":{"#, At::Sequence, bad, "");
    rows.add("two objects", "{}{}", At::Sequence, bad, "");
    rows.add("an array", "[1,2]", At::Sequence, bad, "");
    rows.add("a number", "17", At::Sequence, bad, "");
    rows.add("NaN", r#"{"id":NaN}"#, At::Sequence, bad, "");
    rows.add("not UTF-8", &b"{\"id\":\"\xff\xfe\"}"[..], At::Sequence, bad, "");
    rows.add("a byte order mark", "\u{feff}{}", At::Sequence, bad, "");
    rows.add("random bytes", &[0_u8, 159, 146, 150, 1, 2, 3][..], At::Sequence, bad, "");
    rows.add("an empty object", "{}", At::Sequence, "missing_field", "body");
    rows.add("id twice", r#"{"id":"a","id":"b","body":{}}"#, At::Sequence, bad, "id");
    let open = "[".repeat(100_000);
    rows.add("100,000 open brackets", open, At::Sequence, bad, "");
    let deep = nested_body(rows.0.len(), 200);
    rows.add("a body nested 200 deep", deep, At::Named, "too_deep", "");
    let payload = envelope(rows.0.len(), |_| {});
    rows.add("a content type that is not served", payload, At::Named, "unsupported_encoding", "Content-Type");
    rows.header("Content-Type", "text/xml");
}

fn nested_body(n: usize, depth: usize) -> String {
    let (id, open, close) = (id(n), "[".repeat(depth), "]".repeat(depth));
    format!(
        r#"{{"id":"{id}","group":"g","body":{{"model":"small","messages":[{{"role":"user"}}],"x":{open}{close}}}}}"#
    )
}

fn message_pack(rows: &mut Rows) {
    let packed = |n: usize, spoil: fn(&mut Value)| {
        let mut envelope = json!({"id": id(n), "group": "g", "body": chat()});
        spoil(&mut envelope);
        encode(&envelope, Encoding::MessagePack).to_vec()
    };
    let mut trailing = packed(rows.0.len(), |_| {});
    trailing.push(0xc0);
    rows.add("MessagePack and a byte more", trailing, At::Sequence, "invalid_envelope", "");
    rows.header("Content-Type", "application/msgpack");
    let mut short = packed(rows.0.len(), |_| {});
    short.truncate(short.len() - 3);
    rows.add("MessagePack that ends early", short, At::Sequence, "invalid_envelope", "");
    rows.header("Content-Type", "application/msgpack");
    // A map of one entry: "body" → three bytes of binary data.
    let binary = b"\x81\xa4body\xc4\x03abc".to_vec();
    rows.add("MessagePack with binary data", binary, At::Sequence, "invalid_envelope", "");
    rows.header("Content-Type", "application/msgpack");
    rows.add("JSON called MessagePack", envelope(rows.0.len(), |_| {}), At::Sequence, "invalid_envelope", "");
    rows.header("Content-Type", "application/msgpack");
    let negative = packed(rows.0.len(), |envelope| envelope["body"]["n"] = json!(-1));
    rows.add("a negative number in MessagePack", negative, At::Named, "invalid_field", "body.n");
    rows.header("Content-Type", "application/msgpack");
}

fn identities(rows: &mut Rows) {
    rows.identity("an id with a dot", "id", "a.b");
    rows.identity("an id with a star", "id", "*");
    rows.identity("an id with >", "id", "a>");
    rows.identity("an id with a space", "id", "a b");
    rows.identity("an id with a line break", "id", "a\r\nPUB x 0");
    rows.identity("an empty id", "id", "");
    rows.identity("an id of 129 characters", "id", "x".repeat(129));
    rows.identity("the broker's own id", "id", "seq-1");
    rows.identity("a number as id", "id", 7);
    rows.identity("a group with a dot", "group", "a.b");
    rows.identity("the group that is none", "group", "_");
    rows.identity("a group of 65 characters", "group", "x".repeat(65));
}

fn fields(rows: &mut Rows) {
    let (bad, deadline) = ("invalid_field", "invalid_deadline");
    rows.field("a body of text", "body", json!("hello"), bad);
    rows.field("no body", "body", Value::Null, "missing_field");
    rows.field("an endpoint nobody knows", "endpoint", json!("images.generations"), "unsupported_endpoint");
    rows.field("an endpoint that is not served", "endpoint", json!("embeddings"), "unsupported_endpoint");
    rows.field("a number as project", "project", json!(5), bad);
    rows.field("a user of 257 bytes", "user", json!("u".repeat(257)), bad);
    rows.field("a task with a control character", "task", json!("a\u{7}b"), bad);
    let tags: Value =
        (0..17).map(|n| (format!("t{n}"), json!("v"))).collect::<serde_json::Map<_, _>>().into();
    rows.field("17 tags", "tags", tags, bad);
    rows.field("a tag of 10,000 bytes", "tags", json!({"t": "v".repeat(10_000)}), bad);
    rows.field("a tag that is a number", "tags", json!({"t": 1}), bad);
    rows.field("a list of tags", "tags", json!(["t"]), bad);
    rows.field("a deadline in the past", "deadline", json!(in_the_past()), deadline);
    rows.field("a deadline in eight days", "deadline", json!(in_eight_days()), deadline);
    rows.field("a deadline in words", "deadline", json!("tomorrow"), deadline);
    rows.field("a ttl of nothing", "ttl_ms", json!(0), deadline);
    rows.field("a negative ttl", "ttl_ms", json!(-1), deadline);
    rows.field("a ttl of more than 7 days", "ttl_ms", json!(604_800_001), deadline);
    let payload = envelope(rows.0.len(), |envelope| {
        envelope["ttl_ms"] = json!(1_000);
        envelope["deadline"] = json!("2999-01-01T00:00:00Z");
    });
    rows.add("ttl and deadline", payload, At::Named, deadline, "deadline");
    rows.field(
        "a request subject to reply to",
        "reply_to",
        json!("llm.req.research.high"),
        "invalid_reply_to",
    );
    rows.field(
        "JetStream to reply to",
        "reply_to",
        json!("$JS.API.STREAM.DELETE.LLM_REQ"),
        "invalid_reply_to",
    );
    rows.field("all inboxes to reply to", "reply_to", json!("_INBOX.>"), "invalid_reply_to");
    rows.add(
        "a header to reply to",
        envelope(rows.0.len(), |_| {}),
        At::Named,
        "invalid_reply_to",
        "reply_to",
    );
    rows.header("Tollgate-Reply-To", "llm.res.research.g.x");
    rows.field("nine fallbacks", "fallbacks", json!(vec!["small"; 9]), bad);
    rows.field("an unknown fallback", "fallbacks", json!(["no-such-model"]), "unknown_model");
    rows.field("an unknown on_limit", "on_limit", json!("explode"), bad);
    rows.field("a cache", "cache", json!(true), "unsupported_feature");
    rows.field("not_before", "not_before", json!("2999-01-01T00:00:00Z"), "invalid_field");
    rows.field("a callback", "callback", json!("https://example.com/"), "unsupported_feature");
    rows.field("a highest cost", "max_cost_usd", json!("0.01"), "unsupported_feature");
}

fn bodies(rows: &mut Rows) {
    let bad = "invalid_field";
    rows.body("no model", "body.model", Value::Null, "missing_field");
    rows.body("a number as model", "body.model", json!(5), bad);
    rows.body("an empty model", "body.model", json!(""), bad);
    rows.body("no messages", "body.messages", Value::Null, "missing_field");
    rows.body("empty messages", "body.messages", json!([]), "missing_field");
    rows.body("messages of text", "body.messages", json!("hello"), bad);
    rows.body("a message of text", "body.messages", json!(["hello"]), bad);
    rows.body("a negative limit", "body.max_tokens", json!(-5), bad);
    rows.body("a limit of nothing", "body.max_completion_tokens", json!(0), bad);
    rows.body("half a choice", "body.n", json!(0.5), bad);
    rows.body("a stream", "body.stream", json!(true), "unsupported_feature");
    rows.body("a stream of text", "body.stream", json!("yes"), bad);
}

fn bare(rows: &mut Rows) {
    let with = |name: &str, value: Value| {
        let mut body = chat();
        body[name] = value;
        encode(&body, Encoding::Json)
    };
    let both = envelope(rows.0.len(), |envelope| envelope["messages"] = json!([{"role": "user"}]));
    rows.add("a body and messages", both, At::Named, "ambiguous_body", "body");
    rows.add("a bare stream", with("stream", json!(true)), At::Sequence, "unsupported_feature", "stream");
    rows.add(
        "a bare negative limit",
        with("max_tokens", json!(-1)),
        At::Sequence,
        "invalid_field",
        "max_tokens",
    );
    rows.add("bare input", r#"{"model":"small","input":"x"}"#, At::Sequence, "missing_field", "messages");
    rows.add("a bare id with a dot", with("x", json!(1)), At::Sequence, "invalid_identity", "id");
    rows.header("Tollgate-Id", "a.b");
    rows.add("bare tags without a value", with("x", json!(1)), At::Sequence, "invalid_field", "tags");
    rows.header("Tollgate-Tags", "just-a-name");
    rows.add("a bare timeout of nothing", with("x", json!(1)), At::Sequence, "invalid_deadline", "ttl_ms");
    rows.header("Tollgate-Ttl-Ms", "0");
    rows.add("a bare unknown model", with("model", json!("nope")), At::Sequence, "unknown_model", "model");
}

fn access(rows: &mut Rows) {
    rows.body("an unknown model", "body.model", json!("no-such-model"), "unknown_model");
    rows.body("an unknown provider", "body.model", json!("nobody/m-1"), "unknown_model");
    rows.body("a model of 80 KB in messages", "body.model", json!("m".repeat(80_000)), "invalid_field");
    let payload = envelope(rows.0.len(), |_| {});
    rows.add("a team that is not configured", payload, At::Named, "unknown_team", "team");
    rows.team("strangers");
    let payload = envelope(rows.0.len(), |_| {});
    rows.add("a model that the team may not use", payload, At::Named, "model_not_allowed", "body.model");
    rows.team("narrow");
    let payload = envelope(rows.0.len(), |_| {});
    rows.add("a team that cannot be", payload, At::Sequence, "invalid_identity", "team");
    rows.team("a$b");
}
