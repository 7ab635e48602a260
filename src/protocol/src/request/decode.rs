//! From a stored message to a request, or to the reason why it is none. Total: any bytes give a verdict.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::fields::{self, Raw, invalid};
use super::{
    BODY_BYTES_MAX, DEPTH_MAX, Decoded, Endpoint, FALLBACKS_MAX, Head, OnLimit, Request, TTL_MS_MAX, body,
};
use crate::header::{self, Headers};
use crate::{
    Digest, Encoding, ErrorCode, Group, Identity, JsonText, Meta, Priority, Problem, RequestId, Sequence,
    Team, Timestamp, money,
};

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
struct Top<'a> {
    #[serde(borrow)]
    id: Raw<'a>,
    #[serde(borrow)]
    group: Raw<'a>,
    #[serde(borrow)]
    endpoint: Raw<'a>,
    #[serde(borrow)]
    body: Raw<'a>,
    #[serde(borrow)]
    project: Raw<'a>,
    #[serde(borrow)]
    user: Raw<'a>,
    #[serde(borrow)]
    task: Raw<'a>,
    #[serde(borrow)]
    tags: Raw<'a>,
    #[serde(borrow)]
    deadline: Raw<'a>,
    #[serde(borrow)]
    ttl_ms: Raw<'a>,
    #[serde(borrow)]
    not_before: Raw<'a>,
    #[serde(borrow)]
    reply_to: Raw<'a>,
    #[serde(borrow)]
    callback: Raw<'a>,
    #[serde(borrow)]
    fallbacks: Raw<'a>,
    #[serde(borrow)]
    cache: Raw<'a>,
    #[serde(borrow)]
    max_cost_usd: Raw<'a>,
    #[serde(borrow)]
    on_limit: Raw<'a>,
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
}

/// Reads a message from the request stream.
pub fn decode<H: Headers + ?Sized>(message: &Delivered<'_, H>) -> Decoded {
    let mut head = head_of(message);
    match read(message, &mut head) {
        Ok(Some(request)) => Decoded::Request(Box::new(request)),
        Ok(None) => Decoded::Acknowledgement,
        Err(problem) => Decoded::Rejected(Box::new(head), problem),
    }
}

/// What is known before the payload is looked at.
fn head_of<H: Headers + ?Sized>(message: &Delivered<'_, H>) -> Head {
    Head {
        identity: Identity {
            team: Team::as_published(message.team),
            group: Group::none(),
            id: RequestId::from_sequence(message.sequence),
        },
        digest: Digest::of(message.payload),
        encoding: Encoding::Json,
        bare: false,
        sequence: message.sequence,
        priority: message.priority,
        accepted_at: message.accepted_at,
        deadline: after(message.accepted_at, message.ttl_ms_default),
        endpoint: Endpoint::default(),
        requested_model: String::new(),
        meta: Meta::default(),
        reply_to: message.headers.get(header::REPLY_TO).and_then(|inbox| fields::inbox(inbox).ok()),
        traceparent: message.headers.get(header::TRACEPARENT).map(str::to_owned),
    }
}

/// Fills in the head as far as the payload allows, so that even a rejection is addressed well.
fn read<H: Headers + ?Sized>(
    message: &Delivered<'_, H>,
    head: &mut Head,
) -> Result<Option<Request>, Problem> {
    if let Some(content_type) = message.headers.get(header::CONTENT_TYPE) {
        head.encoding = Encoding::from_content_type(content_type).ok_or_else(|| {
            let text = "Content-Type: expected application/json or application/msgpack";
            Problem::at(ErrorCode::UnsupportedEncoding, header::CONTENT_TYPE, text)
        })?;
    }
    let text = as_json(head.encoding, message.payload)?;
    if crate::json::depth(&text) > DEPTH_MAX {
        return Err(too_deep());
    }
    let whole: &RawValue = serde_json::from_slice(&text).map_err(|error| unreadable(&error))?;
    if !whole.get().starts_with('{') {
        return Err(Problem::new(
            ErrorCode::InvalidEnvelope,
            "expected an object: an envelope or a bare body",
        ));
    }
    let top: Top<'_> = serde_json::from_str(whole.get())
        .map_err(|_| Problem::new(ErrorCode::InvalidEnvelope, "a field of the envelope stands twice"))?;
    let is_bare = top.messages.is_some() || top.input.is_some() || top.prompt.is_some();
    if !is_bare && top.body.is_none() && top.stream.is_some() && top.seq.is_some() {
        return Ok(None);
    }

    // Everything that addresses the answer comes first.
    head.bare = is_bare && top.body.is_none();
    identify(message, &top, head)?;
    if let Some(inbox) = message.headers.get(header::REPLY_TO) {
        head.reply_to = Some(fields::inbox(inbox)?);
    } else if !head.bare
        && let Some(inbox) = fields::text(top.reply_to, "reply_to")?
    {
        head.reply_to = Some(fields::inbox(&inbox)?);
    }
    if is_bare && top.body.is_some() {
        let text = "both body (an envelope) and messages, input or prompt (a bare body) are present: send one of them";
        return Err(Problem::at(ErrorCode::AmbiguousBody, "body", text));
    }
    let raw_body = if head.bare { whole } else { top.body.ok_or_else(no_body)? };
    head.requested_model = body::model_of(raw_body).unwrap_or_default();

    head.meta = labels(message, &top, head.bare)?;
    head.deadline = deadline(message, &top, head.bare)?;
    head.endpoint = endpoint(message, &top, head.bare)?;
    if head.endpoint != Endpoint::ChatCompletions {
        let text = format!("endpoint: {} is not served yet", head.endpoint.as_str());
        return Err(Problem::at(ErrorCode::UnsupportedEndpoint, "endpoint", text));
    }
    let (fallbacks, on_limit) = if head.bare { Default::default() } else { options(&top)? };
    let facts = body::chat(raw_body)?;
    Ok(Some(Request { head: head.clone(), fallbacks, on_limit, facts, body: JsonText::from(raw_body) }))
}

