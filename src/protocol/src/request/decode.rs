//! From a stored message to a request, or to the reason why it is none. Total: any bytes give a verdict.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::fields::{self, Raw};
use super::{BODY_BYTES_MAX, DEPTH_MAX, Decoded, Endpoint, Head, Request};
use super::{address, body, deadline, options};
use crate::header::{self, Headers};
use crate::{
    Digest, Encoding, ErrorCode, Group, Identity, JsonText, Meta, Priority, Problem, RequestId, Sequence,
    Team, Timestamp,
};

/// How deep MessagePack is read at all, which takes stack for each level. JSON needs none.
const MSGPACK_DEPTH_MAX: usize = 4 * DEPTH_MAX;

/// A message as the request stream delivered it.
#[derive(Clone, Copy, Debug)]
pub struct Delivered<'a, H: ?Sized> {
    /// The team token of its subject.
    pub team: &'a str,
    /// The priority token of its subject.
    pub priority: Priority,
    /// Its sequence.
    pub sequence: Sequence,
    /// When it was stored.
    pub accepted_at: Timestamp,
    /// The default deadline of its priority, in milliseconds after acceptance.
    pub ttl_ms_default: u64,
    /// Its headers.
    pub headers: &'a H,
    /// Its payload.
    pub payload: &'a [u8],
}

/// Everything a payload may have at its top, unread.
#[derive(Deserialize)]
pub(super) struct Top<'a> {
    #[serde(borrow)]
    pub(super) id: Raw<'a>,
    #[serde(borrow)]
    pub(super) group: Raw<'a>,
    #[serde(borrow)]
    endpoint: Raw<'a>,
    #[serde(borrow)]
    body: Raw<'a>,
    #[serde(borrow)]
    pub(super) project: Raw<'a>,
    #[serde(borrow)]
    pub(super) user: Raw<'a>,
    #[serde(borrow)]
    pub(super) task: Raw<'a>,
    #[serde(borrow)]
    pub(super) tags: Raw<'a>,
    #[serde(borrow)]
    pub(super) deadline: Raw<'a>,
    #[serde(borrow)]
    pub(super) ttl_ms: Raw<'a>,
    #[serde(borrow)]
    pub(super) not_before: Raw<'a>,
    #[serde(borrow)]
    pub(super) reply_to: Raw<'a>,
    #[serde(borrow)]
    pub(super) callback: Raw<'a>,
    #[serde(borrow)]
    pub(super) fallbacks: Raw<'a>,
    #[serde(borrow)]
    pub(super) cache: Raw<'a>,
    #[serde(borrow)]
    pub(super) max_cost_usd: Raw<'a>,
    #[serde(borrow)]
    pub(super) on_limit: Raw<'a>,
    #[serde(borrow)]
    messages: Raw<'a>,
    #[serde(borrow)]
    input: Raw<'a>,
    #[serde(borrow)]
    prompt: Raw<'a>,
    #[serde(borrow)]
    stream: Raw<'a>,
    #[serde(borrow)]
    seq: Raw<'a>,
    #[serde(borrow)]
    error: Raw<'a>,
}

/// Reads a message from the request stream.
pub fn decode<H: Headers + ?Sized>(message: &Delivered<'_, H>) -> Decoded {
    let encoding = match message.headers.get(header::CONTENT_TYPE) {
        Some(content_type) => Encoding::from_content_type(content_type),
        None => Some(Encoding::Json),
    };
    let mut head = head_of(message, encoding.unwrap_or_default());
    match (read(message, &mut head), encoding) {
        (Ok(None), _) => Decoded::Acknowledgement,
        // It was read as JSON nevertheless: perhaps it says where its sender waits for the answer.
        (_, None) => Decoded::Rejected(Box::new(head), unsupported_encoding()),
        (Ok(Some(request)), Some(_)) => Decoded::Request(Box::new(request)),
        (Err(problem), Some(_)) => Decoded::Rejected(Box::new(head), problem),
    }
}

