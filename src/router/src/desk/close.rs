//! The end of the loop.

use std::time::Duration;

use super::{Desk, Done, Incoming};
use crate::dispatch::Left;

impl Desk {
    /// What waits goes back to the server at once; what is under way is finished.
    pub(super) async fn close(mut self, incoming: Incoming, drain: Duration) {
        let Incoming { mut messages, mut cancels, released, expressed, .. } = incoming;
        // What the index released it finds again, here or elsewhere; what is express is delivered by its lane.
        drop((released, expressed));
        for held in [&mut messages, &mut cancels] {
            held.close();
            while let Some(message) = held.recv().await {
                message.hand_back(Duration::ZERO).await;
            }
        }
        self.tasks.close();
        if tokio::time::timeout(drain, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                left = self.tasks.len(),
                "drain limit reached; what is left will be delivered again"
            );
        }
        drop(self.done_sender);
        while let Ok(done) = self.done.try_recv() {
            match done {
                Done::Dispatched(dispatched) => match dispatched.left {
                    Left::Item(item) => self.context.let_go(*item).await,
                    Left::Again(_, again) => again.0.hand_back(Duration::ZERO).await,
                    Left::Nothing | Left::Unserved(_) => {}
                },
                Done::Reserved(..) => {}
                Done::Woken(due) | Done::Due(due) | Done::Decided(due) => {
                    due.0.hand_back(Duration::ZERO).await
                }
            }
        }
        for (_, item) in self.queue.take_out(|_| true) {
            self.context.let_go(*item).await;
        }
    }
}
