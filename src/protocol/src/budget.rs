//! What stands in the counters of budgets and limits.
//!
//! Each window of each budget is one counter: `llm.budget.<budget>.<window>`, a log of signed entries in nano-dollars
//! whose total the server keeps and returns with every entry. The amount is the header `Nats-Incr`; what it is for is
//! [`Entry`], in one header beside it. Limits of tokens and of requests in flight are counted the same way, in [`Unit`]s
//! of their own; what is called `nano_usd` below is then in these.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Sequence, Timestamp};

/// The window of a budget that has no end.
pub const TOTAL: &str = "total";

/// A counter: a budget's name and its window.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Counter {
    /// The budget's name: 1 to 64 of `A-Z a-z 0-9 _ -`.
    pub budget: String,
    /// When the window began, as `20261128T210000Z`; or `total`.
    pub window: String,
}

impl std::fmt::Display for Counter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.budget, self.window)
    }
}

/// What a counter counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// What calls cost, in nano-dollars.
    #[default]
    NanoUsd,
    /// What calls use, in tokens, input and output.
    Tokens,
    /// Requests that are under way. They cost nothing when they are over.
    InFlight,
}

impl Unit {
    fn is_money(&self) -> bool {
        *self == Self::NanoUsd
    }
}

/// Why an amount was added to a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// What the calls of a request may cost, before they are made. It counts only if the total with it is within the limit.
    Reserve,
    /// Goes on with a try of another router, which died or has the same request in hand. It adds nothing; from then on that
    /// try can only be ended under this one's id, so that nobody takes back what is relied on here.
    Take,
    /// Takes a reservation back.
    Undo,
    /// Makes the entries of a request equal to what it cost.
    Settle,
    /// What was spent before the budget was there.
    Open,
    /// Puts right what neither routers nor the ledger do, when somebody asked for it.
    Correct,
}

/// An entry of a counter, beside its amount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Why.
    pub kind: EntryKind,
    /// What its counter counts.
    #[serde(default, skip_serializing_if = "Unit::is_money")]
    pub unit: Unit,
    /// Whose it is: `<team>.<group>.<id>`. Empty for an opening.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub account: String,
    /// The first attempt that is meant.
    #[serde(default)]
    pub attempt: u32,
    /// Which try to reserve it is, takes back or settles. Whoever takes a try back does so under the same id, so that it is
    /// taken back once.
    #[serde(default, rename = "try", skip_serializing_if = "Option::is_none")]
    pub tried: Option<String>,
    /// For a `take`: the try that it goes on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takes: Option<String>,
    /// For an opening: the last usage event that is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_sequence: Option<Sequence>,
    /// For a correction of an entry that is of no account: that entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrects: Option<Sequence>,
    /// For a try to reserve: the limit that it is judged by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
}

/// JetStream's id of the entry that takes a try back or settles it.
pub fn end_id(tried: &str) -> String {
    format!("end/{tried}")
}

/// What is spent of a window, as the ledger tells it. All amounts in nano-dollars.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// Calls that are over, at what they cost.
    pub spent_nano_usd: i64,
    /// Everything in the counter: what is spent, and what is reserved.
    pub total_nano_usd: i64,
    /// The counter's last entry that is in these.
    pub sequence: Sequence,
    /// Nothing is known: the budget is not configured, or is being counted anew. Nobody reserves in it before it is told again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_closed: bool,
}

/// What was told of a window already: the thresholds, in percent, that its spending has reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Of this limit, in nano-dollars.
    pub limit_nano_usd: i64,
    /// What was spent then.
    pub spent_nano_usd: i64,
    /// Ascending.
    pub percents: Vec<u32>,
}

/// A question to the ledger: what is reserved for a request already?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenQuestion {
    /// The request's account.
    pub account: String,
    /// The attempt that is to be made.
    pub attempt: u32,
    /// Accounts and attempts of others that are asked about at once; see [`OTHERS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<(String, u32)>,
}

/// So many others can be asked about in one question; further ones are not looked at.
pub const OTHERS_MAX: usize = 256;

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenAnswer {
    /// How far the ledger has read the counters.
    pub sequence: Sequence,
    /// The tries that are open: the counter, the try's id, and what it reserved, in nano-dollars.
    pub open: Vec<(Counter, String, i64)>,
    /// What is known of each of them, by its id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tries: BTreeMap<String, Try>,
    /// The others that something is reserved for and not over, and in which counter: for that attempt, or for one before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<(String, Counter)>,
}

/// What is known of a try to reserve that is not over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Try {
    /// What the counter said with it.
    pub total: i64,
    /// The limit that it was judged by: it holds if the total was within that.
    pub limit: i64,
    /// When it was stored, in milliseconds.
    pub stored_ms: i64,
    /// Whether another router went on with it.
    pub is_taken: bool,
}

/// A question to the ledger about its budgets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetQuestion {
    /// Only the budget of this name, and what was told of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The ledger's answer to `budget.list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetList {
    /// In the order of the configuration.
    pub budgets: Vec<BudgetState>,
    /// Limits that are settled as budgets are: of tokens, and of what is in flight. Their amounts are in their units.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<BudgetState>,
    /// The last entry of a counter that the ledger has read.
    #[serde(default)]
    pub entries_sequence: Sequence,
    /// The last usage event that it has read for budgets.
    #[serde(default)]
    pub usage_sequence: Sequence,
}

/// A budget in its window of now. All amounts in nano-dollars.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetState {
    /// Its name.
    pub name: String,
    /// What its counters count.
    #[serde(default, skip_serializing_if = "Unit::is_money")]
    pub unit: Unit,
    /// When its window began, or `total`.
    pub window: String,
    /// What may be spent in a window.
    pub limit_nano_usd: i64,
    /// What is spent in this one.
    pub spent_nano_usd: i64,
    /// What is reserved beside that, or to be settled.
    pub reserved_nano_usd: i64,
    /// What follows when it is spent.
    pub when_spent: String,
    /// What is reserved before a call.
    pub reserve: String,
    /// Whether its counter has an opening; before that, requests wait.
    pub is_open: bool,
    /// The last usage event that is in its opening.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_at: Option<Sequence>,
    /// Which requests it is for, as in a configuration: what has to be equal. Empty: all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scope: BTreeMap<String, String>,
    /// How long a window is: `minute` to `month`, or `total`.
    #[serde(default)]
    pub per: String,
    /// Where its windows of the calendar begin.
    #[serde(default)]
    pub timezone: String,
    /// When the window began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_begins: Option<Timestamp>,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_ends: Option<Timestamp>,
    /// The thresholds that are told, in percent of the limit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alert_percent: Vec<u32>,
    /// Those that were told in this window; said where one budget is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_percent: Option<Vec<u32>>,
}
