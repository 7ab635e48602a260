//! The loop guard: what the same caller asks for again and again waits for another minute.

use std::sync::Arc;
use std::time::Duration;

use tollgate_bus::blob::INLINE_BYTES_MAX;
use tollgate_bus::retry::Patience;
use tollgate_policy::answer::End;
use tollgate_policy::budget::{Budget, WhenSpent, limited};
use tollgate_policy::hot::Hot;
use tollgate_policy::repeats::{Count, TooMany, caller, held_max};
use tollgate_protocol::event::{Kind, LifecycleEvent};
use tollgate_protocol::job::Job;
use tollgate_protocol::response::Status;
use tollgate_telemetry as telemetry;

use super::{Desk, Done};
use crate::Context;
use crate::holding::Holding;

/// How long a counter is asked for. One that does not answer holds nobody up: what it guards against is no harm to others.
const PATIENCE: Patience = Patience(Duration::from_secs(5));

impl Desk {
    /// A request that has come, or that has waited and comes again.
    pub(super) fn come(&mut self, message: Holding, mut job: Job) {
        let counts = self.repeats.counts(&self.hot.budgets, &mut job, tollgate_bus::now());
        if counts.is_empty() && job.body.len() <= INLINE_BYTES_MAX {
            return self.choose(message, job);
        }
        let (context, hot, done) =
            (Arc::clone(&self.context), Arc::clone(&self.hot), self.done_sender.clone());
        self.tasks.spawn(async move {
            let counted = Box::pin(context.count(&hot, &counts, message, job));
            let Some((message, job)) = counted.await else { return };
            if let Some(lighter) = context.put_aside(message, job).await {
                let _ = done.send(Done::Due(Box::new(lighter)));
            }
        });
    }
}

impl Context {
    /// Counts a request among those with the same body. `None`: there are too many, and it waits or was rejected.
    async fn count(&self, hot: &Hot, counts: &[Count], message: Holding, job: Job) -> Option<(Holding, Job)> {
        for count in counts {
            let Some(limit) = hot.budgets.0.get(count.limit) else { continue };
            let added =
                self.bus.add_numbers(&limit.name, &count.cell, count.amount, Some(&count.id), PATIENCE).await;
            let total = added.unwrap_or_else(|error| {
                tracing::warn!(%error, limit = limit.name, "equal bodies cannot be counted, this one goes on");
                None
            });
            tollgate_bus::point("router.repeat.counted");
            let Some(too_many) = count.judge(limit, total) else { continue };
            self.repeated(limit, too_many, message, job).await;
            return None;
        }
        Some((message, job))
    }

    async fn repeated(&self, limit: &Budget, too_many: TooMany, message: Holding, job: Job) {
        telemetry::count_budget_wait(&limit.name);
        if too_many.is_first {
            let of = caller(&job).map_or_else(String::new, |caller| format!(" from {caller}"));
            let text = format!(
                "more than {} requests with the same body{of} in a minute: the limit {} holds further ones",
                limit.limit, limit.name
            );
            tracing::warn!(request = %job.identity, limit = limit.name, "the same body again and again");
            let event = LifecycleEvent::about(&job.identity, Kind::Repeated, tollgate_bus::now(), text);
            let id = format!("{}.0.repeated", job.identity);
            self.bus.publish_event(&event, crate::SOURCE, &id).await;
        }
        let is_rejected = job.rejects_on_limit || limit.when_spent == WhenSpent::Reject;
        if is_rejected || too_many.is_full {
            let mut problem = limited(limit);
            if !is_rejected {
                let most = held_max(limit);
                problem.message =
                    format!("{}, and at most {most} more of a minute are held", problem.message);
            }
            self.end(message, &job, End::Unpaid(Status::Rejected, problem)).await;
        } else {
            self.wait_until(message, job, too_many.until).await;
        }
    }
}
