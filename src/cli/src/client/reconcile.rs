//! `tollgate reconcile`: holds counters, ledger and usage events against each other.
//!
//! A running broker is never still: what is being settled looks like a difference. So what is found is looked at again
//! until it is gone, or has stood unchanged for longer than a ledger takes to settle it, also one that takes over.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use async_nats::Request;
use clap::Args;
use serde_json::json;
use tokio::time::Instant;
use tollgate_bus::Bus;
use tollgate_ledger::audit::{Difference, What};
use tollgate_ledger::query::Answer;
use tollgate_ledger::reconcile::{ReconcileError, Reconciliation};
use tollgate_policy::budget::{Budget, Budgets};
use tollgate_protocol::Sequence;
use tollgate_protocol::budget::{BudgetList, BudgetQuestion};

use super::connect::{self, At};
use super::{budget, duration};
use crate::args::Global;
use crate::failure::Failure;
use crate::output::{Output, Table};

mod there;

/// How long the ledger may take to read what is stored.
const CATCH_UP: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(250);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// What goes on changing is looked at for so many times the wait.
const WAITS: u32 = 3;

/// Compare budgets' counters, the ledger and the usage events; exit code 1 if they differ
#[derive(Clone, Debug, Args)]
pub(crate) struct ReconcileArgs {
    #[command(flatten)]
    pub(crate) at: At,
    /// Put differences right by entries that can be seen
    #[arg(long)]
    pub(crate) repair: bool,
    /// How long something may be on its way to be settled before it is a difference
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration::parse)]
    pub(crate) wait: Duration,
}

/// What was found.
#[derive(Debug, Default)]
struct Found {
    differences: BTreeSet<Difference>,
    repaired: BTreeSet<Difference>,
    unsettled: usize,
    open: usize,
    accounts: u64,
    not_compared: u64,
    counters: usize,
    usage_events: Sequence,
}

fn failed(error: ReconcileError) -> Failure {
    match error {
        ReconcileError::Unreadable(_) => Failure::unreachable(error.to_string()),
        ReconcileError::Ledger(_) | ReconcileError::Busy => Failure::failed(error.to_string()),
    }
}

/// A folder that is gone afterwards.
struct Workshop(PathBuf);

