//! `tollgate submit`: a batch file in, result files out, whatever happens in between.
//!
//! Everything that makes this safe to stop and repeat is in the identities: the same file is the same group
//! and the same ids, so a second run reads the answers that are there and sends only what has none.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use clap::Args;
use futures_util::StreamExt;
use tollgate_bus::Bus;

use super::connect::{self, At};
use super::files::Files;
use super::gather::{Gather, Sink};
use super::plan::{self, Plan};
use super::results::Results;
use super::summary::Summary;
use super::{duration, send};
use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;

/// Send every request of an OpenAI batch file and write the answers
///
/// Submitting a file again continues it: answered requests are not sent again. Ctrl-C loses nothing.
#[derive(Clone, Debug, Args)]
pub(crate) struct SubmitArgs {
    /// OpenAI batch JSONL: lines of {"custom_id", "method", "url", "body"}; - for standard input
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) at: At,
    #[command(flatten)]
    pub(crate) team: plan::TeamArg,
    /// high, normal or low
    #[arg(long, default_value = "low", value_parser = plan::priority)]
    pub(crate) priority: tollgate_protocol::Priority,
    /// What the requests are grouped under; by default made from the file's content
    #[arg(long)]
    pub(crate) group: Option<String>,
    #[command(flatten)]
    pub(crate) paths: plan::Paths,
    /// The project that pays
    #[arg(long, value_name = "NAME")]
    pub(crate) project: Option<String>,
    /// The person or service behind the requests (--user is the nats-server's)
    #[arg(long, value_name = "NAME")]
    pub(crate) end_user: Option<String>,
    /// What the requests are for
    #[arg(long, value_name = "NAME")]
    pub(crate) task: Option<String>,
    /// A label for reports; may be given 16 times
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = plan::tag)]
    pub(crate) tags: Vec<(String, String)>,
    /// How long the requests may take, such as 90m, 24h or 7d; by default what the broker gives the priority
    #[arg(long, value_parser = duration::parse)]
    pub(crate) ttl: Option<Duration>,
    /// Send and return at once; collect the answers later
    #[arg(long)]
    pub(crate) detach: bool,
    /// Most requests that wait for the nats-server's acknowledgement at a time
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..=8_192))]
    pub(crate) in_flight: u16,
}

/// Runs the command.
pub(crate) async fn run(args: SubmitArgs, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    let started = tokio::time::Instant::now();
    let plan = Plan::for_submit(&args)?;
    if args.detach {
        let bus = connect::bus(global, &args.at).await?;
        return detach(&bus, &plan, &args, output).await;
    }
    let (out, errors) = args.paths.resolve(Some(&args.file), &plan.group)?;
    let mut open = plan.all();
    let files = Files::open(
        &out,
        &errors,
        |custom_id| plan.id_of(custom_id).map(ToString::to_string),
        |custom_id| {
            open.remove_custom_id(custom_id);
        },
    )?;
    let mut results = Results::new(&plan, open, files, output);
    results.say_continued();
    let held = AtomicU64::new(0);
    let ended = if results.remaining() == 0 {
        Some(Ok(()))
    } else {
        let bus = connect::bus(global, &args.at).await?;
        plan.check_sizes(bus.connection().max_payload())?;
        let work = exchange(&bus, &plan, &mut results, usize::from(args.in_flight), &held);
        tokio::select! {
            ended = work => Some(ended),
            () = send::say_held(&held, output) => None,
            _ = tokio::signal::ctrl_c() => None,
        }
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
    let (tally, earlier) = (*results.tally(), results.earlier());
    let finished = results.finish()?;
    let summary = Summary::new(&plan, tally, earlier, finished, started.elapsed());
    summary.print(output);
    Ok(summary.exit_code())
}

async fn exchange<'a>(
    bus: &Bus,
    plan: &Plan,
    results: &mut Results<'a>,
    in_flight: usize,
    held: &'a AtomicU64,
) -> Result<(), Failure> {
    let mut gather = Gather::start(bus, &plan.team, &plan.group).await?;
    gather.catch_up(results).await?;
    results.answers_are_live(held);
    let sending = pin!(send::all(bus, plan, results.open(), in_flight, held));
    gather.run(results, sending).await
}

async fn detach(bus: &Bus, plan: &Plan, args: &SubmitArgs, output: &Output) -> Result<ExitCode, Failure> {
    plan.check_sizes(bus.connection().max_payload())?;
    let mut open = plan.all();
    let mut gather = Gather::start(bus, &plan.team, &plan.group).await?;
    gather.catch_up(&mut open).await?;
    let indices = open.indices();
    let bar = output.progress(indices.len() as u64);
    let held = AtomicU64::new(0);
    let mut sending = pin!(send::all(bus, plan, indices.clone(), usize::from(args.in_flight), &held));
    let mut saying = pin!(send::say_held(&held, output));
    let stopped = loop {
        tokio::select! {
            () = &mut saying => break true,
            sent = sending.next() => match sent {
                Some(Ok(())) => {
                    bar.inc(1);
                    bar.set_message(send::held_text(&held));
                }
                Some(Err(failure)) => return Err(failure),
                None => break false,
            },
            _ = tokio::signal::ctrl_c() => break true,
        }
    };
    bar.finish_and_clear();
    if stopped {
        output.note("stopped before everything was sent. Run the same command again to continue.");
        return Ok(ExitCode::from(super::EXIT_INTERRUPTED));
    }
    let collect = collect_command(&args.file, plan);
    if output.json {
        output.json(&serde_json::json!({
            "team": plan.team, "group": plan.group, "total": plan.len(), "sent": indices.len(),
            "already_answered": plan.len() - indices.len(), "collect": collect,
        }));
    } else {
        output.note(format!(
            "sent {} of {} requests, group {}. Collect the answers with",
            indices.len(),
            plan.len(),
            plan.group
        ));
        output.line(collect);
    }
    Ok(ExitCode::SUCCESS)
}

/// What to type to get the answers later.
fn collect_command(file: &Path, plan: &Plan) -> String {
    let mut command = format!("tollgate collect {} --team {}", plan.group, plan.team);
    if file != Path::new("-") {
        command.push_str(&format!(" --file '{}' --wait", file.display().to_string().replace('\'', r"'\''")));
    }
    command
}