/// What is known before the payload is looked at.
fn head_of<H: Headers + ?Sized>(message: &Delivered<'_, H>, encoding: Encoding) -> Head {
    Head {
        identity: Identity {
            team: Team::as_published(message.team),
            group: Group::none(),
            id: RequestId::from_sequence(message.sequence),
        },
        digest: Digest::of(message.payload),
        encoding,
        bare: false,
        sequence: message.sequence,
        priority: message.priority,
        accepted_at: message.accepted_at,
        deadline: deadline::after(message.accepted_at, message.ttl_ms_default),
        endpoint: Endpoint::default(),
        requested_model: String::new(),
        meta: Meta::default(),
        reply_to: message.headers.get(header::REPLY_TO).and_then(|inbox| address::inbox(inbox).ok()),
        traceparent: address::traceparent(message.headers),
    }
}

/// Fills in the head as far as the payload allows, so that even a rejection is addressed well. `None` is an
/// acknowledgement.
fn read<H: Headers + ?Sized>(
    message: &Delivered<'_, H>,
    head: &mut Head,
) -> Result<Option<Request>, Problem> {
    let text = as_json(head.encoding, message.payload)?;
    let (whole, top) = parse(&text)?;
    let is_bare = top.messages.is_some() || top.input.is_some() || top.prompt.is_some();
    if !is_bare && is_acknowledged(&top) {
        return Ok(None);
    }

    // Everything that addresses the answer comes first.
    head.bare = is_bare && top.body.is_none();
    let reply_to = address::reply_to(message, &top, head.bare);
    if let Ok(Some(inbox)) = &reply_to {
        head.reply_to = Some(inbox.clone());
    }
    head.identity = address::identity(message, &top, head.bare)?;
    reply_to?;
    if crate::json::depth(&text) + usize::from(head.bare) > DEPTH_MAX {
        return Err(too_deep());
    }
    if is_bare && top.body.is_some() {
        let text = "both body (an envelope) and messages, input or prompt (a bare body) are present: send one of them";
        return Err(Problem::at(ErrorCode::AmbiguousBody, "body", text));
    }
    let body = if head.bare { whole } else { top.body.ok_or_else(no_body)? };
    let request = judge(message, &top, body, head);
    if request.is_err() {
        head.requested_model = body::model_of(body).unwrap_or_default();
    }
    request.map(Some)
}

/// What may still be wrong with a request whose sender and body are known.
fn judge<H: Headers + ?Sized>(
    message: &Delivered<'_, H>,
    top: &Top<'_>,
    body: &RawValue,
    head: &mut Head,
) -> Result<Request, Problem> {
    head.meta = address::labels(message, top, head.bare)?;
    head.deadline = deadline::read(message, top, head.bare)?;
    head.endpoint = endpoint(message, top, head.bare)?;
    if head.endpoint != Endpoint::ChatCompletions {
        let text = format!("endpoint: {} is not served yet", head.endpoint.as_str());
        return Err(Problem::at(ErrorCode::UnsupportedEndpoint, "endpoint", text));
    }
    let not_before = if head.bare { None } else { deadline::not_before(top, head.deadline)? };
    let (fallbacks, on_limit) = if head.bare { Default::default() } else { options::read(top)? };
    let facts =
        body::chat(body).map_err(|problem| if head.bare { problem.in_bare_body() } else { problem })?;
    head.requested_model.clone_from(&facts.model);
    Ok(Request { head: head.clone(), not_before, fallbacks, on_limit, facts, body: JsonText::from(body) })
}

fn as_json(encoding: Encoding, payload: &[u8]) -> Result<Cow<'_, [u8]>, Problem> {
    if encoding == Encoding::Json {
        return Ok(Cow::Borrowed(payload));
    }
    let mut reader = rmp_serde::Deserializer::new(std::io::Cursor::new(payload));
    reader.set_max_depth(MSGPACK_DEPTH_MAX);
    let text = crate::json::to_json(&mut reader, payload.len() + payload.len() / 4).map_err(|error| {
        if matches!(error, rmp_serde::decode::Error::DepthLimitExceeded) {
            return too_deep();
        }
        // The error's own text may quote the value, which may be content: it is not passed on.
        let text = "not MessagePack, or a value that JSON does not have (binary data, extensions, NaN, keys that are not strings)";
        Problem::new(ErrorCode::InvalidEnvelope, text)
    })?;
    if reader.position() < payload.len() as u64 {
        return Err(Problem::new(ErrorCode::InvalidEnvelope, "bytes after the end of the MessagePack value"));
    }
    Ok(Cow::Owned(text))
}