impl Drop for Workshop {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs the command.
pub(crate) async fn run(args: ReconcileArgs, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    let bus = connect::bus(global, &args.at).await?;
    let list = budget::ask(&bus, BudgetQuestion::default()).await?;
    let states = || list.budgets.iter().chain(&list.limits);
    let budgets: Option<Vec<Budget>> = states().map(Budget::of_state).collect();
    let Some(budgets) = budgets else {
        return Err(Failure::failed("the ledger is of another version, and its budgets cannot be read"));
    };
    let opened: Vec<_> =
        states().filter_map(|budget| Some((budget.name.clone(), budget.opened_at?))).collect();
    let folder = std::env::temp_dir().join(format!("tollgate-reconcile-{}", uuid::Uuid::now_v7()));
    let workshop = Workshop(folder);
    let working = async {
        let opening = Reconciliation::open(&bus, &workshop.0, Budgets(budgets.into()), opened);
        let mut reconciliation = opening.await.map_err(failed)?;
        let mut look = Look { bus: &bus, reconciliation: &mut reconciliation, wait: args.wait };
        let mut found = look.compare().await?;
        if args.repair && !found.differences.is_empty() {
            Box::pin(look.repair(&mut found)).await?;
        }
        Ok::<_, Failure>(found)
    };
    let found = tokio::select! {
        found = working => found?,
        // The folder goes away with this function.
        _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(super::EXIT_INTERRUPTED)),
    };
    show(&found, &args, output);
    let is_right = found.differences.is_empty();
    Ok(if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Look<'a, 'b> {
    bus: &'a Bus,
    reconciliation: &'a mut Reconciliation<'b>,
    wait: Duration,
}

impl Look<'_, '_> {
    async fn compare(&mut self) -> Result<Found, Failure> {
        let (_, usage) = self.reconciliation.ends().await.map_err(failed)?;
        let answer = self.totals(usage).await?;
        let (entries, _) = self.reconciliation.ends().await.map_err(failed)?;
        self.reconciliation.read(entries, answer.as_of.sequence, true).await.map_err(failed)?;
        let mut found = Found {
            differences: self.reconciliation.totals(&answer).map_err(failed)?,
            usage_events: answer.as_of.sequence,
            ..Found::default()
        };
        self.read().await?;
        self.caught_up().await?;
        let openings = self.reconciliation.openings().await.map_err(failed)?;
        let now = tollgate_bus::now();
        let first = self.reconciliation.audit().accounts(None, now).map_err(|error| failed(error.into()))?;
        (found.accounts, found.not_compared) = (first.accounts, first.not_compared);
        // What is reserved for a request that is there is as it should be.
        let absent = self.absent(&first.open).await?;
        let suspect = first.differences.into_iter().chain(absent).chain(self.told().await?);
        let stood = self.stood(suspect.collect()).await?;
        found.unsettled = stood.moving;
        let (reserved, others): (BTreeSet<_>, BTreeSet<_>) =
            stood.differences.into_iter().partition(|difference| difference.what == What::Reservation);
        found.differences.extend(others);
        // A request that moved from one stream to another can have been in neither when it was looked for.
        found.differences.extend(self.absent(&reserved).await?);
        found.differences.extend(self.reconciliation.audit().beside(&openings));
        let is_reserved = |difference: &&Difference| difference.what == What::Reservation;
        found.open =
            first.open.len() - found.differences.iter().filter(is_reserved).count().min(first.open.len());
        found.counters = self.reconciliation.audit().counters();
        Ok(found)
    }

    async fn read(&mut self) -> Result<(), Failure> {
        let (entries, usage) = self.reconciliation.ends().await.map_err(failed)?;
        self.reconciliation.read(entries, usage, false).await.map_err(failed)
    }

    /// The ledger's totals, once it has folded everything up to `usage`.
    async fn totals(&self, usage: Sequence) -> Result<Answer, Failure> {
        let start = Instant::now();
        let question = serde_json::to_vec(&self.reconciliation.question()).unwrap_or_default();
        let subject = self.bus.subjects().control("usage", "query");
        loop {
            let request = Request::new().payload(question.clone().into()).timeout(Some(ANSWER_TIMEOUT));
            let reply = self
                .bus
                .client()
                .send_request(subject.clone(), request)
                .await
                .map_err(|error| Failure::unreachable(format!("the ledger did not answer: {error}")))?;
            let answer: Answer = serde_json::from_slice(&reply.payload)
                .map_err(|error| Failure::failed(format!("the ledger's answer cannot be read: {error}")))?;
            if answer.as_of.sequence >= usage {
                return Ok(answer);
            }
            behind(start, usage, answer.as_of.sequence).await?;
        }
    }

    /// Waits until the ledger has read for budgets what was read here.
    async fn caught_up(&self) -> Result<(), Failure> {
        let start = Instant::now();
        let (entries, usage) = self.reconciliation.audit().readable();
        loop {
            let list: BudgetList = budget::ask(self.bus, BudgetQuestion::default()).await?;
            // Without a budget it reads nothing for them.
            let has_read = list.entries_sequence >= entries && list.usage_sequence >= usage;
            if has_read || list.budgets.len() + list.limits.len() == 0 {
                return Ok(());
            }
            behind(start, entries.max(usage), list.entries_sequence.min(list.usage_sequence)).await?;
        }
    }

    async fn told(&self) -> Result<BTreeSet<Difference>, Failure> {
        let told = self.reconciliation.told().await.map_err(failed)?;
        Ok(self.reconciliation.audit().told(&told, tollgate_bus::now()))
    }

    /// Those of the reservations whose request is nowhere.
    async fn absent(&self, open: &BTreeSet<Difference>) -> Result<Vec<Difference>, Failure> {
        let accounts = open.iter().map(|difference| difference.account.clone()).collect();
        let absent = there::absent(self.bus, accounts).await?;
        Ok(open.iter().filter(|difference| absent.contains(&difference.account)).cloned().collect())
    }

    /// Which of these are still there, unchanged, after the wait.
    async fn stood(&mut self, suspect: BTreeSet<Difference>) -> Result<Stood, Failure> {
        let start = Instant::now();
        let mut since: HashMap<Difference, Instant> =
            suspect.into_iter().map(|difference| (difference, start)).collect();
        let mut stood = Stood::default();
        while !since.is_empty() {
            let now = self.differences(since.keys()).await?;
            let places: BTreeSet<_> = since.keys().map(place).collect();
            let mut next = HashMap::new();
            for difference in now.into_iter().filter(|difference| places.contains(&place(difference))) {
                let seen = since.get(&difference).copied().unwrap_or_else(Instant::now);
                if seen.elapsed() >= self.wait {
                    stood.differences.insert(difference);
                } else {
                    next.insert(difference, seen);
                }
            }
            since = next;
            if start.elapsed() > self.wait * WAITS {
                stood.moving = since.len();
                break;
            }
            if !since.is_empty() {
                tokio::time::sleep(LOOK_EVERY.min(self.wait)).await;
            }
        }
        Ok(stood)
    }

    /// What is different now in the accounts of these, and in what is told.
    async fn differences(
        &mut self,
        of: impl Iterator<Item = &Difference> + Clone,
    ) -> Result<BTreeSet<Difference>, Failure> {
        self.read().await?;
        let accounts: BTreeSet<String> = of.map(|difference| difference.account.clone()).collect();
        let now = tollgate_bus::now();
        let found = self.reconciliation.audit().accounts(Some(&accounts), now);
        let found = found.map_err(|error| failed(error.into()))?;
        let told = self.told().await?;
        Ok(found.differences.into_iter().chain(found.open).chain(told).collect())
    }

    /// Writes what puts the differences right, as far as entries can.
    async fn repair(&mut self, found: &mut Found) -> Result<(), Failure> {
        let named = found.differences.clone();
        let openings = self.reconciliation.openings().await.map_err(failed)?;
        let current = |reconciliation: &Reconciliation<'_>| -> Result<BTreeSet<Difference>, ReconcileError> {
            let accounts = named.iter().map(|difference| difference.account.clone()).collect();
            let now = reconciliation.audit().accounts(Some(&accounts), tollgate_bus::now())?;
            let beside = reconciliation.audit().beside(&openings);
            Ok(now.differences.into_iter().chain(now.open).chain(beside).collect())
        };
        let writing = self.reconciliation.repair(async |reconciliation| {
            let (entries, usage) = reconciliation.ends().await?;
            reconciliation.read(entries, usage, false).await?;
            let mut corrections = Vec::new();
            for difference in current(reconciliation)?.intersection(&named) {
                corrections.extend(reconciliation.audit().corrections(difference)?);
            }
            Ok(corrections)
        });
        Box::pin(writing).await.map_err(failed)?;
        self.read().await?;
        let left = current(self.reconciliation).map_err(failed)?;
        let left: BTreeSet<_> = left.iter().map(place).collect();
        let by_entries = |difference: &Difference| {
            matches!(difference.what, What::Account | What::Reservation | What::Entry)
        };
        let is_right = |difference: &Difference| by_entries(difference) && !left.contains(&place(difference));
        (found.repaired, found.differences) = named.into_iter().partition(is_right);
        Ok(())
    }
}

/// What stood still for the wait, and how much went on changing.
#[derive(Default)]
struct Stood {
    differences: BTreeSet<Difference>,
    moving: usize,
}

/// Where a difference is, whatever stands there.
fn place(difference: &Difference) -> (String, String, u32, bool, Sequence) {
    let Difference { what, counter, account, attempt, sequence, .. } = difference;
    // An account has one line for each counter and attempt; an entry is its own place.
    let entry = if *what == What::Entry { *sequence } else { 0 };
    (counter.clone(), account.clone(), *attempt, *what == What::Told, entry)
}

async fn behind(start: Instant, wanted: Sequence, read: Sequence) -> Result<(), Failure> {
    if start.elapsed() > CATCH_UP {
        return Err(Failure::unreachable(format!(
            "the ledger has read up to {read} of {wanted}, so nothing can be compared: is it working?"
        )));
    }
    tokio::time::sleep(LOOK_EVERY).await;
    Ok(())
}

/// What is to be done about what no entry puts right.
fn hint(what: What) -> Option<&'static str> {
    match what {
        What::Totals => Some(
            "stop the ledger and run `tollgate ledger rebuild`: its totals are made anew from the usage events",
        ),
        What::Told => Some("restart the ledger: it tells everything anew when it begins"),
        What::Counter => Some(
            "somebody deleted entries; what they were for is known to the ledger only, as long as it has its folder",
        ),
        What::Account | What::Reservation | What::Entry => None,
    }
}

