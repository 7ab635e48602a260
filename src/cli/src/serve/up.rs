//! `tollgate up`: every role in one process, with a nats-server of its own unless one was named.

use tokio::net::TcpListener;
use tollgate_telemetry::Role;

use crate::args::{self, Global, UP_LISTEN};
use crate::failure::Failure;
use crate::output::{Output, Tone};
use crate::serve::banner::{self, Shown};
use crate::serve::data::Data;
use crate::serve::nats::{self, NatsServer};
use crate::serve::process;
use crate::serve::{ready, settings, signals::Signals};

/// Which nats-server to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server<'a> {
    Own { port: Option<u16> },
    Named(&'a str),
}

/// Runs everything until a signal.
pub(crate) async fn up(args: &args::Up, global: &Global) -> Result<(), Failure> {
    let server = choose(args.nats_port, global.connect.named_server(), args.server_typed)?;
    let mut signals = Signals::new()?;
    let loaded = settings::load(global.config.as_deref())?;
    let listener = listen(args.listen.as_deref()).await?;
    let data = Data::open(&args.data)?;
    // Before anything is counted.
    process::install_metrics()?;

    let own = match server {
        Server::Named(_) => None,
        Server::Own { port } => {
            let options = nats::Options {
                program: args.nats_server.clone(),
                port,
                store_max: args.nats_store_max.clone(),
                durability: loaded.settings.durability,
            };
            let starting = NatsServer::start(&options, &data);
            tokio::select! {
                server = starting => Some(server?),
                () = signals.next() => return Ok(()),
            }
        }
    };
    let connect = match &own {
        // Ours knows no users, whatever the environment says about those of others.
        Some(own) => tollgate_bus::ConnectSettings { server: own.url().to_owned(), ..Default::default() },
        None => global.connect.settings("tollgate"),
    };
    let plan = process::Plan {
        roles: Role::ALL.to_vec(),
        settings: loaded.settings,
        own: loaded.own,
        connect: tollgate_bus::ConnectSettings { name: "tollgate".to_owned(), ..connect },
        listener,
        data: data.folder().to_owned(),
    };
    let output = Output::new(global.json);
    let nats_log = own.is_some().then(|| data.nats_log());
    let ended = process::run(plan, &mut signals, |addresses, settings, version| {
        if global.json {
            return output.line(ready::line(None, addresses));
        }
        let config = loaded.file.as_deref();
        let shown = Shown { addresses, settings, config, version, nats_log: nats_log.as_deref() };
        output.line(banner::text(&shown, |text| output.paint(text, Tone::Good)));
    })
    .await;
    if let Some(own) = own {
        own.stop().await;
    }
    ended
}

/// What was typed counts more than what is in the environment; two typed options that exclude each other
/// are refused.
fn choose(nats_port: Option<u16>, named: Option<&str>, typed: bool) -> Result<Server<'_>, Failure> {
    match (nats_port, named) {
        (Some(_), Some(_)) if typed => Err(Failure::usage(
            "--server uses a nats-server that runs already, --nats-port is for one of our own: give one of them",
        )),
        (None, Some(server)) => Ok(Server::Named(server)),
        (port, _) => Ok(Server::Own { port }),
    }
}

/// On the address that was asked for, else on the usual one, else anywhere: the banner tells.
async fn listen(asked: Option<&str>) -> Result<TcpListener, Failure> {
    if let Some(address) = asked {
        return process::listen(address).await;
    }
    match TcpListener::bind(UP_LISTEN).await {
        Ok(listener) => Ok(listener),
        Err(_) => process::listen("127.0.0.1:0").await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_typed_counts_more_than_the_environment() {
        assert_eq!(choose(None, None, false), Ok(Server::Own { port: None }));
        assert_eq!(choose(Some(0), None, false), Ok(Server::Own { port: Some(0) }));
        assert_eq!(choose(None, Some("nats://x"), false), Ok(Server::Named("nats://x")));
        assert_eq!(choose(None, Some("nats://x"), true), Ok(Server::Named("nats://x")));
        assert_eq!(choose(Some(0), Some("nats://x"), false), Ok(Server::Own { port: Some(0) }));
        assert!(choose(Some(0), Some("nats://x"), true).is_err());
    }
}