fn parse(text: &[u8]) -> Result<(&RawValue, Top<'_>), Problem> {
    let whole: &RawValue = serde_json::from_slice(text).map_err(|error| unreadable(&error))?;
    if !whole.get().starts_with('{') {
        let text = "expected an object: an envelope or a bare body";
        return Err(Problem::new(ErrorCode::InvalidEnvelope, text));
    }
    let top = serde_json::from_str(whole.get()).map_err(|error| match fields::duplicate(&error) {
        Some(field) => Problem::at(ErrorCode::InvalidEnvelope, field, format!("{field}: stands twice")),
        None => unreadable(&error),
    })?;
    Ok((whole, top))
}

/// Whether a payload is JetStream's own acknowledgement, which a reply subject can lead into any stream.
fn is_acknowledgement(payload: &[u8]) -> bool {
    serde_json::from_slice::<Top<'_>>(payload).is_ok_and(|top| is_acknowledged(&top))
}

/// Whether a message between our own parts that cannot be read was led there by a reply subject: JetStream's own
/// acknowledgement, or a copy that it was asked for (a direct get has the stream it comes from in its headers).
pub fn is_led_here<H: Headers + ?Sized>(headers: &H, payload: &[u8]) -> bool {
    headers.get("Nats-Stream").is_some() || is_acknowledgement(payload)
}

/// JetStream's own acknowledgement, of a success or of an error, has an unmistakable shape.
fn is_acknowledged(top: &Top<'_>) -> bool {
    #[derive(Deserialize)]
    struct ApiError {
        #[serde(rename = "err_code")]
        _err_code: u64,
    }
    let is = |raw: Raw<'_>, first: fn(char) -> bool| raw.is_some_and(|raw| raw.get().starts_with(first));
    let stored = is(top.stream, |first| first == '"') && is(top.seq, |first| first.is_ascii_digit());
    let refused = || {
        top.error.is_some_and(|error| {
            error.get().starts_with('{') && serde_json::from_str::<ApiError>(error.get()).is_ok()
        })
    };
    top.id.is_none() && top.body.is_none() && (stored || refused())
}

fn unsupported_encoding() -> Problem {
    let text = "Content-Type: expected application/json or application/msgpack";
    Problem::at(ErrorCode::UnsupportedEncoding, header::CONTENT_TYPE, text)
}

fn unreadable(error: &serde_json::Error) -> Problem {
    let what = if error.is_eof() { "JSON that ends too early" } else { "not JSON in UTF-8" };
    let text = format!("{what}, at line {} column {}", error.line(), error.column());
    Problem::new(ErrorCode::InvalidEnvelope, text)
}

fn too_deep() -> Problem {
    let text = format!("arrays and objects are nested more than {} deep in the body", DEPTH_MAX - 1);
    Problem::new(ErrorCode::TooDeep, text)
}

fn no_body() -> Problem {
    let text = "expected body (an envelope), or messages, input or prompt (a bare body)";
    Problem::at(ErrorCode::MissingField, "body", text)
}

fn endpoint<H: Headers + ?Sized>(
    message: &Delivered<'_, H>,
    top: &Top<'_>,
    bare: bool,
) -> Result<Endpoint, Problem> {
    let text = if bare {
        message.headers.get(header::ENDPOINT).map(Cow::Borrowed)
    } else {
        fields::text(top.endpoint, "endpoint")?
    };
    let Some(text) = text else { return Ok(Endpoint::default()) };
    Endpoint::parse(&text).ok_or_else(|| {
        let known = Endpoint::ALL.map(Endpoint::as_str).join(", ");
        Problem::at(ErrorCode::UnsupportedEndpoint, "endpoint", format!("endpoint: expected one of {known}"))
    })
}

const _: () = assert!(BODY_BYTES_MAX < 8 * 1024 * 1024, "a body must fit into a message");
