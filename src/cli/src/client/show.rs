//! `tollgate show`: what became of one request.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use tollgate_bus::{Bus, HeaderView};
use tollgate_protocol::header::{self, Headers};
use tollgate_protocol::record::{Ended, Entry, Next, Started};
use tollgate_protocol::response::Response;
use tollgate_protocol::{Encoding, Identity, RequestId, Team};

use super::connect::{self, At};
use super::stored::{self, Stored};
use super::{batch, duration, plan, whereabouts};
use crate::args::Global;
use crate::failure::Failure;
use crate::output::{Output, Table};

/// Show a request: its answer, its attempts, its cost, or where it is now
#[derive(Clone, Debug, Args)]
pub(crate) struct ShowArgs {
    /// Its id; or TEAM.GROUP.ID; or, with --group, its custom_id
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) at: At,
    /// Its team; without it, an id is searched in all teams, and a custom_id is of the team `default`
    #[arg(long, env = "TOLLGATE_TEAM")]
    pub(crate) team: Option<String>,
    /// Its group; without it, all groups are searched
    #[arg(long)]
    pub(crate) group: Option<String>,
}

/// The identities that are meant, as subject tokens; wildcards where nothing was said.
fn patterns(args: &ShowArgs) -> Result<Vec<String>, Failure> {
    if let Some(identity) = Identity::from_tokens(&args.id) {
        return Ok(vec![identity.to_string()]);
    }
    let team = args.team.as_deref().map(Team::parse).transpose();
    let team = team.map_err(|error| Failure::usage(format!("--team: {error}")))?;
    let group = match args.group.as_deref() {
        None | Some("_") => None,
        Some(group) => Some(plan::parse_group(group)?),
    };
    let group_token = args.group.as_deref().unwrap_or("*");
    let team_token = team.as_ref().map_or("*", Team::as_str);
    let mut patterns = Vec::new();
    // Ids that the broker gave begin with seq-, which no client may send but anyone may ask for.
    let given_by_broker = args.id.strip_prefix("seq-").is_some_and(|rest| rest.parse::<u64>().is_ok());
    if given_by_broker || RequestId::parse(&args.id).is_ok() {
        patterns.push(format!("{team_token}.{group_token}.{}", args.id));
    }
    // An id can be looked for in all teams; a custom_id cannot, as the id that is made of it has the team in it.
    if let Some(group) = &group {
        let team = match &team {
            Some(team) => team,
            None => &plan::default_team()?,
        };
        patterns.push(format!("{team}.{group}.{}", batch::request_id(team, group, &args.id)));
    }
    if patterns.is_empty() {
        return Err(Failure::usage(format!(
            "{:?} is not an id. For a custom_id of a batch, give --group as well",
            args.id
        )));
    }
    Ok(patterns)
}

