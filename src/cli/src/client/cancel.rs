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
    /// TEAM.GROUP.ID; or, of --team and --group, ids or custom_ids
    #[arg(required_unless_present = "file")]
    pub(crate) ids: Vec<String>,
    #[command(flatten)]
    pub(crate) at: At,
    #[command(flatten)]
    pub(crate) team: plan::TeamArg,
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
    let over: Vec<(Identity, Option<String>)> =
        stream::iter(identities).map(|meant| one(&bus, meant, wait)).buffered(AT_ONCE).try_collect().await?;
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

/// For each request the identities that may be meant.
fn identities(args: &CancelArgs) -> Result<Vec<Vec<Identity>>, Failure> {
    let team = &args.team;
    if let Some(file) = &args.file {
        let plan = Plan::for_file(file, team.parse()?, args.group.as_deref())?;
        let identity = |index| Identity {
            team: plan.team.clone(),
            group: plan.group.clone(),
            id: plan.id(index).clone(),
        };
        return Ok((0..plan.len()).map(|index| vec![identity(index)]).collect());
    }
    args.ids
        .iter()
        .map(|id| {
            if let Some(identity) = Identity::from_tokens(id) {
                return Ok(vec![identity]);
            }
            let team = team.parse()?;
            let group = match args.group.as_deref() {
                None | Some("_") => None,
                Some(group) => Some(plan::parse_group(group)?),
            };
            let own = || group.clone().unwrap_or_else(tollgate_protocol::Group::none);
            // Ids that the broker gave begin with seq-, which no client may send but anyone may take back.
            let as_id = match RequestId::parse(id) {
                Ok(id) => Some(Identity { team: team.clone(), group: own(), id }),
                Err(_) if id.starts_with("seq-") => Identity::from_tokens(&format!("{team}.{}.{id}", own())),
                Err(_) => None,
            };
            // What looks like an id may be the custom_id of a line as well.
            let as_line = group.clone().map(|group| {
                let id = batch::request_id(&team, &group, id);
                Identity { team: team.clone(), group, id }
            });
            let meant: Vec<Identity> = as_line.into_iter().chain(as_id).collect();
            if meant.is_empty() {
                return Err(Failure::usage(format!(
                    "{id:?} is no id. Say TEAM.GROUP.ID, or for a custom_id of a batch --team and --group as well"
                )));
            }
            Ok(meant)
        })
        .collect()
}

/// Publishes a cancellation of all that may be meant, and waits until one of them is over.
async fn one(bus: &Bus, meant: Vec<Identity>, wait: Duration) -> Result<(Identity, Option<String>), Failure> {
    for identity in &meant {
        let subject = bus.subjects().cancel(identity);
        bus.publish(&subject, async_nats::HeaderMap::new(), None, bytes::Bytes::new(), Patience::NORMAL)
            .await
            .map_err(|error| publish_failure(&error))?;
    }
    let looking = async {
        loop {
            for identity in &meant {
                let stored = bus.stored_response(identity).await.map_err(|error| publish_failure(&error))?;
                if let Some(stored) = stored {
                    let view = tollgate_bus::HeaderView(Some(&stored.headers));
                    let status = view.get(header::STATUS).map(str::to_owned);
                    return Ok::<_, Failure>((identity.clone(), status));
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    match (tokio::time::timeout(wait, looking).await, meant.first()) {
        (Ok(over), _) => over,
        (Err(_), Some(identity)) => Ok((identity.clone(), None)),
        (Err(_), None) => Err(Failure::usage("nothing to take back")),
    }
}
