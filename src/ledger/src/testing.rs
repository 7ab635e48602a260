//! Events for tests.

use std::path::Path;
use std::time::{Duration, Instant};

use tollgate_protocol::response::{Outcome, Status};
use tollgate_protocol::usage::{Kind, UsageEvent};
use tollgate_protocol::{Group, Meta, NanoUsd, Priority, Team, Timestamp, TokenUsage};

use crate::fold::Message;
use crate::ledger::Ledger;
use crate::store::Store;
use crate::store::sled::SledStore;
use crate::{Caps, Error, Row};

/// Opens a folder that was closed just now. A process that another test starts has a copy of its lock until it runs.
#[expect(clippy::disallowed_methods, reason = "a test waits for a condition, with a deadline")]
pub(crate) fn open_again(folder: &Path) -> Result<SledStore, Error> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match SledStore::open(folder) {
            Err(Error::InUse(_)) if Instant::now() < deadline => std::thread::yield_now(),
            opened => return opened,
        }
    }
}

pub(crate) const T0: i64 = 1_767_225_600; // 2026-01-01T00:00:00Z

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_timestamp(T0 + seconds, 0).unwrap()
}

/// A final, successful attempt of request `id`, which costs 1,000 nano-dollars.
pub(crate) fn event(id: &str, attempt: u32) -> UsageEvent {
    UsageEvent {
        kind: Kind::Attempt,
        is_final: true,
        status: Some(Status::Succeeded),
        outcome: Some(Outcome::Succeeded),
        code: None,
        team: Team::parse("research").unwrap(),
        group: Group::none(),
        id: tollgate_protocol::RequestId::parse(id).unwrap(),
        attempt,
        meta: Meta::default(),
        priority: Priority::Normal,
        endpoint: tollgate_protocol::request::Endpoint::ChatCompletions,
        requested_model: "small".into(),
        provider: Some("openai".into()),
        model: Some("gpt-4o-mini".into()),
        served_model: None,
        usage: TokenUsage { input_tokens: 10, cached_input_tokens: 4, output_tokens: 3, reasoning_tokens: 1 },
        cost_nano_usd: NanoUsd(1_000),
        price_version: String::new(),
        estimated: false,
        queued_ms: 5,
        first_token_ms: None,
        latency_ms: 200,
        accepted_at: Some(at(0)),
        time: at(0),
        corrects: None,
        requeued: false,
    }
}

pub(crate) fn lost(id: &str, attempt: u32) -> UsageEvent {
    UsageEvent {
        kind: Kind::Lost,
        is_final: false,
        status: None,
        outcome: Some(Outcome::Lost),
        cost_nano_usd: NanoUsd(7_777),
        estimated: true,
        ..event(id, attempt)
    }
}

pub(crate) fn unpaid(id: &str, status: Status) -> UsageEvent {
    UsageEvent {
        kind: Kind::Unpaid,
        status: Some(status),
        outcome: None,
        provider: None,
        model: None,
        usage: TokenUsage::default(),
        cost_nano_usd: NanoUsd::ZERO,
        latency_ms: 0,
        ..event(id, 0)
    }
}

pub(crate) fn correction(of: &UsageEvent, cost: i64) -> UsageEvent {
    UsageEvent {
        kind: Kind::Correction,
        is_final: false,
        status: None,
        outcome: None,
        usage: TokenUsage::default(),
        cost_nano_usd: NanoUsd(cost),
        accepted_at: None,
        corrects: Some(of.ce_id()),
        ..of.clone()
    }
}

pub(crate) fn message(sequence: u64, event: &UsageEvent) -> Message {
    raw(sequence, serde_json::to_vec(event).unwrap())
}

pub(crate) fn raw(sequence: u64, payload: impl Into<Vec<u8>>) -> Message {
    Message { sequence, stored_at: at(i64::try_from(sequence).unwrap()), payload: payload.into().into() }
}

/// Numbers events from 1.
pub(crate) fn messages<'a>(events: impl IntoIterator<Item = &'a UsageEvent>) -> Vec<Message> {
    (1..).zip(events).map(|(sequence, event)| message(sequence, event)).collect()
}

pub(crate) fn ledger(store: impl Store + 'static, caps: Caps) -> Ledger {
    Ledger::open(Box::new(store), std::path::Path::new("test"), caps).unwrap()
}

pub(crate) fn total(ledger: &Ledger) -> Row {
    ledger.verify().unwrap();
    ledger.state().unwrap().total
}