fn show(found: &Found, args: &ReconcileArgs, output: &Output) {
    if output.json {
        output.json(&json!({
            "differences": found.differences,
            "repaired": found.repaired,
            "being_settled": found.unsettled,
            "open": found.open,
            "not_compared": found.not_compared,
            "counters": found.counters,
            "accounts": found.accounts,
            "usage_events": found.usage_events,
        }));
        return;
    }
    let (different, repaired) = (found.differences.len(), found.repaired.len());
    if different + repaired > 0 {
        output.table(&table(found));
    }
    let mut hints: BTreeMap<What, &str> = BTreeMap::new();
    for difference in &found.differences {
        hints.extend(hint(difference.what).map(|hint| (difference.what, hint)));
    }
    hints.values().for_each(|hint| output.note(hint));
    let by_entries = |difference: &Difference| hint(difference.what).is_none();
    if found.differences.iter().any(by_entries) {
        output.note(if args.repair {
            "what is not put right yet may have been written in the last 2 minutes: try again after that"
        } else {
            "`tollgate reconcile --repair` writes entries that put this right"
        });
    }
    output.line(format!(
        "{} counters, {} requests and {} usage events were compared: {}{}.",
        found.counters,
        found.accounts,
        found.usage_events,
        match different {
            0 => "no difference".to_owned(),
            1 => "1 difference".to_owned(),
            many => format!("{many} differences"),
        },
        if repaired > 0 { format!(", {repaired} put right") } else { String::new() },
    ));
    output.line(format!("{} reservations are open, {} are being settled.", found.open, found.unsettled));
    if found.not_compared > 0 {
        output.line(format!(
            "{} could not be compared: their counters' logs are shorter than their history.",
            found.not_compared
        ));
    }
}