fn as_json(encoding: Encoding, payload: &[u8]) -> Result<Cow<'_, [u8]>, Problem> {
    if encoding == Encoding::Json {
        return Ok(Cow::Borrowed(payload));
    }
    let mut reader = rmp_serde::Deserializer::new(std::io::Cursor::new(payload));
    reader.set_max_depth(DEPTH_MAX + 1);
    let mut text = Vec::with_capacity(payload.len() + payload.len() / 4);
    serde_transcode::transcode(&mut reader, &mut serde_json::Serializer::new(&mut text)).map_err(|error| {
        if error.to_string().contains("depth limit") {
            return too_deep();
        }
        let text = "not MessagePack, or a value that JSON does not have (binary data, keys that are not strings)";
        Problem::new(ErrorCode::InvalidEnvelope, text)
    })?;
    if reader.position() < payload.len() as u64 {
        return Err(Problem::new(ErrorCode::InvalidEnvelope, "bytes after the end of the MessagePack value"));
    }
    Ok(Cow::Owned(text))
}

fn unreadable(error: &serde_json::Error) -> Problem {
    let what = if error.is_eof() { "JSON that ends too early" } else { "not JSON in UTF-8" };
    let text = format!("{what}, at line {} column {}", error.line(), error.column());
    Problem::new(ErrorCode::InvalidEnvelope, text)
}

fn too_deep() -> Problem {
    Problem::new(ErrorCode::TooDeep, format!("arrays and objects are nested more than {DEPTH_MAX} deep"))
}

fn no_body() -> Problem {
    let text = "expected body (an envelope), or messages, input or prompt (a bare body)";
    Problem::at(ErrorCode::MissingField, "body", text)
}

fn identify<H: Headers + ?Sized>(
    message: &Delivered<'_, H>,
    top: &Top<'_>,
    head: &mut Head,
) -> Result<(), Problem> {
    let wrong = |field: &str, error: crate::identity::Invalid| {
        Problem::at(ErrorCode::InvalidIdentity, field, format!("{field}: {error}"))
    };
    let field = |raw: Raw<'_>, name: &str, header: &str| -> Result<Option<String>, Problem> {
        if head.bare {
            Ok(message.headers.get(header).map(str::to_owned))
        } else {
            let text = fields::text(raw, name)
                .map_err(|problem| Problem { code: ErrorCode::InvalidIdentity, ..problem })?;
            Ok(text.map(Cow::into_owned))
        }
    };
    let group = field(top.group, "group", header::GROUP)?;
    let id = field(top.id, "id", header::ID)?;
    Team::parse(message.team).map_err(|error| wrong("team", error))?;
    let group = match group {
        Some(group) => Group::parse(&group).map_err(|error| wrong("group", error))?,
        None => Group::none(),
    };
    let id = match id {
        Some(id) => RequestId::parse(&id).map_err(|error| wrong("id", error))?,
        None => head.identity.id.clone(),
    };
    head.identity = Identity { team: head.identity.team.clone(), group, id };
    Ok(())
}

