//! `tollgate doctor`: looks at everything that has to be right, in the order in which it has to be, and says
//! what to do about what is not. Reads only: a doctor that repairs hides what was wrong.

mod broker;
mod local;

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::connect::{self, At};
use crate::args::Global;
use crate::failure::Failure;
use crate::output::{Output, Tone};

/// Check the configuration, the nats-server and the parts of the broker
#[derive(Clone, Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) at: At,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// As it should be.
    Good,
    /// It works, but probably not as meant.
    Warning,
    /// It does not work.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// What.
    name: &'static str,
    /// How it is.
    state: State,
    /// What was found.
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Check {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Good, found: found.into(), advice: None }
    }

    fn warning(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, state: State::Warning, found: found.into(), advice: Some(advice.into()) }
    }

    fn bad(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, state: State::Bad, found: found.into(), advice: Some(advice.into()) }
    }
}

/// Runs the command.
pub(crate) async fn run(args: DoctorArgs, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    let (settings, mut checks) = local::checks(global);
    let mut reachable = true;
    match connect::bus(global, &args.at).await {
        Ok(bus) => checks.extend(broker::checks(&bus, settings.as_ref()).await),
        Err(failure) => {
            reachable = false;
            let advice = "what depends on the server was not looked at";
            checks.push(Check::bad("nats-server", failure.message, advice));
        }
    }
    let bad = checks.iter().filter(|check| check.state == State::Bad).count();
    if output.json {
        output.json(&serde_json::json!({"healthy": bad == 0, "checks": checks}));
    } else {
        for check in &checks {
            print(check, output);
        }
        output.line(match bad {
            0 => "everything that has to be right is right".to_owned(),
            1 => "1 thing has to be put right".to_owned(),
            _ => format!("{bad} things have to be put right"),
        });
    }
    Ok(ExitCode::from(match (bad, reachable) {
        (0, _) => 0,
        (_, true) => 1,
        (_, false) => 3,
    }))
}

fn print(check: &Check, output: &Output) {
    let mark = match check.state {
        State::Good => output.paint("✓", Tone::Good),
        State::Warning => output.paint("!", Tone::Warning),
        State::Bad => output.paint("✗", Tone::Bad),
    };
    output.line(format!("{mark} {}: {}", check.name, check.found.replace('\n', "\n    ")));
    if let Some(advice) = &check.advice {
        output.line(format!("    → {advice}"));
    }
}
