//! Another configuration is in force: everything that waits is looked at anew.

use std::sync::Arc;

use tollgate_policy::hot::Hot;
use tollgate_policy::inputs::Vocabulary;

use super::Desk;
use crate::intake::Item;

impl Desk {
    /// What waits was read, weighed and addressed by what was in force before. It goes back to where it is stored, and comes
    /// again at once: then it is read as if it had just come. What is being dispatched ends by what it was begun with.
    pub(super) fn configured(&mut self, hot: Arc<Hot>) {
        let before = std::mem::replace(&mut self.hot, hot);
        self.context.spending.forget(|name| before.budgets.named(name).is_some());
        self.load_vocabularies();
        // They have other numbers now, and other limits.
        self.gates.in_force(&self.hot.budgets);
        self.stuck.clear();
        let hot = Arc::clone(&self.hot);
        for (_, item) in self.queue.take_out(|item| !stays(item, &hot)) {
            self.let_go(item);
        }
    }

    /// Makes ready what counts the tokens of the models in force, while no request waits for it.
    fn load_vocabularies(&self) {
        let is_used = |vocabulary: &Vocabulary| {
            let mut targets = self.hot.catalog.prices.keys();
            targets.any(|target| Vocabulary::of(&target.model) == Some(*vocabulary))
        };
        for vocabulary in Vocabulary::ALL.into_iter().filter(is_used) {
            self.tasks.spawn_blocking(move || tollgate_tokens::load(vocabulary));
        }
    }

    pub(super) fn let_go(&self, item: Box<Item>) {
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move { context.let_go(*item).await });
    }
}

/// What is reserved already keeps its reservation, as long as its team and its target are there. What waits for its turn
/// under a limit does not: that limit may have another number now, or another pace.
pub(super) fn stays(item: &Item, hot: &Hot) -> bool {
    item.reserved.is_some()
        && !item.needs.budgets.iter().any(|budget| item.hot.budgets.is_rate(*budget))
        && hot.teams.contains_key(&item.identity.team)
        && hot.catalog.prices.contains_key(&item.target)
}
