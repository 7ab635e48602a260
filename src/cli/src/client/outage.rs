//! `tollgate simulator outage`: has the simulators of a running broker fail for a while, to see what happens then.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::connect::{self, At};
use super::duration;
use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;

/// Have the simulators of a running broker fail all calls for a while
#[derive(Clone, Debug, Args)]
pub(crate) struct OutageArgs {
    /// How long, such as 60s or 5m
    #[arg(value_parser = duration::parse)]
    pub(crate) time: Duration,
    /// Only this provider
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: Option<String>,
    /// The HTTP status of the failed calls
    #[arg(long, value_name = "S", default_value_t = 503)]
    pub(crate) status: u16,
    #[command(flatten)]
    pub(crate) at: At,
}

/// Runs the command.
pub(crate) async fn run(args: OutageArgs, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    let bus = connect::bus(global, &args.at).await?;
    let ask = json!({"seconds": args.time.as_secs_f64(), "status": args.status, "provider": args.provider});
    let subject = bus.subjects().control("simulator", "outage");
    let reply = bus.client().request(subject, ask.to_string().into()).await.map_err(|error| {
        Failure::failed(format!(
            "no simulator answers ({error}): this is for those that run inside `tollgate up` or a worker. One that \
             runs alone takes POST /__sim/outage"
        ))
    })?;
    let reply: Value = serde_json::from_slice(&reply.payload)
        .map_err(|error| Failure::failed(format!("the answer cannot be read: {error}")))?;
    if let Some(error) = reply["error"].as_str() {
        return Err(Failure::usage(error.to_owned()));
    }
    if output.json {
        output.json(&reply);
    } else {
        let names: Vec<&str> =
            reply["providers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        output.line(format!(
            "{} {} for {:?}; `tollgate watch` shows what follows",
            names.join(", "),
            if names.len() == 1 { "fails" } else { "fail" },
            args.time
        ));
    }
    Ok(ExitCode::SUCCESS)
}
