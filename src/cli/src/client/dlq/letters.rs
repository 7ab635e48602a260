//! Dead letters, as they are stored.

use bytes::Bytes;
use clap::Args;
use serde_json::{Map, Value, json, value::RawValue};
use tollgate_bus::scan::Stored;
use tollgate_bus::{Bus, headers, topology};
use tollgate_policy::dead::normalised;
use tollgate_protocol::header::{self, Headers};
use tollgate_protocol::job::Job;
use tollgate_protocol::record::Source;
use tollgate_protocol::{Encoding, Identity, RequestId, Team, Timestamp};

use super::super::connect::publish_failure;
use crate::failure::Failure;

const BATCH: usize = 200;
const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Which dead letters are meant: all that match everything that is given.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Which {
    /// TEAM.GROUP.ID of one
    #[arg(value_name = "ID", value_parser = identity)]
    pub(crate) identity: Option<Identity>,
    /// Only this team's
    #[arg(long, env = "TOLLGATE_TEAM")]
    pub(crate) team: Option<String>,
    /// Only of this error code
    #[arg(long)]
    pub(crate) code: Option<String>,
    /// Only those that failed last at this provider
    #[arg(long)]
    pub(crate) provider: Option<String>,
}

fn identity(text: &str) -> Result<Identity, String> {
    Identity::from_tokens(text).ok_or_else(|| "expected TEAM.GROUP.ID".to_owned())
}

/// A dead letter.
pub(crate) struct Letter {
    pub(crate) identity: Identity,
    /// `poison` or `exhausted`.
    pub(crate) reason: String,
    pub(crate) code: String,
    pub(crate) provider: String,
    pub(crate) message: String,
    pub(crate) stored_at: Timestamp,
    pub(crate) job: Job,
    source: Source,
}

/// Reads the dead letters that are meant.
pub(crate) async fn read(bus: &Bus, which: &Which) -> Result<Vec<Letter>, Failure> {
    let team = which.team.as_deref().map(Team::parse).transpose();
    let team = team.map_err(|error| Failure::usage(format!("--team: {error}")))?;
    let filter = match (&which.identity, &team) {
        (Some(identity), _) => bus.subjects().dead(identity),
        (None, Some(team)) => bus.subjects().under(&format!("dead.{team}.*.*")),
        (None, None) => bus.subjects().dead_all(),
    };
    let stream = bus.subjects().stream(topology::DEAD);
    let (mut letters, mut next) = (Vec::new(), 1);
    loop {
        let found = bus.scan(&stream, &filter, next, BATCH, BATCH_BYTES_MAX).await;
        let found =
            found.map_err(|error| Failure::failed(format!("the dead letters cannot be read: {error}")))?;
        let Some(last) = found.last() else { return Ok(letters) };
        next = last.source.sequence + 1;
        letters.extend(found.into_iter().filter_map(|stored| letter(bus, stored)).filter(|letter| {
            which.code.as_ref().is_none_or(|code| *code == letter.code)
                && which.provider.as_ref().is_none_or(|provider| *provider == letter.provider)
        }));
    }
}

fn letter(bus: &Bus, stored: Stored) -> Option<Letter> {
    let identity = bus.subjects().parse_dead(&stored.subject)?;
    let job = Job::decode(&stored.payload)
        .inspect_err(
            |error| tracing::warn!(%error, %identity, "a dead letter cannot be read by this version"),
        )
        .ok()?;
    let view = stored.header_view();
    let text = |name: &str| view.get(name).unwrap_or_default().to_owned();
    let quoted =
        |name: &str| view.get(name).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    Some(Letter {
        identity,
        reason: text(header::DEAD),
        code: text(header::ERROR_CODE),
        provider: quoted(header::PROVIDER),
        message: quoted(header::ERROR_MESSAGE),
        stored_at: stored.stored_at,
        job,
        source: stored.source,
    })
}

