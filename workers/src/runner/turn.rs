//! Whose turn it is under limits of requests per minute of a provider's account, and by what the provider says is left:
//! looked at before each call, so that retries count, too.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tollgate_bus::retry::Patience;
use tollgate_policy::budget::Budget;
use tollgate_policy::hot::Hot;
use tollgate_policy::pace::{self, Asking, Numbered};
use tollgate_protocol::Timestamp;
use tollgate_protocol::job::Target;

use super::job::Work;

/// How long one number is asked for before the call waits.
const PATIENCE: Patience = Patience(Duration::from_secs(5));
/// How soon a limit that does not answer is asked again.
const RETRY: Duration = Duration::from_millis(200);

/// How long a call keeps its permit while it waits, if it is one of those that show whether their target is up.
const PROBE_WAIT: Duration = Duration::from_secs(2);

/// Limits of a call by name, each with its requests per minute.
type Limits = Vec<(String, NonZeroU32)>;

impl Work<'_> {
    /// Waits for the turn of a call under all limits of its account. `false`: the worker stops, or the deadline has come.
    pub(super) async fn wait_for_turn(&mut self, target: &Target) -> bool {
        // What the provider said is left is this process's own to share out. First, because a number does not keep.
        // What it said before an outage may be for longer than a stage of recovery lives, and only an answer says more.
        let most = self.permit.map(|_| PROBE_WAIT);
        tokio::select! {
            () = self.cut() => return false,
            () = self.shop.wait_for_quota(most) => {}
        }
        let Some(permit) = self.permit else { return self.wait_for_limits(target).await };
        let health = &self.context.health;
        // Others make better use of it meanwhile: there may be one again when its turn comes.
        let give_back = async { health.give_back(target, permit, tollgate_bus::now()).await };
        let (is_turn, is_kept) = wait_with(PROBE_WAIT, self.wait_for_limits(target), give_back).await;
        if !is_kept {
            let now = tollgate_bus::now();
            self.permit = match is_turn {
                true => health.grant(&target.provider, &target.model, now).await,
                false => None,
            };
        }
        // It is looked at again before it is called.
        is_turn && self.may_call(target).await
    }

    /// Waits for numbers of all limits.
    async fn wait_for_limits(&self, target: &Target) -> bool {
        let mut hot = self.context.settings.hot.clone();
        loop {
            let limits = self.limits(target, &hot.borrow_and_update());
            // Numbers of a limit that has another number now are void, as late ones are.
            tokio::select! {
                is_turn = self.wait_for_numbers(&limits) => return is_turn,
                () = self.limits_change(target, &limits, &mut hot) => {}
            }
        }
    }

    /// The limits of requests per minute of a call.
    fn limits(&self, target: &Target, hot: &Hot) -> Limits {
        let (team, meta) = (self.job.identity.team.as_str(), &self.job.meta);
        let of_it = |limit: &&Budget| limit.is_for_call(team, meta, &target.provider, &target.model);
        let of_it = hot.budgets.0.iter().filter(of_it);
        let mut limits: Vec<_> = of_it.map(|limit| (limit.name.clone(), per_minute(limit))).collect();
        // The slow ones first: their numbers are good for longer.
        limits.sort_by_key(|(_, per_minute)| *per_minute);
        limits
    }

    /// Waits until a call has other limits than these. What else changes does not cost it its numbers.
    async fn limits_change(&self, target: &Target, limits: &Limits, hot: &mut watch::Receiver<Arc<Hot>>) {
        while hot.changed().await.is_ok() {
            if self.limits(target, &hot.borrow_and_update()) != *limits {
                return;
            }
        }
        // Nobody is left who could change them.
        std::future::pending().await
    }

    async fn wait_for_numbers(&self, limits: &Limits) -> bool {
        let mut turns = vec![None; limits.len()];
        // A number can become void while one waits for that of another limit.
        while turns.iter().any(Option::is_none) {
            for ((limit, per_minute), turn) in limits.iter().zip(&mut turns) {
                if turn.is_some() {
                    continue;
                }
                let Some(at) = self.wait_for_number(limit, *per_minute).await else { return false };
                *turn = Some(at);
            }
            let now = tollgate_bus::now();
            for ((_, per_minute), turn) in limits.iter().zip(&mut turns) {
                *turn = turn.filter(|at| !pace::is_void(*per_minute, *at, now));
            }
        }
        true
    }

    /// The time of a number, when it has come.
    async fn wait_for_number(&self, limit: &str, per_minute: NonZeroU32) -> Option<Timestamp> {
        let mut asking = Asking::new(limit, per_minute);
        loop {
            let add = asking.next(tollgate_bus::now());
            let id = add.id.as_deref();
            let added = self.context.bus.add_numbers(limit, &add.cell, add.amount, id, PATIENCE).await;
            let later = match added.map(|number| asking.heard(number, tollgate_bus::now())) {
                Ok(Some(Numbered::At(at))) => return self.sleep_until(at).await.then_some(at),
                Ok(Some(Numbered::Later(at))) => at,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(%error, limit, "a limit's counter does not answer, trying again");
                    tollgate_bus::now() + RETRY
                }
            };
            if !self.sleep_until(later).await {
                return None;
            }
            asking = Asking::new(limit, per_minute);
        }
    }

    /// `false`: it was cut by a stop or by the deadline.
    async fn sleep_until(&self, at: Timestamp) -> bool {
        tokio::select! {
            () = self.cut() => false,
            () = sleep_until(at) => at < self.job.deadline,
        }
    }

    /// Waits for a stop or the deadline.
    async fn cut(&self) {
        tokio::select! {
            () = self.context.stop.cancelled() => {}
            () = sleep_until(self.job.deadline) => {}
        }
    }
}

/// Waits for a turn, and gives something back that is not kept for longer than `most`. Says whether the turn has come, and
/// whether that was kept.
async fn wait_with(
    most: Duration,
    turn: impl Future<Output = bool>,
    give_back: impl Future<Output = ()>,
) -> (bool, bool) {
    tokio::pin!(turn);
    tokio::select! {
        biased;
        is_turn = &mut turn => (is_turn, true),
        () = tokio::time::sleep(most) => {
            give_back.await;
            (turn.await, false)
        }
    }
}

async fn sleep_until(at: Timestamp) {
    tokio::time::sleep((at - tollgate_bus::now()).to_std().unwrap_or_default()).await;
}

fn per_minute(limit: &Budget) -> NonZeroU32 {
    u32::try_from(limit.limit).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_long_gives_back_what_it_does_not_use() {
        let (sender, given) = tokio::sync::oneshot::channel();
        // Its turn does not come before that is given back.
        let turn = async { given.await.is_ok() };
        let give_back = async { sender.send(()).unwrap() };
        assert_eq!(wait_with(Duration::from_millis(1), turn, give_back).await, (true, false));
        let never = async { panic!("it is used at once") };
        assert_eq!(wait_with(Duration::ZERO, async { true }, never).await, (true, true));
    }
}
