//! The equalities that hold once everything published has been answered, whatever was killed on the way.
//!
//! The test gathers what can be seen from outside: what it published, what is stored, what was paid and what the
//! provider was asked. [`check`] holds these against each other and reports every equality that is broken, with
//! examples, since one fault often breaks several and the pattern says which it is.

mod answers;
mod calls;
mod report;
mod sums;
mod usage;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::client::{Client, Live, Stored};
use crate::money::Price;
use crate::provider::{Answer, Call, Provider, answer_to, key_of};
use crate::request::{Identity, Request};

pub use report::{Report, Rule};

/// What a published request must lead to.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Which request.
    pub identity: Identity,
    /// How the provider's log knows it; different for each request.
    pub key: String,
    /// The terminal status.
    pub status: String,
    /// Its text and tokens; `None` if it does not end in `succeeded`, or its answer is not the scripted one.
    pub answer: Option<Answer>,
}

impl Expected {
    /// A request that must be answered with what the scripted provider says to it.
    pub fn answered(request: &Request) -> Self {
        let answer = Some(answer_to(request.body()));
        Self { answer, ..Self::ended(request, "succeeded") }
    }

    /// A request that must end in this status.
    pub fn ended(request: &Request, status: &str) -> Self {
        Self {
            identity: request.identity.clone(),
            key: key_of(request.body()),
            status: status.to_owned(),
            answer: None,
        }
    }
}

/// Everything that can be seen from outside.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// What was published, each identity once however often it was published.
    pub expected: Vec<Expected>,
    /// The price of every `provider/model` that could be called.
    pub prices: BTreeMap<String, Price>,
    /// All of LLM_RECORD.
    pub record: Vec<Stored>,
    /// Every response that came in live: a stored one that was replaced since shows only here.
    pub live: Vec<Stored>,
    /// All of LLM_USAGE.
    pub usage: Vec<Stored>,
    /// The ledger's reply to a usage query over everything; `None` leaves the ledger out.
    pub ledger: Option<Value>,
    /// The logs of all providers.
    pub calls: Vec<Call>,
}

impl Evidence {
    /// Reads the streams, asks the ledger, and takes the logs as they are now. Wait for the answers first; the ledger
    /// may lag, so see [`settled`].
    ///
    /// # Panics
    /// When a stream cannot be read or no ledger answers.
    pub async fn gather(
        client: &Client,
        expected: &[Expected],
        prices: &[(&str, Price)],
        live: &[&Live],
        providers: &[&Provider],
    ) -> Self {
        Self {
            expected: expected.to_vec(),
            prices: prices.iter().map(|(model, price)| ((*model).to_owned(), *price)).collect(),
            record: client.read_stream("LLM_RECORD").await,
            live: live.iter().flat_map(|live| live.all()).collect(),
            usage: client.read_stream("LLM_USAGE").await,
            ledger: Some(client.usage_by_team().await),
            calls: providers.iter().flat_map(|provider| provider.calls()).collect(),
        }
    }

    fn identities(&self) -> BTreeSet<&Identity> {
        self.expected.iter().map(|expected| &expected.identity).collect()
    }
}

/// Gathers and checks until nothing is broken, since usage and the ledger follow the answers with a delay; at the
/// deadline returns the last report with whatever is broken still.
///
/// # Panics
/// As [`Evidence::gather`] does.
pub async fn settled(deadline: std::time::Duration, mut gather: impl AsyncFnMut() -> Evidence) -> Report {
    let start = std::time::Instant::now();
    loop {
        let report = check(&gather().await);
        if report.is_clean() || start.elapsed() >= deadline {
            return report;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// Holds the evidence against itself and reports every equality that is broken.
pub fn check(evidence: &Evidence) -> Report {
    let mut report = Report::default();
    let answers = answers::check(evidence, &mut report);
    let usage = usage::read(evidence, &mut report);
    usage::check(evidence, &answers, &usage, &mut report);
    sums::check(evidence, &answers, &usage, &mut report);
    calls::check(evidence, &usage, &mut report);
    report
}

/// A whole number, which may be written as a string to keep its digits. Nothing counts as 0.
fn number(value: &Value) -> i128 {
    match value {
        Value::String(text) => text.parse().unwrap_or_default(),
        Value::Number(number) => number.to_string().parse().unwrap_or_default(),
        _ => 0,
    }
}
