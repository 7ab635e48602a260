//! Tells what is spent.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use futures_util::StreamExt;
use tollgate_bus::bucket::SPENT;
use tollgate_protocol::budget::{Counter, Spent};

use super::settle::{Pass, Settler};

impl Settler<'_> {
    /// Tells it of every counter that has changed.
    pub(super) async fn tell(&self, pass: &mut Pass) {
        let Ok(store) = self.bus.bucket(SPENT).await else { return };
        self.alerts.note(pass.changed.iter().cloned());
        let now = tollgate_bus::now();
        let (book, store) = (self.book, &store);
        let tell = |counter: Counter| async move {
            let spent = {
                let book = book.lock().unwrap_or_else(PoisonError::into_inner);
                // What is forgotten is not told again. (The newest of a budget is kept, and routers wait for it.)
                if book.is_long_over(&counter, now) && book.long_over(now).contains(&counter) {
                    return Ok(());
                }
                if book.is_closed(&counter.budget) {
                    return Ok(());
                }
                book.spent(&counter)
            };
            let Ok(value) = serde_json::to_vec(&spent) else { return Ok(()) };
            let written = store.put(counter.to_string(), value.into()).await;
            written.map(|_| ()).map_err(|error| {
                tracing::debug!(%error, %counter, "what is spent cannot be told");
            })
        };
        // What was not told is in the set still, and told the next time.
        let _ = each(&mut pass.changed, tell).await;
    }
}

impl Settler<'_> {
    /// Says that nothing is known of budgets that are not configured, or are counted anew: routers reserve nothing in them
    /// before they hear of them again.
    pub(super) async fn close(&self) -> Result<(), String> {
        let store = self.bus.bucket(SPENT).await?;
        let closed = Spent { is_closed: true, ..Spent::default() };
        let closed = serde_json::to_vec(&closed).map_err(|error| error.to_string())?;
        let mut keys = store.keys().await.map_err(|error| error.to_string())?;
        while let Some(key) = keys.next().await {
            let key = key.map_err(|error| error.to_string())?;
            let Some((budget, _)) = key.split_once('.') else { continue };
            if !self.lock().is_closed(budget) {
                continue;
            }
            let told = store.get(key.clone()).await.map_err(|error| error.to_string())?;
            let is_known =
                |told: &bytes::Bytes| serde_json::from_slice::<Spent>(told).is_ok_and(|told| told.is_closed);
            if told.as_ref().is_some_and(|told| !is_known(told)) {
                store.put(key, closed.clone().into()).await.map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }
}

/// Does it for each, which is taken out then; until it fails. That one and those after it stay.
async fn each<F: Future<Output = Result<(), ()>>>(
    left: &mut BTreeSet<Counter>,
    mut tell: impl FnMut(Counter) -> F,
) -> Result<(), ()> {
    while let Some(counter) = left.first().cloned() {
        tell(counter).await?;
        left.pop_first();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_could_not_be_told_is_told_the_next_time() {
        let counter = |budget: &str| Counter { budget: budget.into(), window: "total".into() };
        let mut left = BTreeSet::from(["a", "b", "c"].map(counter));
        let mut told = Vec::new();
        let outcome = each(&mut left, |counter| {
            let is_refused = counter.budget == "b";
            told.push(counter.budget);
            std::future::ready(if is_refused { Err(()) } else { Ok(()) })
        });
        assert_eq!(outcome.await, Err(()));
        assert_eq!(told, ["a", "b"]);
        assert_eq!(left, BTreeSet::from(["b", "c"].map(counter)));
        each(&mut left, |_| std::future::ready(Ok(()))).await.unwrap();
        assert_eq!(left, BTreeSet::new());
    }
}
