//! A benchmark of several parts, each with its bars.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio::runtime::Runtime;

use crate::support::report::verdict;
use crate::support::{broker, machine};

/// Prints a bar, and whether it was kept.
pub(crate) fn bar(what: &str, is_kept: bool) -> bool {
    println!("  {:6} {what}", verdict(is_kept));
    is_kept
}

/// The parts that the command line names, or all of them.
pub(crate) struct Parts {
    wanted: Vec<String>,
    runtime: Runtime,
    binary: PathBuf,
    kept: bool,
}

impl Parts {
    /// With the release build.
    pub(crate) fn begin() -> Self {
        let wanted = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
        let runtime = Runtime::new().expect("a runtime can be built");
        let binary = broker::binary();
        println!("{} cores, load average {:.1}", machine::cores(), machine::load_average());
        Self { wanted, runtime, binary, kept: true }
    }

    /// Measures a part, which says whether its bars were kept.
    pub(crate) fn part(&mut self, name: &str, measure: impl AsyncFnOnce(&Path) -> bool) {
        if self.wanted.is_empty() || self.wanted.iter().any(|wanted| wanted == name) {
            self.kept &= self.runtime.block_on(measure(&self.binary));
        }
    }

    /// How all of it ended.
    pub(crate) fn end(self) -> ExitCode {
        println!("load average {:.1} after", machine::load_average());
        if self.kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
