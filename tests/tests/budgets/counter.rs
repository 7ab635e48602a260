//! Holds the counters of budgets against what was paid.

use tollgate_tests::client::Client;
use tollgate_tests::counters::{self, Entry};
pub(crate) use tollgate_tests::counters::{entries, numbers, totals};
use tollgate_tests::wait::eventually;

use crate::stage::PATIENCE;

/// The most that was ever held, which is never more than the limit.
pub(crate) fn most_held(entries: &[Entry], limit: i64) -> i64 {
    counters::most_held(entries, limit).unwrap_or_else(|broken| panic!("{broken}"))
}

/// Waits until the counters say what was paid, by this team, and returns it.
pub(crate) async fn settled(client: &Client, team: &str) -> i64 {
    eventually(PATIENCE, "a counter that says what was paid", async || {
        let counted: i64 = totals(client).await.values().sum();
        let on_ledger = client.usage_by_team().await;
        let rows = on_ledger["rows"].as_array().cloned().unwrap_or_default();
        let paid = rows.iter().find(|row| row["team"] == team).and_then(|row| row["cost_nano_usd"].as_i64());
        if Some(counted) != paid {
            return Err((counted, paid, None));
        }
        let events = counters::paid(client, team).await;
        if counted == events { Ok(counted) } else { Err((counted, paid, Some(events))) }
    })
    .await
}