impl Letter {
    /// What it died of, as others did.
    pub(crate) fn cluster(&self) -> (String, String, String) {
        (self.code.clone(), self.provider.clone(), normalised(&self.message))
    }

    /// All that is known of it, without its body.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "request": self.identity.to_string(),
            "reason": self.reason,
            "code": self.code,
            "message": self.message,
            "provider": self.provider,
            "stored_at": self.stored_at,
            "requested_model": self.job.requested_model,
            "priority": self.job.priority,
            "accepted_at": self.job.accepted_at,
            "deadline": self.job.deadline,
            "body_bytes": self.job.body_bytes(),
            "attempts": self.job.history,
        })
    }

    /// Removes it.
    pub(crate) async fn remove(&self, bus: &Bus) -> Result<(), Failure> {
        bus.remove(&self.source)
            .await
            .map_err(|error| Failure::failed(format!("{} cannot be removed: {error}", self.identity)))
    }

    /// Publishes it as a new request, and removes it once that is accepted. The new id follows from the letter, so that a
    /// crash in between runs nothing twice.
    pub(crate) async fn send_again(&self, bus: &Bus) -> Result<Identity, Failure> {
        let identity = self.next_identity()?;
        let subject = bus.subjects().request(&identity.team, self.job.priority);
        let payload = self.envelope(&identity, &self.body(bus).await?)?;
        let map = headers::headers([(header::CONTENT_TYPE, Encoding::Json.content_type())]);
        bus.publish(&subject, map, None, payload.into(), super::PATIENCE)
            .await
            .map_err(|error| publish_failure(&error))?;
        self.remove(bus).await?;
        Ok(identity)
    }

    fn next_identity(&self) -> Result<Identity, Failure> {
        let name = format!("{}/{}", self.identity, self.source.sequence);
        let id = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, name.as_bytes()).to_string();
        let id = RequestId::parse(&id).map_err(|error| Failure::failed(format!("{id}: {error}")))?;
        Ok(Identity { id, ..self.identity.clone() })
    }

    fn unreadable(&self, error: &dyn std::fmt::Display) -> Failure {
        Failure::failed(format!("the request of {} cannot be read: {error}", self.identity))
    }

    /// Its body, which is elsewhere if the letter would have been too large with it.
    async fn body(&self, bus: &Bus) -> Result<Bytes, Failure> {
        let Some(aside) = &self.job.body_ref else { return Ok(self.job.body.clone()) };
        let found = bus.fetch(aside).await.map_err(|error| self.unreadable(&error))?;
        found.ok_or_else(|| self.unreadable(&"its body was put aside, and is no longer there"))
    }

    fn envelope(&self, identity: &Identity, body: &[u8]) -> Result<Vec<u8>, Failure> {
        let unreadable = |error: &dyn std::fmt::Display| self.unreadable(error);
        let body = std::str::from_utf8(body).map_err(|error| unreadable(&error))?;
        let body: &RawValue = serde_json::from_str(body).map_err(|error| unreadable(&error))?;
        let mut fields = Map::new();
        fields.insert("id".into(), json!(identity.id));
        if identity.group != tollgate_protocol::Group::none() {
            fields.insert("group".into(), json!(identity.group));
        }
        fields.insert("endpoint".into(), json!(self.job.endpoint));
        for (name, value) in [
            ("project", &self.job.meta.project),
            ("user", &self.job.meta.user),
            ("task", &self.job.meta.task),
        ] {
            if let Some(value) = value {
                fields.insert(name.into(), json!(value));
            }
        }
        if !self.job.meta.tags.is_empty() {
            fields.insert("tags".into(), json!(self.job.meta.tags));
        }
        // The body goes as it is, to the byte: it is put behind the other fields as text.
        let mut text = Value::Object(fields).to_string();
        text.pop();
        text.push_str(",\"body\":");
        text.push_str(body.get());
        text.push('}');
        Ok(text.into_bytes())
    }
}