/// Runs the command.
pub(crate) async fn run(args: ShowArgs, global: &Global, output: &Output) -> Result<ExitCode, Failure> {
    let patterns = patterns(&args)?;
    let bus = connect::bus(global, &args.at).await?;
    let subjects: Vec<String> = patterns
        .iter()
        .flat_map(|pattern| ["res", "run"].map(|kind| bus.subjects().under(&format!("{kind}.{pattern}"))))
        .collect();
    let found = stored::last_of(&bus, &subjects).await?;
    let response_prefix = bus.subjects().under("res.");
    let answers: Vec<&Stored> =
        found.iter().filter(|message| message.subject.starts_with(&response_prefix)).collect();
    let open: Vec<&Stored> = found
        .iter()
        .filter(|message| !message.subject.starts_with(&response_prefix))
        .filter(|message| !answers.iter().any(|answer| same_request(answer, message)))
        .collect();
    for identity in patterns.iter().filter_map(|pattern| Identity::from_tokens(pattern)) {
        if !answers.is_empty() || !open.is_empty() {
            break;
        }
        let Some(found) = whereabouts::find(&bus, &identity).await? else { continue };
        let pattern = &identity.to_string();
        if output.json {
            output.json(&json!({"request": pattern, "answered": false, "where": found.json}));
        } else {
            let mut table = Table::new(&["", ""]);
            table.row(["request", pattern]);
            table.row(["status", &found.text]);
            may_wait(&found, &mut table);
            output.table(&table);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if answers.is_empty() && open.is_empty() {
        return Err(Failure::failed(format!(
            "nothing is stored for {}. It waits in the queue and was never tried, or was answered longer ago than \
             answers are kept, or was never accepted. `tollgate status` shows what waits; a custom_id needs \
             --group, and --team if that is not `default`",
            args.id
        )));
    }
    for message in answers {
        show_response(message, output)?;
    }
    for message in open {
        show_entry(&bus, message, output).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `<prefix>.run.a.b.c` and `<prefix>.res.a.b.c` are of one request.
fn same_request(one: &Stored, other: &Stored) -> bool {
    let identity = |subject: &str| subject.splitn(3, '.').nth(2).map(str::to_owned);
    identity(&one.subject) == identity(&other.subject)
}

fn show_response(message: &Stored, output: &Output) -> Result<(), Failure> {
    let view = HeaderView(Some(&message.headers));
    let encoding = view.get(header::CONTENT_TYPE).and_then(Encoding::from_content_type).unwrap_or_default();
    let response: Response = encoding
        .decode(&message.payload)
        .map_err(|error| Failure::failed(format!("{} cannot be read: {error}", message.subject)))?;
    if output.json {
        output.json(&response);
        return Ok(());
    }
    output.table(&response_table(&response));
    if !response.attempts.is_empty() {
        output.line("");
        output.table(&attempts_table(&response.attempts));
    }
    if let Some(body) = &response.body {
        output.line("");
        output.line(body.as_str());
    }
    Ok(())
}

fn response_table(response: &Response) -> Table {
    let mut table = Table::new(&["", ""]);
    table.row(["request", &response.identity().to_string()]);
    table.row(["status", response.status.as_str()]);
    if let Some(problem) = &response.error {
        table.row(["error", &problem.to_string()]);
        table.row(["retryable", if problem.retryable { "yes" } else { "no" }]);
    }
    table.row(["asked for", &response.requested_model]);
    if let (Some(provider), Some(model)) = (&response.provider, &response.model) {
        table.row(["answered by", &format!("{provider}/{model}")]);
    }
    let usage = &response.usage;
    table.row(["cost", &response.cost_nano_usd.to_string()]);
    table.row(["tokens", &format!("{} in, {} out", usage.input_tokens, usage.output_tokens)]);
    let timing = &response.timing;
    table.row(["accepted", &timing.accepted_at.to_rfc3339()]);
    table.row([
        "took".to_owned(),
        format!(
            "{} ({} queued, {} at providers)",
            duration::show_ms(timing.total_ms),
            duration::show_ms(timing.queued_ms),
            duration::show_ms(timing.provider_ms)
        ),
    ]);
    table
}

pub(crate) fn attempts_table(attempts: &[tollgate_protocol::response::Attempt]) -> Table {
    let mut table = Table::new(&[">attempt", "provider", "model", "started", ">took", "outcome", ">cost"]);
    for attempt in attempts {
        let outcome = format!("{:?}", attempt.outcome).to_lowercase();
        table.row([
            attempt.number.to_string(),
            attempt.provider.clone(),
            attempt.model.clone(),
            attempt.started_at.to_rfc3339(),
            duration::show_ms(attempt.duration_ms),
            attempt.code.map_or(outcome.clone(), |code| format!("{outcome}: {code}")),
            attempt.cost_nano_usd.to_string(),
        ]);
    }
    table
}

async fn show_entry(bus: &Bus, message: &Stored, output: &Output) -> Result<(), Failure> {
    let entry: Entry = serde_json::from_slice(&message.payload)
        .map_err(|error| Failure::failed(format!("{} cannot be read: {error}", message.subject)))?;
    let identity = message.subject.splitn(3, '.').nth(2).unwrap_or_default();
    let known = Identity::from_tokens(identity);
    let (found, events) = match (&known, &entry) {
        (Some(known), Entry::Ended(_)) => {
            (whereabouts::find(bus, known).await?, whereabouts::events(bus, known).await?)
        }
        (Some(known), Entry::Started(_)) => (None, whereabouts::events(bus, known).await?),
        (None, _) => (None, Vec::new()),
    };
    if output.json {
        let entry = serde_json::to_value(&entry).unwrap_or(Value::Null);
        let place = found.map(|found| found.json);
        output.json(
            &json!({"request": identity, "answered": false, "record": entry, "where": place, "events": events}),
        );
        return Ok(());
    }
    let (lines, history) = match &entry {
        Entry::Started(started) => (started_lines(started), &started.history),
        Entry::Ended(ended) => (ended_lines(ended), &ended.history),
    };
    let mut table = Table::new(&["", ""]);
    table.row(["request", identity]);
    for (name, text) in lines {
        table.row([name, &text]);
    }
    if let Some(found) = &found {
        table.row(["now", &found.text]);
        may_wait(found, &mut table);
    }
    output.table(&table);
    if !history.is_empty() {
        output.line("");
        output.table(&attempts_table(history));
    }
    if !events.is_empty() {
        let mut table = Table::new(&["time", "event", "what"]);
        for event in &events {
            let text = |name: &str| event[name].as_str().unwrap_or_default();
            table.row([text("time"), text("kind"), text("message")]);
        }
        output.line("");
        output.table(&table);
    }
    Ok(())
}

fn may_wait(found: &whereabouts::Whereabouts, table: &mut Table) {
    for reason in &found.may_wait {
        table.row(["may wait", &reason.text]);
    }
}

fn started_lines(started: &Started) -> Vec<(&'static str, String)> {
    vec![
        ("status", format!("attempt {} is running, or its worker was lost", started.attempt)),
        ("provider", format!("{}/{}", started.provider, started.model)),
        ("since", started.started_at.to_rfc3339()),
        ("worker", started.owner.clone()),
        ("estimate", started.estimate.cost_nano_usd.to_string()),
        ("deadline", started.deadline.to_rfc3339()),
    ]
}

fn ended_lines(ended: &Ended) -> Vec<(&'static str, String)> {
    let next = match &ended.next {
        Next::Retry { delay_ms } => format!("it is tried again after {}", duration::show_ms(*delay_ms)),
        Next::Fallback { target } => format!("it goes on to target {}", target + 1),
        Next::Later { at } => format!("it waits until {}", at.to_rfc3339()),
        Next::Hold => "no target of it is up, and it waits until one is".to_owned(),
    };
    let over = match ended.attempt {
        0 => "it was not called yet".to_owned(),
        number => format!("attempt {number} is over"),
    };
    vec![("status", format!("{over}; {next}")), ("deadline", ended.deadline.to_rfc3339())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns_of(id: &str, team: Option<&str>, group: Option<&str>) -> String {
        let args = ShowArgs {
            id: id.into(),
            at: At { prefix: "llm".into() },
            team: team.map(Into::into),
            group: group.map(Into::into),
        };
        patterns(&args).map_or_else(|failure| failure.message, |patterns| patterns.join(" "))
    }

    #[test]
    fn a_request_is_found_by_whatever_is_known_of_it() {
        let default = |custom_id| {
            let (team, group) = (plan::default_team().unwrap(), plan::parse_group("g").unwrap());
            format!("default.g.{}", batch::request_id(&team, &group, custom_id))
        };
        for (id, team, group, expected) in [
            ("a", None, None, "*.*.a"),
            ("a", Some("t"), None, "t.*.a"),
            ("t.g.a", None, None, "t.g.a"),
            ("seq-7", Some("t"), Some("_"), "t._.seq-7"),
            ("my id!", Some("t"), Some("g"), "t.g.f69808f2-03fa-5ea4-8074-3bb607577e43"),
            ("my id!", None, Some("g"), &default("my id!")),
            ("a", None, Some("g"), &format!("*.g.a {}", default("a"))),
            ("a", Some("*"), None, "--team: expected 1 to 64 characters of A-Z a-z 0-9 _ -"),
            ("seq-x", None, None, "\"seq-x\" is not an id. For a custom_id of a batch, give --group as well"),
            (">", None, None, "\">\" is not an id. For a custom_id of a batch, give --group as well"),
        ] {
            assert_eq!(patterns_of(id, team, group), expected, "{id}");
        }
    }
}
