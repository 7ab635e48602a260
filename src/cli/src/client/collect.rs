//! `tollgate collect`: the result files of a group, from what is stored.

use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use clap::Args;
use futures_util::stream;
use tollgate_bus::{Bus, HeaderView};
use tollgate_protocol::header::{self, Headers};
use tollgate_protocol::{Group, RequestId, Team};

use super::batch::Answer;
use super::connect::{self, At};
use super::files::Files;
use super::gather::{Gather, Sink};
use super::plan::{self, Plan};
use super::results::Results;
use super::stored;
use super::summary::Summary;
use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;

/// Write the answers of a group, such as one that was submitted with --detach
#[derive(Clone, Debug, Args)]
pub(crate) struct CollectArgs {
    /// The group; with --file the file's own group by default
    #[arg(required_unless_present = "file")]
    pub(crate) group: Option<String>,
    #[command(flatten)]
    pub(crate) at: At,
    #[command(flatten)]
    pub(crate) team: plan::TeamArg,
    /// The file that was submitted: maps the answers back to its custom_ids
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) paths: plan::Paths,
    /// Wait until every request of --file is answered
    #[arg(long, requires = "file")]
    pub(crate) wait: bool,
}

/// Runs the command.
pub(crate) async fn run(args: CollectArgs, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    let team = args.team.parse()?;
    let Some(file) = args.file.clone() else {
        let group = plan::parse_group(args.group.as_deref().unwrap_or_default())?;
        let bus = connect::bus(global, &args.at).await?;
        return whole_group(&bus, &team, &group, &args, output).await;
    };
    let plan = Plan::for_file(&file, team, args.group.as_deref())?.for_reading();
    let bus = connect::bus(global, &args.at).await?;
    of_file(&bus, &plan, &args, output).await
}

/// Everything that is stored for the group, under the requests' own ids.
async fn whole_group(
    bus: &Bus,
    team: &Team,
    group: &Group,
    args: &CollectArgs,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let started = tokio::time::Instant::now();
    let (out, errors) = args.paths.resolve(None, group)?;
    // Without the file nobody knows what is missing, so the files are made anew each time.
    let mut files = Files::open(&out, &errors, |_| None, |_| {})?;
    let subject = stored::group_subject(bus, team, group);
    let mut cursor = 0;
    loop {
        let page = stored::after(bus, &subject, cursor).await?;
        for message in &page.messages {
            cursor = cursor.max(message.sequence);
            let id = message.subject.rsplit('.').next().unwrap_or_default();
            let Some(parsed) = tollgate_protocol::Identity::from_tokens(&format!("{team}.{group}.{id}"))
            else {
                continue;
            };
            files.add(&answer(&parsed.id, message))?;
        }
        if page.messages.is_empty() || page.pending == 0 {
            break;
        }
    }
    let tally = *files.tally();
    if tally.answered() == 0 {
        return Err(Failure::failed(format!(
            "nothing is stored for group {group} of team {team}. Is the group right, and was it answered less than \
             a day ago? `tollgate status` shows whether requests still wait"
        )));
    }
    let summary = Summary::of(team, group, tally.answered(), tally, 0, files.finish()?, started.elapsed());
    summary.print(output);
    Ok(summary.exit_code())
}

fn answer(id: &RequestId, message: &stored::Stored) -> Answer {
    let view = HeaderView(Some(&message.headers));
    Answer::of_payload(id.as_str(), id, view.get(header::CONTENT_TYPE), &message.payload)
}

async fn of_file(bus: &Bus, plan: &Plan, args: &CollectArgs, output: &Output) -> Result<ExitCode, Failure> {
    let started = tokio::time::Instant::now();
    let (out, errors) = args.paths.resolve(args.file.as_deref(), &plan.group)?;
    let mut open = plan.all();
    let files = Files::open(
        &out,
        &errors,
        |custom_id| plan.id_of(custom_id).map(ToString::to_string),
        |custom_id| open.remove_custom_id(custom_id),
    )?;
    let none_held = AtomicU64::new(0);
    let mut results = Results::new(plan, open, files, output);
    let work = async {
        let mut gather = Gather::start(bus, &plan.team, &plan.group).await?;
        gather.catch_up(&mut results).await?;
        results.answers_are_live(&none_held);
        if args.wait {
            gather.run(&mut results, pin!(stream::empty())).await?;
        }
        Ok::<(), Failure>(())
    };
    let ended = tokio::select! {
        ended = work => Some(ended),
        _ = tokio::signal::ctrl_c() => None,
    };
    let state = results.close();
    match ended {
        Some(Ok(())) => {}
        Some(Err(failure)) => {
            return Err(Failure { message: format!("{}.\n{state}", failure.message), ..failure });
        }
        None => {
            output.note(format!("stopped. {state}"));
            return Ok(ExitCode::from(super::EXIT_INTERRUPTED));
        }
    }
    let (tally, earlier, missing) = (*results.tally(), results.earlier(), results.remaining());
    let finished = results.finish()?;
    if missing > 0 {
        output.note(format!(
            "{missing} requests have no answer yet: run the same command later, or with --wait"
        ));
    }
    let took = if args.wait { started.elapsed() } else { Duration::ZERO };
    let summary = Summary::new(plan, tally, earlier, finished, took);
    summary.print(output);
    Ok(summary.exit_code())
}
