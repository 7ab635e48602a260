//! `tollgate cancel`: takes requests back.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use tollgate_bus::Bus;
use tollgate_bus::retry::Patience;
use tollgate_protocol::header::{self, Headers};
use tollgate_protocol::{Identity, RequestId};

use super::connect::{self, At, publish_failure};
use super::plan::{self, Plan};
use super::{batch, duration};
use crate::args::Global;
use crate::failure::Failure;
use crate::output::{Output, Table};

const AT_ONCE: usize = 64;
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Take requests back: what waits is not called any more, and a running call is broken off
#[derive(Clone, Debug, Args)]
pub(crate) struct CancelArgs {
    /// TEAM.GROUP.ID; or, with --team and --group, ids or custom_ids
    #[arg(required_unless_present = "file")]
    pub(crate) ids: Vec<String>,
    #[command(flatten)]
    pub(crate) at: At,
    /// The team of the ids
    #[arg(long, env = "TOLLGATE_TEAM")]
    pub(crate) team: Option<String>,
    /// The group of the ids; of a file its own by default
    #[arg(long)]
    pub(crate) group: Option<String>,
    /// All requests of a file that was submitted
    #[arg(long, value_name = "FILE", conflicts_with = "ids")]
    pub(crate) file: Option<PathBuf>,
    /// How long to wait for each to be over
    #[arg(long, value_parser = duration::parse, default_value = "10s")]
    pub(crate) wait: Duration,
}

/// Runs the command.
pub(crate) async fn run(args: CancelArgs, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    let identities = identities(&args)?;
    let bus = connect::bus(global, &args.at).await?;
    let wait = args.wait;
    let over: Vec<(Identity, Option<String>)> = stream::iter(identities)
        .map(|identity| one(&bus, identity, wait))
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    let open = over.iter().filter(|(_, status)| status.is_none()).count();
    if output.json {
        let requests: Vec<_> = over
            .iter()
            .map(|(identity, status)| json!({"request": identity.to_string(), "status": status}))
            .collect();
        output.json(&json!({"requests": requests, "open": open}));
    } else {
        let mut table = Table::new(&["request", "status"]);
        for (identity, status) in &over {
            let status = status.as_deref().unwrap_or("not over yet; unknown, or nobody works on it");
            table.row([identity.to_string().as_str(), status]);
        }
        output.table(&table);
    }
    Ok(if open == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn identities(args: &CancelArgs) -> Result<Vec<Identity>, Failure> {
    let team = plan::TeamArg { team: args.team.clone().unwrap_or_default() };
    if let Some(file) = &args.file {
        let plan = Plan::for_file(file, team.parse()?, args.group.as_deref())?;
        let identity = |index| Identity {
            team: plan.team.clone(),
            group: plan.group.clone(),
            id: plan.id(index).clone(),
        };
        return Ok((0..plan.len()).map(identity).collect());
    }
    args.ids
        .iter()
        .map(|id| {
            if let Some(identity) = Identity::from_tokens(id) {
                return Ok(identity);
            }
            let team = team.parse()?;
            let group = match args.group.as_deref() {
                None | Some("_") => tollgate_protocol::Group::none(),
                Some(group) => plan::parse_group(group)?,
            };
            let id = match RequestId::parse(id) {
                Ok(id) => id,
                Err(_) if id.starts_with("seq-") => {
                    return Identity::from_tokens(&format!("{team}.{group}.{id}"))
                        .ok_or_else(|| Failure::usage(format!("{id:?} is not an id")));
                }
                Err(_) => batch::request_id(&team, &group, id),
            };
            Ok(Identity { team, group, id })
        })
        .collect()
}

/// Publishes a cancellation and waits until the request is over.
async fn one(bus: &Bus, identity: Identity, wait: Duration) -> Result<(Identity, Option<String>), Failure> {
    let subject = bus.subjects().cancel(&identity);
    bus.publish(&subject, async_nats::HeaderMap::new(), None, bytes::Bytes::new(), Patience::NORMAL)
        .await
        .map_err(|error| publish_failure(&error))?;
    let looking = async {
        loop {
            let stored = bus.stored_response(&identity).await.map_err(|error| publish_failure(&error))?;
            if let Some(stored) = stored {
                let view = tollgate_bus::HeaderView(Some(&stored.headers));
                return Ok::<_, Failure>(view.get(header::STATUS).map(str::to_owned));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    match tokio::time::timeout(wait, looking).await {
        Ok(status) => Ok((identity, status?)),
        Err(_) => Ok((identity, None)),
    }
}