fn labels<H: Headers + ?Sized>(
    message: &Delivered<'_, H>,
    top: &Top<'_>,
    bare: bool,
) -> Result<Meta, Problem> {
    let header = |name: &str, field: &str| {
        message.headers.get(name).map(|text| fields::checked_label(text, field)).transpose()
    };
    Ok(if bare {
        Meta {
            project: header(header::PROJECT, "project")?,
            user: header(header::USER, "user")?,
            task: header(header::TASK, "task")?,
            tags: fields::header_tags(message.headers.get(header::TAGS))?,
            key: None,
        }
    } else {
        Meta {
            project: fields::label(top.project, "project")?,
            user: fields::label(top.user, "user")?,
            task: fields::label(top.task, "task")?,
            tags: fields::tags(top.tags)?,
            key: None,
        }
    })
}

fn deadline<H: Headers + ?Sized>(
    message: &Delivered<'_, H>,
    top: &Top<'_>,
    bare: bool,
) -> Result<Timestamp, Problem> {
    let wrong = |field: &str, text: String| Problem::at(ErrorCode::InvalidDeadline, field, text);
    let (mut deadline, mut ttl_ms) = (None, None);
    if !bare {
        deadline = fields::text(top.deadline, "deadline")
            .map_err(|problem| Problem { code: ErrorCode::InvalidDeadline, ..problem })?
            .map(|text| fields::instant(&text, "deadline"))
            .transpose()?;
        ttl_ms = fields::positive(top.ttl_ms, "ttl_ms")
            .map_err(|problem| Problem { code: ErrorCode::InvalidDeadline, ..problem })?;
    }
    if deadline.is_none() && ttl_ms.is_none() {
        deadline = message
            .headers
            .get(header::DEADLINE)
            .map(|text| fields::instant(text, "deadline"))
            .transpose()?;
        ttl_ms = match message.headers.get(header::TTL_MS) {
            Some(text) => match text.parse() {
                Ok(ttl_ms @ 1..) => Some(ttl_ms),
                _ => return Err(wrong("ttl_ms", "ttl_ms: expected a whole number of at least 1".into())),
            },
            None => None,
        };
    }
    let deadline = match (deadline, ttl_ms) {
        (Some(_), Some(_)) => {
            return Err(wrong("deadline", "deadline and ttl_ms are both given: send one of them".into()));
        }
        (Some(deadline), None) => deadline,
        (None, Some(ttl_ms)) if ttl_ms > TTL_MS_MAX => {
            return Err(wrong("ttl_ms", format!("ttl_ms: at most {TTL_MS_MAX} (7 days)")));
        }
        (None, Some(ttl_ms)) => after(message.accepted_at, ttl_ms),
        (None, None) => after(message.accepted_at, message.ttl_ms_default),
    };
    if deadline <= message.accepted_at {
        return Err(wrong("deadline", "deadline: already over when the request was accepted".into()));
    }
    if deadline > after(message.accepted_at, TTL_MS_MAX) {
        return Err(wrong("deadline", "deadline: more than 7 days ahead".into()));
    }
    Ok(deadline)
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

fn options(top: &Top<'_>) -> Result<(Vec<String>, OnLimit), Problem> {
    if let Some(cost) = fields::text(top.max_cost_usd, "max_cost_usd")? {
        money::parse_usd(&cost).map_err(|error| invalid("max_cost_usd", error.to_string()))?;
    }
    let unserved =
        [("not_before", top.not_before), ("callback", top.callback), ("max_cost_usd", top.max_cost_usd)];
    for (field, raw) in unserved {
        if raw.is_some() {
            return Err(unserved_field(field));
        }
    }
    if top.cache.is_some_and(|cache| cache.get() != "false") {
        return Err(unserved_field("cache"));
    }
    let on_limit = match fields::text(top.on_limit, "on_limit")?.as_deref() {
        None | Some("wait") => OnLimit::Wait,
        Some("reject") => OnLimit::Reject,
        Some(_) => return Err(invalid("on_limit", "\"wait\" or \"reject\"")),
    };
    let fallbacks: Vec<String> = match top.fallbacks {
        Some(raw) => fields::read(raw, "fallbacks", "an array of model names")?,
        None => Vec::new(),
    };
    if fallbacks.len() > FALLBACKS_MAX {
        return Err(invalid("fallbacks", format!("at most {FALLBACKS_MAX} models")));
    }
    Ok((fallbacks, on_limit))
}

fn unserved_field(field: &str) -> Problem {
    let text = format!("{field}: not served yet; send the request without it");
    Problem::at(ErrorCode::UnsupportedFeature, field, text)
}

fn after(start: Timestamp, milliseconds: u64) -> Timestamp {
    let milliseconds = i64::try_from(milliseconds.min(TTL_MS_MAX)).unwrap_or_default();
    start + chrono::TimeDelta::milliseconds(milliseconds)
}

const _: () = assert!(BODY_BYTES_MAX < 8 * 1024 * 1024, "a body must fit into a message");
