//! `tollgate ledger …`: the ledger is derived, so it can be made anew.

use std::path::Path;

use tokio_util::sync::CancellationToken;
use tollgate_bus::{Bus, ConnectSettings, Connection};
use tollgate_ledger::{Aged, Error, Rebuilt, Settings, rebuild};

use crate::args::{Global, LedgerCommand};
use crate::failure::Failure;
use crate::output::Output;
use crate::serve::data::Data;
use crate::serve::nats::{self, NatsServer};
use crate::serve::{role_failure, settings, signals::Signals};

/// Does what was asked for.
pub(crate) async fn ledger(command: &LedgerCommand, global: &Global) -> Result<(), Failure> {
    let LedgerCommand::Rebuild { data, accept_aged, nats_server } = command;
    let aged = if *accept_aged { Aged::Accept } else { Aged::Refuse };
    let mut signals = Signals::new()?;
    let loaded = settings::load(global.config.as_deref())?;
    let connect = global.connect.settings("tollgate-ledger-rebuild");

    let rebuilt = if global.connect.named_server().is_some() {
        let bus = Bus::new(Connection::open(&connect).await?, loaded.settings.subjects);
        from_usage(&bus, data, aged, &mut signals).await
    } else {
        // The stream is in the folder too: its server runs for as long as it takes.
        let data = Data::open(data)?;
        let options = nats::Options {
            program: nats_server.clone(),
            port: Some(0),
            store_max: nats::STORE_MAX.to_owned(),
            durability: loaded.settings.durability,
        };
        let server = NatsServer::start(&options, &data).await?;
        let rebuilt = own(&server, loaded.settings.subjects, data.folder(), aged, &mut signals).await;
        server.stop().await;
        rebuilt
    }?;
    show(&Output::new(global.json), &rebuilt);
    Ok(())
}

async fn own(
    server: &NatsServer,
    subjects: tollgate_protocol::subject::Subjects,
    data: &Path,
    aged: Aged,
    signals: &mut Signals,
) -> Result<Rebuilt, Failure> {
    let connect = ConnectSettings {
        server: server.url().to_owned(),
        name: "tollgate-ledger-rebuild".to_owned(),
        ..ConnectSettings::default()
    };
    let bus = Bus::new(Connection::open(&connect).await?, subjects);
    from_usage(&bus, data, aged, signals).await
}

/// Rebuilds, until a signal: then nothing is changed.
async fn from_usage(bus: &Bus, data: &Path, aged: Aged, signals: &mut Signals) -> Result<Rebuilt, Failure> {
    let stop = CancellationToken::new();
    let rebuilding = rebuild(bus, Settings::default(), data, aged, &stop);
    tokio::pin!(rebuilding);
    let rebuilt = tokio::select! {
        rebuilt = &mut rebuilding => rebuilt,
        () = signals.next() => {
            stop.cancel();
            rebuilding.await
        }
    };
    rebuilt.map_err(|error| {
        let hint = match error {
            Error::AgedOut { .. } => " (with --accept-aged)",
            _ => "",
        };
        let failure = role_failure::ledger(&error);
        Failure { message: format!("{}{hint}", failure.message), ..failure }
    })
}

fn show(output: &Output, rebuilt: &Rebuilt) {
    let now = rebuilt.state.cursor;
    let before = rebuilt.before.as_ref().map(|state| state.cursor);
    if output.json {
        output.json(&serde_json::json!({
            "rebuilt": true,
            "first_sequence": rebuilt.first_sequence,
            "last_sequence": now,
            "last_sequence_before": before,
            "cost_nano_usd": serde_json::Number::from_i128(rebuilt.state.total.cost_nano_usd),
            "same_total": rebuilt.before.as_ref().map(|state| state.total == rebuilt.state.total),
            "kept": rebuilt.kept,
        }));
        return;
    }
    output.line(format!("The ledger is rebuilt from usage events {} to {now}.", rebuilt.first_sequence));
    if let Some(old) = &rebuilt.before {
        let verdict = if old.total == rebuilt.state.total { "the same totals" } else { "other totals" };
        output.line(format!("The old one had {verdict} and ended at {}.", old.cursor));
    }
    if let Some(kept) = &rebuilt.kept {
        output.line(format!("The old one is kept in {}; delete it when you like.", kept.display()));
    }
}
