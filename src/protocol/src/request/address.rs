//! Whose request it is, where its answer goes, and what reports will call it.

use std::borrow::Cow;

use super::decode::{Delivered, Top};
use super::fields::{self, Raw};
use crate::header::{self, Headers};
use crate::identity::Invalid;
use crate::{ErrorCode, Group, Identity, Meta, Problem, RequestId, Team};

/// The longest trace context that is passed on: it is copied into every message of the request.
const TRACEPARENT_LENGTH_MAX: usize = 128;

/// The identity that the message itself names, `seq-…` where it names no id.
pub(super) fn identity<H: Headers + ?Sized>(
    message: &Delivered<'_, H>,
    top: &Top<'_>,
    bare: bool,
) -> Result<Identity, Problem> {
    let wrong = |field: &str, error: Invalid| {
        Problem::at(ErrorCode::InvalidIdentity, field, format!("{field}: {error}"))
    };
    let text = |raw: Raw<'_>, field: &str, header: &str| -> Result<Option<String>, Problem> {
        if bare {
            Ok(message.headers.get(header).map(str::to_owned))
        } else {
            // The service for plain request/reply names in a header what an envelope leaves open, so that a
            // publish that has to be repeated stays one request.
            fields::text(raw, field)
                .map(|text| {
                    text.map(Cow::into_owned).or_else(|| message.headers.get(header).map(str::to_owned))
                })
                .map_err(|problem| problem.with_code(ErrorCode::InvalidIdentity))
        }
    };
    let group = text(top.group, "group", header::GROUP)?;
    let id = text(top.id, "id", header::ID)?;
    let team = Team::parse(message.team).map_err(|error| wrong("team", error))?;
    let group = match group {
        Some(group) => Group::parse(&group).map_err(|error| wrong("group", error))?,
        None => Group::none(),
    };
    let id = match id {
        Some(id) => RequestId::parse(&id).map_err(|error| wrong("id", error))?,
        None => RequestId::from_sequence(message.sequence),
    };
    Ok(Identity { team, group, id })
}

/// The inbox that gets the answer as well. The header goes before the field, since the service for plain
/// request/reply sets it; both have to be right.
pub(super) fn reply_to<H: Headers + ?Sized>(
    message: &Delivered<'_, H>,
    top: &Top<'_>,
    bare: bool,
) -> Result<Option<String>, Problem> {
    let in_header = message.headers.get(header::REPLY_TO).map(inbox).transpose()?;
    let in_field = if bare {
        None
    } else {
        fields::text(top.reply_to, "reply_to")
            .map_err(|problem| problem.with_code(ErrorCode::InvalidReplyTo))?
    };
    let in_field = in_field.map(|text| inbox(&text)).transpose()?;
    Ok(in_header.or(in_field))
}

/// An inbox is the only subject the broker ever replies to: anything else would let a client make it
/// publish wherever it likes.
pub(super) fn inbox(text: &str) -> Result<String, Problem> {
    let rest = text.strip_prefix("_INBOX");
    let valid = text.len() <= 256
        && rest.is_some_and(|rest| rest.starts_with(['.', '_']))
        && text.split('.').all(|token| {
            !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic() && !b"*>".contains(&byte))
        })
        && text.contains('.');
    if valid {
        Ok(text.to_owned())
    } else {
        let message = "reply_to: expected an inbox: a subject that begins with _INBOX, without wildcards";
        Err(Problem::at(ErrorCode::InvalidReplyTo, "reply_to", message))
    }
}

/// W3C trace context, as far as it is worth passing on.
pub(super) fn traceparent<H: Headers + ?Sized>(headers: &H) -> Option<String> {
    let text = headers.get(header::TRACEPARENT)?;
    let worth = text.len() <= TRACEPARENT_LENGTH_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    worth.then(|| text.to_owned())
}

/// Labels for reports: of the envelope, or of the headers for a bare body, whose own `user` is the provider's.
pub(super) fn labels<H: Headers + ?Sized>(
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
