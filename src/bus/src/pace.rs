//! Numbers in a minute: counters that tell whose turn it is under a limit of requests per minute.
//!
//! What a number is worth says `policy::pace`. The counters are a stream of their own, since nothing in them is ever
//! settled: what is over is forgotten by age.

use bytes::Bytes;

use crate::counter::INCREMENT;
use crate::publish::PublishError;
use crate::retry::Patience;
use crate::{Bus, headers};

/// The stream's name, without its prefix.
pub const STREAM: &str = "PACE";

impl Bus {
    /// Adds to the numbers of a limit's cell and returns the last of them; `None` if that was added under the same id
    /// before. What is added and not used is wasted, and does no other harm.
    pub async fn add_numbers(
        &self,
        limit: &str,
        cell: &str,
        amount: i64,
        id: Option<&str>,
        patience: Patience,
    ) -> Result<Option<i64>, PublishError> {
        let subject = self.subjects().pace(limit, cell);
        let headers = headers::headers([(INCREMENT, amount.to_string().as_str())]);
        let fresh = uuid::Uuid::now_v7().to_string();
        let published =
            self.publish(&subject, headers, Some(id.unwrap_or(&fresh)), Bytes::new(), patience).await?;
        Ok(published.total)
    }
}
