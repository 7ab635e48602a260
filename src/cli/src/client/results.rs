//! Answers on their way into the files, with the user watching.

use std::path::Path;
use std::sync::atomic::AtomicU64;

use async_nats::HeaderMap;
use indicatif::ProgressBar;
use tollgate_bus::HeaderView;
use tollgate_protocol::header::{self, Headers};

use super::batch::{self, Answer, Tally};
use super::files::{Files, Finished};
use super::gather::Sink;
use super::plan::{Open, Plan};
use super::send::held_text;
use crate::failure::Failure;
use crate::output::Output;

/// Without a progress bar, a line is written this often, in seconds.
const REPORT_SECONDS: u64 = 15;

/// Takes the answers of a plan.
pub(crate) struct Results<'a> {
    plan: &'a Plan,
    open: Open<'a>,
    files: Files,
    output: &'a Output,
    bar: ProgressBar,
    held: Option<&'a AtomicU64>,
    /// How many were in the files already.
    in_files: u64,
    /// How many were answered before anything was sent.
    earlier: u64,
    seconds: u64,
}

impl<'a> Results<'a> {
    /// Takes the answers of `open` into `files`.
    pub(crate) fn new(plan: &'a Plan, open: Open<'a>, files: Files, output: &'a Output) -> Self {
        let in_files = files.tally().answered();
        let bar = output.progress(plan.len() as u64);
        bar.set_position(in_files);
        bar.reset_eta();
        Self { plan, open, files, output, bar, held: None, in_files, earlier: in_files, seconds: 0 }
    }

    /// Says what an earlier run left.
    pub(crate) fn say_continued(&self) {
        if self.output.json {
            return;
        }
        if self.in_files > 0 {
            self.output.note(format!(
                "continuing: {} of {} answers are in the files already",
                self.in_files,
                self.plan.len()
            ));
        }
        if self.files.dropped() > 0 {
            self.output.note(format!(
                "{} results in the files are of another batch or group, and are replaced",
                self.files.dropped()
            ));
        }
    }

    /// What was answered until now was answered earlier; from now on it is news.
    pub(crate) fn answers_are_live(&mut self, held: &'a AtomicU64) {
        self.earlier = self.files.tally().answered();
        self.held = Some(held);
        self.bar.reset_eta();
        let stored = self.earlier - self.in_files;
        if stored > 0 && !self.output.json {
            self.bar.suspend(|| {
                self.output.note(format!("continuing: {stored} answers were stored at the broker already"));
            });
        }
    }

    /// The requests that have no answer.
    pub(crate) fn open(&self) -> Vec<usize> {
        self.open.indices()
    }

    /// What is counted.
    pub(crate) fn tally(&self) -> &Tally {
        self.files.tally()
    }

    /// How many answers were there before anything was sent.
    pub(crate) fn earlier(&self) -> u64 {
        self.earlier
    }

    /// The bar goes away, and what is in memory goes to the files as far as it can. Says where things are.
    pub(crate) fn close(&mut self) -> String {
        self.bar.finish_and_clear();
        let partial = match self.files.flush() {
            Ok(()) => format!("are in {}", shown(self.files.partial())),
            Err(failure) => failure.message,
        };
        format!(
            "{} of {} requests are answered; the answers so far {partial}. What was sent goes on at the broker. \
             Run the same command again to continue: nothing runs or is paid twice",
            self.tally().answered(),
            self.plan.len()
        )
    }

    /// Gives the files their names.
    pub(crate) fn finish(self) -> Result<Finished, Failure> {
        self.files.finish()
    }

    fn message(&self) -> String {
        let tally = self.tally();
        let held = self.held.map(held_text).unwrap_or_default();
        let separator = if held.is_empty() { "" } else { "  " };
        format!("{} failed, {} so far{separator}{held}", tally.failed, tally.cost_nano_usd)
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

impl Sink for Results<'_> {
    fn take(&mut self, id: &str, headers: &HeaderMap, payload: &[u8]) -> Result<(), Failure> {
        let Some(index) = self.open.remove_id(id) else { return Ok(()) };
        let (custom_id, id) = (self.plan.custom_id(index), self.plan.id(index));
        let view = HeaderView(Some(headers));
        let answer = if self.plan.is_answer_to(index, view.get(header::DIGEST)) {
            Answer::of_payload(custom_id, id, view.get(header::CONTENT_TYPE), payload)
        } else {
            batch::duplicate(custom_id, id)
        };
        self.files.add(&answer)?;
        self.bar.inc(1);
        Ok(())
    }

    fn remaining(&self) -> usize {
        self.open.len()
    }

    fn tick(&mut self) -> Result<(), Failure> {
        self.seconds += 1;
        self.bar.set_message(self.message());
        if !self.output.shows_progress() && !self.output.json && self.seconds.is_multiple_of(REPORT_SECONDS) {
            let (answered, all) = (self.tally().answered(), self.plan.len());
            self.output.note(format!("{answered} of {all} answered, {}", self.message()));
        }
        self.files.flush()
    }
}
