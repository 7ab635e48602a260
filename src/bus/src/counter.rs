//! The counters of budgets: a stream whose subjects are sums that the server keeps (`Nats-Incr`, server 2.12).
//!
//! An entry cannot be fenced: the server refuses expectations on a counter (measured). What keeps it right is that
//! entries have ids, and that the ledger compares them with what was paid.

use std::num::{IntErrorKind, ParseIntError};

use async_nats::jetstream::Message;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use tollgate_protocol::budget::{Counter, Entry};
use tollgate_protocol::header::{self, Headers};
use tollgate_protocol::{Sequence, Timestamp};

use crate::publish::{PublishError, Published};
use crate::retry::Patience;
use crate::{Bus, HeaderView, headers};

/// The stream's name, without its prefix.
pub const STREAM: &str = "BUDGET";
/// Header: what is added, a signed whole number.
pub(crate) const INCREMENT: &str = "Nats-Incr";

/// An entry as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntry {
    /// Its counter.
    pub counter: Counter,
    /// What it is for.
    pub entry: Entry,
    /// The id under which it was written.
    pub id: String,
    /// What it added, in nano-dollars.
    pub amount: i64,
    /// The total with it.
    pub total: i64,
    /// Its place in the stream.
    pub sequence: Sequence,
    /// When it was stored.
    pub stored_at: Timestamp,
}

/// An entry that says nothing of what it is for, or something that nobody understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableEntry {
    /// Its counter.
    pub counter: Counter,
    /// What it added, in nano-dollars.
    pub amount: i64,
    /// The total with it.
    pub total: i64,
    /// Its place in the stream.
    pub sequence: Sequence,
    /// What is wrong with it.
    pub reason: String,
}

impl Bus {
    /// Adds to a counter and returns its place and the new total. Repeated under the same id it is added once: then the
    /// place is that of the first, and the total is read back and may have later entries in it.
    pub async fn add(
        &self,
        counter: &Counter,
        entry: &Entry,
        amount: i64,
        id: &str,
        patience: Patience,
    ) -> Result<(Sequence, i64), PublishError> {
        let Published { sequence, total, .. } =
            self.publish_entry(counter, entry, amount, id, patience).await?;
        match total {
            Some(total) => Ok((sequence, total)),
            None => match self.total(counter).await {
                Ok(Some(total)) => Ok((sequence, total)),
                // The entry alone is no total: it would be taken for room that is not there.
                Ok(None) => Err(refused(format!("the counter {counter} has no entries any more"))),
                Err(description) => Err(refused(description)),
            },
        }
    }

    /// The same for what only the first may add under an id: the new total, or `None` if it was added before.
    ///
    /// A repeat of one's own, after an acknowledgement that was lost, looks like somebody else's: that is told as `None`, too.
    pub async fn add_once(
        &self,
        counter: &Counter,
        entry: &Entry,
        amount: i64,
        id: &str,
        patience: Patience,
    ) -> Result<Option<i64>, PublishError> {
        Ok(self.publish_entry(counter, entry, amount, id, patience).await?.total)
    }

    async fn publish_entry(
        &self,
        counter: &Counter,
        entry: &Entry,
        amount: i64,
        id: &str,
        patience: Patience,
    ) -> Result<Published, PublishError> {
        let text = header::ascii_json(entry).map_err(|error| refused(error.to_string()))?;
        let map =
            headers::headers([(INCREMENT, amount.to_string().as_str()), (header::ENTRY, text.as_str())]);
        self.publish(&self.subjects().budget(counter), map, Some(id), bytes::Bytes::new(), patience).await
    }

    /// What a counter says now; `None` if nothing was ever added. A total that cannot be read is an error.
    pub async fn total(&self, counter: &Counter) -> Result<Option<i64>, String> {
        let name = self.subjects().stream(STREAM);
        let stream = self.jetstream().get_stream_no_info(&name).await.map_err(|error| error.to_string())?;
        let subject = self.subjects().budget(counter);
        // From the leader: a copy that lags behind would say less than is there.
        match stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => total_in(counter, &message.payload).map(Some),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Reads an entry as a consumer delivers it; `Err` says why it is none.
    pub fn read_entry(&self, message: &Message) -> Result<StoredEntry, String> {
        let info = message.info().map_err(|error| error.to_string())?;
        let headers = HeaderView(message.headers.as_ref());
        let counter = self.subjects().parse_budget(&message.subject).ok_or("a foreign subject")?;
        let amount = headers.get(INCREMENT).and_then(|text| text.parse().ok()).ok_or("no amount")?;
        let entry = headers.get(header::ENTRY).ok_or("nothing that says what it is for")?;
        let entry = serde_json::from_str(entry).map_err(|error| error.to_string())?;
        let total = total_in(&counter, &message.payload)?;
        Ok(StoredEntry {
            counter,
            entry,
            id: headers.get(header::MSG_ID).unwrap_or_default().to_owned(),
            amount,
            total,
            sequence: info.stream_sequence,
            stored_at: info.published,
        })
    }
}

impl Bus {
    /// What can be read of an entry that [`Bus::read_entry`] cannot read.
    pub fn read_amount(&self, message: &Message, reason: String) -> Option<UnreadableEntry> {
        let headers = HeaderView(message.headers.as_ref());
        Some(UnreadableEntry {
            counter: self.subjects().parse_budget(&message.subject)?,
            amount: headers.get(INCREMENT)?.parse().ok()?,
            total: total_of(&message.payload)?,
            sequence: message.info().ok()?.stream_sequence,
            reason,
        })
    }
}

fn refused(description: String) -> PublishError {
    PublishError::Refused { code: 0, description }
}

fn total_in(counter: &Counter, payload: &[u8]) -> Result<i64, String> {
    total_of(payload).ok_or_else(|| format!("the total of the counter {counter} cannot be read"))
}

/// `{"val":"123"}`
fn total_of(payload: &[u8]) -> Option<i64> {
    let value: serde_json::Value = serde_json::from_slice(payload).ok()?;
    whole(value.get("val")?.as_str()?)
}

/// A total as the server writes it, which counts without bounds. What is beyond ours is as large as can be: no limit has
/// room for it, and what is in it is still settled, which brings it back.
pub(crate) fn whole(text: &str) -> Option<i64> {
    text.parse().map_or_else(
        |error: ParseIntError| match error.kind() {
            IntErrorKind::PosOverflow => Some(i64::MAX),
            IntErrorKind::NegOverflow => Some(i64::MIN),
            _ => None,
        },
        Some,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_is_read_or_said_to_be_unreadable() {
        let counter = Counter { budget: "daily".into(), window: "total".into() };
        for (payload, expected) in [
            (r#"{"val":"-12"}"#, Some(-12)),
            (r#"{"val":"9223372036854775808"}"#, Some(i64::MAX)),
            (r#"{"val":"-99999999999999999999999999999999999999999999"}"#, Some(i64::MIN)),
            (r#"{"val":"1e3"}"#, None),
            (r#"{"val":""}"#, None),
            (r#"{"val":7}"#, None),
            ("{}", None),
            ("", None),
        ] {
            let read = total_in(&counter, payload.as_bytes());
            assert_eq!(read.clone().ok(), expected, "{payload}");
            assert!(read.is_ok() || read.is_err_and(|reason| reason.contains("daily.total")), "{payload}");
        }
    }
}
