//! Ends what is reserved for requests that are over without the book having heard of it.

use std::sync::{Arc, PoisonError};

use tokio_util::task::TaskTracker;
use tollgate_protocol::Identity;
use tollgate_protocol::record::Last;

use super::{Fault, PATIENCE, Pass, Settler, in_background};

impl Settler<'_> {
    /// Looks at the records of accounts that have been open for long.
    pub(super) async fn end_answered(&self, pass: &mut Pass, tasks: &TaskTracker) -> Result<(), Fault> {
        let due = self.lock().to_look_at(tollgate_bus::now());
        for name in due {
            let Some(identity) = Identity::from_tokens(&name) else { continue };
            match self.bus.last_record(&identity, PATIENCE).await {
                Ok(Last::Answered { .. }) => {}
                Ok(_) => continue,
                // The others would not be found either; they are looked at again.
                Err(_) => return Ok(()),
            }
            let book = Arc::clone(self.book);
            let end = move || Ok(book.lock().unwrap_or_else(PoisonError::into_inner).answered(&name)?);
            let outcome = in_background(end).await.map_err(Fault::Fatal)?;
            if !outcome.due.is_empty() {
                tracing::info!(request = %identity, "what is reserved for it ends: it was answered before");
            }
            self.act(outcome, pass, tasks);
        }
        Ok(())
    }
}
