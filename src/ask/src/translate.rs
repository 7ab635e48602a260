//! From an ask's headers to a request's. Pure.

use std::time::Duration;

use tollgate_protocol::header;
use tollgate_protocol::{ErrorCode, Problem};

/// Longest time a caller may wait: the longest deadline, 7 days.
const TIMEOUT_MAX: Duration = Duration::from_millis(tollgate_protocol::request::TTL_MS_MAX);

/// The headers of the request that an ask becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translated {
    /// Name and value.
    pub headers: Vec<(String, String)>,
    /// How long the caller waits.
    pub wait: Duration,
}

/// Keeps what belongs to Tollgate, to the body or to tracing, and nothing that JetStream acts on: headers
/// cannot be filtered by permissions. Adds an id, the caller's inbox, and its waiting time as the deadline.
pub fn translate(
    own: Vec<(String, String)>,
    inbox: Option<&str>,
    timeout_default: Duration,
    id: uuid::Uuid,
) -> Result<Translated, Problem> {
    let find = |name: &str| own.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
    let wait = match find(header::TIMEOUT) {
        Some(text) => timeout(text)?,
        None => timeout_default,
    };
    let mut headers: Vec<_> = own
        .iter()
        .filter(|(name, _)| {
            let tollgate =
                name.starts_with("Tollgate-") && name != header::TIMEOUT && name != header::REPLY_TO;
            tollgate || name == header::CONTENT_TYPE || name == header::TRACEPARENT || name == "tracestate"
        })
        .cloned()
        .collect();
    let mut add = |name: &str, value: String| headers.push((name.to_owned(), value));
    if find(header::ID).is_none() {
        add(header::ID, id.to_string());
    }
    if find(header::DEADLINE).is_none() && find(header::TTL_MS).is_none() {
        // A span and not a time: it counts from the server's own acceptance, whatever the clock here says.
        add(header::TTL_MS, wait.as_millis().to_string());
    }
    if let Some(inbox) = inbox {
        if !is_inbox(inbox) {
            let message = "the reply subject is not an inbox (_INBOX…): no answer can be sent there";
            return Err(Problem::at(ErrorCode::InvalidReplyTo, "reply_to", message));
        }
        add(header::REPLY_TO, inbox.to_owned());
    }
    Ok(Translated { headers, wait })
}

/// Whether a reply subject is an inbox, as far as this service must know before it says anything.
pub(crate) fn is_inbox(subject: &str) -> bool {
    subject.starts_with("_INBOX.") || subject.starts_with("_INBOX_")
}

/// Reads `Tollgate-Timeout`: seconds (`60`, `1.5`), or a number with `ms`, `s`, `m` or `h`. At least a
/// millisecond, at most 7 days.
pub fn timeout(text: &str) -> Result<Duration, Problem> {
    let wrong = || {
        let message =
            "Tollgate-Timeout: expected seconds, or a number with ms, s, m or h, from 1ms to 7 days";
        Problem::at(ErrorCode::InvalidField, header::TIMEOUT, message)
    };
    let text = text.trim();
    let digits =
        text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit.trim() {
        "ms" => 1.0,
        "" | "s" => 1_000.0,
        "m" => 60_000.0,
        "h" => 3_600_000.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let milliseconds = number * unit_ms;
    if (1.0..=TIMEOUT_MAX.as_millis() as f64).contains(&milliseconds) {
        Ok(Duration::from_millis(milliseconds as u64))
    } else {
        Err(wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(own: &[(&str, &str)], inbox: Option<&str>) -> Result<Translated, Problem> {
        let own = own.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        translate(own, inbox, Duration::from_secs(60), uuid::Uuid::nil())
    }

    fn get<'a>(translated: &'a Translated, name: &str) -> Option<&'a str> {
        translated.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn what_jetstream_would_act_on_is_dropped() {
        let own = [("Nats-Msg-Id", "x"), ("Nats-TTL", "1s"), ("Nats-Expected-Stream", "S"), ("X-Other", "y")];
        let translated = run(&own, Some("_INBOX.abc.1")).unwrap();
        let names: Vec<_> = translated.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, [header::ID, header::TTL_MS, header::REPLY_TO]);
        assert_eq!(get(&translated, header::TTL_MS), Some("60000"));
    }

    #[test]
    fn what_the_caller_says_stays() {
        let own = [
            (header::ID, "mine"),
            (header::TTL_MS, "5000"),
            (header::TRACEPARENT, "00-x"),
            (header::CONTENT_TYPE, "application/msgpack"),
            (header::REPLY_TO, "llm.req.other.high"),
        ];
        let translated = run(&own, Some("_INBOX_key.abc")).unwrap();
        assert_eq!(get(&translated, header::ID), Some("mine"));
        assert_eq!(get(&translated, header::TTL_MS), Some("5000"));
        assert_eq!(
            get(&translated, header::REPLY_TO),
            Some("_INBOX_key.abc"),
            "only ever the caller's own inbox"
        );
        assert_eq!(get(&translated, header::TRACEPARENT), Some("00-x"));
    }

    #[test]
    fn only_an_inbox_is_replied_to() {
        for subject in ["llm.req.a.high", "$JS.API.STREAM.DELETE.LLM_REQ", "_INBOXES.x", ""] {
            assert_eq!(run(&[], Some(subject)).unwrap_err().code, ErrorCode::InvalidReplyTo, "{subject}");
        }
        assert!(run(&[], None).is_ok());
    }

    #[test]
    fn timeouts_are_read_with_and_without_a_unit() {
        for (text, expected_ms) in [
            ("60", Some(60_000)),
            ("1.5", Some(1_500)),
            ("500ms", Some(500)),
            ("2m", Some(120_000)),
            (" 10 s ", Some(10_000)),
            ("1h", Some(3_600_000)),
            ("168h", Some(604_800_000)),
            ("169h", None),
            ("0", None),
            ("-1", None),
            ("", None),
            ("s", None),
            ("1e9", None),
            ("1.2.3", None),
            ("soon", None),
            ("NaN", None),
        ] {
            let read = timeout(text).ok().map(|time| time.as_millis());
            assert_eq!(read, expected_ms, "{text}");
        }
    }
}