fn table(found: &Found) -> Table {
    let mut table =
        Table::new(&["where", "request or entry", ">stands", ">should be", ">difference", "what"]);
    let differences = found.differences.iter().map(|difference| (difference, ""));
    for (difference, done) in differences.chain(found.repaired.iter().map(|done| (done, "put right: "))) {
        let who = match difference.what {
            What::Account | What::Reservation => {
                format!("{} from attempt {}", difference.account, difference.attempt)
            }
            What::Entry | What::Counter => format!("entry {}", difference.sequence),
            What::Told | What::Totals => String::new(),
        };
        let amount = |amount: i64| budget::amount(difference.unit, amount);
        table.row([
            difference.counter.clone(),
            who,
            amount(difference.stands),
            amount(difference.should_be),
            amount(difference.amount()),
            format!("{done}{}", difference.reason),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use tollgate_protocol::budget::Unit;

    use super::*;

    fn difference(what: What, is: i64) -> Difference {
        Difference {
            what,
            counter: "research.total".into(),
            unit: Unit::NanoUsd,
            account: "research.batch.q1".into(),
            attempt: 1,
            sequence: 7,
            stands: is,
            should_be: 1_000_000_000,
            reason: "it is not what the request cost".into(),
        }
    }

    #[test]
    fn differences_are_named_with_their_amounts() {
        let found = Found {
            differences: [difference(What::Account, 3_000_000_000)].into(),
            repaired: [difference(What::Entry, 1_500_000_000)].into(),
            ..Found::default()
        };
        insta::assert_snapshot!(table(&found).render(false, false), @r"
        where           request or entry                  stands  should be  difference  what
        research.total  research.batch.q1 from attempt 1   $3.00      $1.00       $2.00  it is not what the request cost
        research.total  entry 7                            $1.50      $1.00       $0.50  put right: it is not what the request cost
        ");
    }

    #[test]
    fn a_place_stays_the_same_while_its_amounts_change() {
        let (one, other) = (difference(What::Account, 1), difference(What::Account, 2));
        assert_eq!(place(&one), place(&Difference { sequence: 9, ..other.clone() }));
        assert_ne!(place(&one), place(&Difference { attempt: 2, ..other }));
        assert_ne!(
            place(&difference(What::Entry, 1)),
            place(&Difference { sequence: 8, ..difference(What::Entry, 1) })
        );
    }
}
