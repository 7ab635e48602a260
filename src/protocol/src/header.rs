//! Names of message headers, and how to read them without knowing the client library.

/// Where the headers of a message can be looked up. Names are case-sensitive, as in NATS.
pub trait Headers {
    /// The last value of the header, if it is there.
    fn get(&self, name: &str) -> Option<&str>;
}

impl Headers for () {
    fn get(&self, _: &str) -> Option<&str> {
        None
    }
}

impl Headers for [(&str, &str)] {
    fn get(&self, name: &str) -> Option<&str> {
        self.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }
}

/// What an entry of a budget's counter is for, as JSON.
pub const ENTRY: &str = "Tollgate-Entry";
/// `application/json` or `application/msgpack`.
pub const CONTENT_TYPE: &str = "Content-Type";
/// W3C trace context, passed through unchanged.
pub const TRACEPARENT: &str = "traceparent";

/// The id of a bare request.
pub const ID: &str = "Tollgate-Id";
/// The group of a bare request.
pub const GROUP: &str = "Tollgate-Group";
/// The endpoint of a bare request.
pub const ENDPOINT: &str = "Tollgate-Endpoint";
/// The project of a bare request.
pub const PROJECT: &str = "Tollgate-Project";
/// The user of a bare request.
pub const USER: &str = "Tollgate-User";
/// The task of a bare request.
pub const TASK: &str = "Tollgate-Task";
/// The tags of a bare request: `name=value,name=value`.
pub const TAGS: &str = "Tollgate-Tags";
/// The deadline, RFC 3339. An envelope's own `deadline` or `ttl_ms` goes before it.
pub const DEADLINE: &str = "Tollgate-Deadline";
/// The time to live in milliseconds.
pub const TTL_MS: &str = "Tollgate-Ttl-Ms";
/// How long an `llm.ask` caller waits: seconds (`60`, `1.5`), or with a unit (`500ms`, `60s`, `2m`).
pub const TIMEOUT: &str = "Tollgate-Timeout";
/// The inbox that gets the answer as well.
pub const REPLY_TO: &str = "Tollgate-Reply-To";

/// Terminal status of a stored response.
pub const STATUS: &str = "Tollgate-Status";
/// Error code of a response that is not `succeeded`.
pub const ERROR_CODE: &str = "Tollgate-Error-Code";
/// What an error says, as a JSON string.
pub const ERROR_MESSAGE: &str = "Tollgate-Error-Message";
/// Digest of the request that a record entry belongs to.
pub const DIGEST: &str = "Tollgate-Digest";
/// The attempt whose result a response carries; 0 if no attempt ended it.
pub const ATTEMPT: &str = "Tollgate-Attempt";
/// The stored message that a response was written for: `<stream>:<sequence>`.
pub const FROM: &str = "Tollgate-From";
/// Why a request is a dead letter: `poison` or `exhausted`.
pub const DEAD: &str = "Tollgate-Dead";
/// The request that a record entry was written for.
pub const IDENTITY: &str = "Tollgate-Identity";
/// A value of its own for each logical write, so that a writer recognises its own entry.
pub const WRITE: &str = "Tollgate-Write";
/// The usage event (JSON) that the ledger publishes for a response that no attempt ended.
pub const UNPAID: &str = "Tollgate-Unpaid";
/// Cost of the answer, in nano-dollars, on replies to bare requests.
pub const COST: &str = "Tollgate-Cost-Nano-Usd";
/// Provider that answered, on replies to bare requests.
pub const PROVIDER: &str = "Tollgate-Provider";
/// Model that answered, on replies to bare requests.
pub const MODEL: &str = "Tollgate-Model";

/// NATS micro services' error text.
pub const SERVICE_ERROR: &str = "Nats-Service-Error";
/// NATS micro services' error number.
pub const SERVICE_ERROR_CODE: &str = "Nats-Service-Error-Code";
/// JetStream's deduplication id.
pub const MSG_ID: &str = "Nats-Msg-Id";

/// Writes JSON with nothing but printable ASCII, as a header must be.
pub fn ascii_json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String, serde_json::Error> {
    let text = serde_json::to_string(value)?;
    // JSON itself escapes the other control characters.
    let printable = |character: char| character.is_ascii() && character != '\u{7f}';
    if text.chars().all(printable) {
        return Ok(text);
    }
    let mut ascii = String::with_capacity(text.len() * 2);
    for character in text.chars() {
        if printable(character) {
            ascii.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                ascii.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    Ok(ascii)
}

#[cfg(test)]
mod tests {
    #[test]
    fn ascii_json_says_the_same() {
        let text = "Größe 🚀 \u{7f} \n";
        let ascii = super::ascii_json(&text).unwrap();
        assert!(ascii.bytes().all(|byte| (32..127).contains(&byte)), "{ascii}");
        assert_eq!(serde_json::from_str::<String>(&ascii).unwrap(), text);
    }
}
