//! `tollgate run ROLE`: one part of the broker, on a nats-server that others run.

use crate::args;
use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;
use crate::serve::{process, ready, settings, signals::Signals};

/// Runs one role until a signal.
pub(crate) async fn run(args: &args::Run, global: &Global) -> Result<(), Failure> {
    let role = args.role.into();
    let mut signals = Signals::new()?;
    let loaded = settings::load(global.config.as_deref())?;
    let plan = process::Plan {
        roles: vec![role],
        settings: loaded.settings,
        own: loaded.own,
        connect: global.connect.settings(&format!("tollgate-{}", role.as_str())),
        listener: process::listen(&args.listen).await?,
        data: args.data.clone(),
    };
    let output = Output::new(global.json);
    process::run(plan, &mut signals, |addresses, _, _| output.line(ready::line(Some(role), addresses))).await
}
