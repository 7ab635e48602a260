//! `tollgate wait`: returns when a group is answered.

use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use futures_util::stream;
use tollgate_bus::{Bus, record};

use super::connect::{self, At};
use super::gather::Gather;
use super::plan::{self, Plan};
use super::stored;
use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Wait until the requests of a group are answered
#[derive(Clone, Debug, Args)]
pub(crate) struct WaitArgs {
    /// The group; with --file the file's own group by default
    #[arg(required_unless_present = "file")]
    pub(crate) group: Option<String>,
    #[command(flatten)]
    pub(crate) at: At,
    #[command(flatten)]
    pub(crate) team: plan::TeamArg,
    /// How many answers to wait for
    #[arg(long, value_name = "N", required_unless_present = "file", conflicts_with = "file")]
    pub(crate) count: Option<u64>,
    /// The file that was submitted: wait for an answer to each of its requests
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

/// Runs the command.
pub(crate) async fn run(args: WaitArgs, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    let team = args.team.parse()?;
    let (group, plan) = match &args.file {
        Some(file) => {
            let plan = Plan::for_file(file, team.clone(), args.group.as_deref())?;
            (plan.group.clone(), Some(plan))
        }
        None => (plan::parse_group(args.group.as_deref().unwrap_or_default())?, None),
    };
    let bus = connect::bus(global, &args.at).await?;
    let work = async {
        match &plan {
            Some(plan) => {
                let mut open = plan.all();
                let mut gather = Gather::start(&bus, &plan.team, &plan.group).await?;
                gather.catch_up(&mut open).await?;
                gather.run(&mut open, pin!(stream::empty())).await?;
                Ok(plan.len() as u64)
            }
            None => {
                let subject = stored::group_subject(&bus, &team, &group);
                count(&bus, &subject, args.count.unwrap_or(0), output).await
            }
        }
    };
    let answered = tokio::select! {
        answered = work => answered?,
        _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(super::EXIT_INTERRUPTED)),
    };
    if output.json {
        output.json(&serde_json::json!({"team": team, "group": group, "answered": answered}));
    } else {
        output.line(format!("{answered} answers in group {group}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Counting costs the server little, so no answer has to be read for it.
async fn count(bus: &Bus, subject: &str, wanted: u64, output: &Output) -> Result<u64, Failure> {
    let stream = bus.subjects().stream(record::STREAM);
    let bar = output.progress(wanted);
    loop {
        let answered = stored::count(bus, &stream, subject).await?;
        bar.set_position(answered.min(wanted));
        if answered >= wanted {
            bar.finish_and_clear();
            return Ok(answered);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
