//! What may stand on the command line. The arguments of the client's commands are next to those commands.

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use tollgate_bus::ConnectSettings;
use tollgate_telemetry::{Format, Role};

use crate::client;

/// Where a nats-server listens unless told otherwise.
pub(crate) const NATS_URL: &str = "nats://127.0.0.1:4222";
/// The port of that address.
pub(crate) const NATS_PORT: u16 = 4222;
/// Where `up` serves HTTP if that is free and nothing was asked for.
pub(crate) const UP_LISTEN: &str = "127.0.0.1:8080";

/// A durable broker for LLM requests over NATS JetStream
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, propagate_version = true, subcommand_required = true)]
#[command(after_help = "Exit codes: 0 done, 1 some requests failed, 2 usage or configuration error, \
    3 the broker could not be reached.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    #[command(flatten)]
    pub(crate) connect: Connect,
    /// The configuration; without it ./tollgate.toml, and without that the built-in simulator
    #[arg(long, global = true, env = "TOLLGATE_CONFIG", value_name = "FILE", value_parser = path(), help_heading = "Options")]
    pub(crate) config: Option<PathBuf>,
    /// Write results as JSON
    #[arg(long, global = true, help_heading = "Options")]
    pub(crate) json: bool,
    /// What to log to standard error: a level, or a list such as info,tollgate_router=debug
    #[arg(long, global = true, env = "RUST_LOG", value_name = "FILTER", help_heading = "Logs")]
    pub(crate) log: Option<String>,
    /// How log lines look
    #[arg(long, global = true, value_enum, default_value = "human", value_name = "FORMAT")]
    #[arg(env = "TOLLGATE_LOG_FORMAT", help_heading = "Logs")]
    pub(crate) log_format: LogFormat,
}

/// How to reach the nats-server; names and variables are those of the `nats` command line.
#[derive(Clone, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connect {
    /// The nats-server, or several with commas [default: nats://127.0.0.1:4222]
    #[arg(short, long, global = true, env = "NATS_URL", value_name = "URL", hide_env_values = true)]
    pub(crate) server: Option<String>,
    /// A credentials file
    #[arg(long, global = true, env = "NATS_CREDS", value_name = "FILE", value_parser = path())]
    pub(crate) creds: Option<PathBuf>,
    /// A user name
    #[arg(long, global = true, env = "NATS_USER", value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// The user's password
    #[arg(long, global = true, env = "NATS_PASSWORD", value_name = "TEXT", hide_env_values = true)]
    pub(crate) password: Option<String>,
    /// A token in place of user and password
    #[arg(long, global = true, env = "NATS_TOKEN", value_name = "TEXT", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Certificate authorities to trust, PEM
    #[arg(long, global = true, env = "NATS_CA", value_name = "FILE", value_parser = path())]
    pub(crate) tlsca: Option<PathBuf>,
    /// Our certificate, PEM
    #[arg(long, global = true, env = "NATS_CERT", value_name = "FILE", value_parser = path())]
    pub(crate) tlscert: Option<PathBuf>,
    /// The certificate's key, PEM
    #[arg(long, global = true, env = "NATS_KEY", value_name = "FILE", value_parser = path())]
    pub(crate) tlskey: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything in one process, with a nats-server of its own unless --server names one
    Up(Up),
    /// Run one part of the broker
    Run(Run),
    /// Run a provider that costs nothing: an OpenAI-compatible HTTP server
    Simulator(Simulator),
    /// Look after the ledger's folder
    Ledger(Ledger),
    #[command(flatten)]
    Client(client::Command),
}

/// `tollgate up`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Up {
    /// The folder of the ledger and of the own nats-server
    #[arg(long, env = "TOLLGATE_DATA", value_name = "DIR", default_value = ".tollgate")]
    pub(crate) data: PathBuf,
    /// The port of the own nats-server; 0 takes a free one [default: 4222]
    #[arg(long, value_name = "PORT")]
    pub(crate) nats_port: Option<u16>,
    /// The own nats-server's program; without it the one on the PATH, or .tools/nats-server
    #[arg(long, env = "TOLLGATE_NATS_SERVER", value_name = "FILE", value_parser = path())]
    pub(crate) nats_server: Option<PathBuf>,
    /// What the own nats-server may take on disk
    #[arg(long, value_name = "SIZE", default_value = crate::serve::NATS_STORE_MAX, value_parser = store_size)]
    pub(crate) nats_store_max: String,
    /// Where to serve /metrics and /healthz; port 0 takes a free one [default: 127.0.0.1:8080, or a free port]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// Whether --server was typed, and not taken from the environment.
    #[arg(skip)]
    pub(crate) server_typed: bool,
}

/// `tollgate run`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Run {
    /// Which part
    #[arg(value_enum)]
    pub(crate) role: RoleName,
    /// Where to serve /metrics and /healthz; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub(crate) listen: String,
    /// The folder of the ledger
    #[arg(long, env = "TOLLGATE_DATA", value_name = "DIR", default_value = ".tollgate")]
    pub(crate) data: PathBuf,
}

/// `tollgate simulator`.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Simulator {
    #[command(subcommand)]
    pub(crate) command: Option<SimulatorCommand>,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8089")]
    pub(crate) listen: String,
    /// Time to the first token
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) first_token_ms: u64,
    /// Time to each further token; may have a fraction
    #[arg(long, value_name = "N", default_value_t = 0.0)]
    pub(crate) per_token_ms: f64,
    /// The share of calls that fail, 0 to 1
    #[arg(long, value_name = "R", default_value_t = 0.0)]
    pub(crate) fail_rate: f64,
    /// The HTTP status they fail with, 400 to 599
    #[arg(long, value_name = "S", default_value_t = 503)]
    pub(crate) fail_status: u16,
    /// The same seed fails the same calls
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Let callers from other machines use the control paths (/__sim/...) too
    #[arg(long)]
    pub(crate) open_control: bool,
}

/// What can be done with the simulators of a running broker.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum SimulatorCommand {
    Outage(client::OutageArgs),
}

/// `tollgate ledger`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Ledger {
    #[command(subcommand)]
    pub(crate) command: LedgerCommand,
}

/// What can be done with the ledger's folder.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Delete the totals and make them anew from the stored usage events; stop the ledger first
    Rebuild {
        /// The folder that `up` or `run ledger` has as --data
        #[arg(long, env = "TOLLGATE_DATA", value_name = "DIR", default_value = ".tollgate")]
        data: PathBuf,
        /// Go on even if the oldest usage events have aged out; the new totals then lack them
        #[arg(long)]
        accept_aged: bool,
        /// As for `up`: the program of the own nats-server, which is started unless --server names one
        #[arg(long, env = "TOLLGATE_NATS_SERVER", value_name = "FILE", value_parser = path())]
        nats_server: Option<PathBuf>,
    },
}

/// A part of the broker, as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleName {
    /// Admits, orders and routes requests
    Router,
    /// Calls the providers
    Worker,
    /// Folds usage into money
    Ledger,
    /// Serves plain NATS request/reply
    Ask,
}

/// How log lines look, as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Human,
    /// One JSON object a line
    Json,
}

impl Cli {
    /// Reads the command line.
    pub(crate) fn read<I>(arguments: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator,
        I::Item: Into<std::ffi::OsString> + Clone,
    {
        let matches = Self::command().try_get_matches_from(arguments)?;
        let mut cli = Self::from_arg_matches(&matches)?;
        if let Command::Up(up) = &mut cli.command {
            up.server_typed = matches.subcommand().is_some_and(|(_, up)| typed(up, "server"));
        }
        Ok(cli)
    }
}

fn typed(matches: &ArgMatches, name: &str) -> bool {
    matches.value_source(name) == Some(clap::parser::ValueSource::CommandLine)
}

impl Connect {
    /// The server that was named, if one was. A variable that is set to nothing names none.
    pub(crate) fn named_server(&self) -> Option<&str> {
        self.server.as_deref().map(str::trim).filter(|server| !server.is_empty())
    }

    /// How to connect to the server that was named, or to the default one; `name` is shown in the server's
    /// reports.
    pub(crate) fn settings(&self, name: &str) -> ConnectSettings {
        self.settings_for(self.named_server().unwrap_or(NATS_URL), name)
    }

    /// The same, to this server.
    pub(crate) fn settings_for(&self, server: &str, name: &str) -> ConnectSettings {
        let text = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
        let file = |value: &Option<PathBuf>| value.clone().filter(|path| !path.as_os_str().is_empty());
        ConnectSettings {
            server: server.to_owned(),
            name: name.to_owned(),
            creds: file(&self.creds),
            user: text(&self.user).map(|user| (user, self.password.clone().unwrap_or_default())),
            token: text(&self.token),
            tls_ca: file(&self.tlsca),
            tls_cert: file(&self.tlscert),
            tls_key: file(&self.tlskey),
        }
    }
}

/// Passwords do not belong into logs, and an address may have one in it.
impl std::fmt::Debug for Connect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connect")
            .field("creds", &self.creds)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Router => Self::Router,
            RoleName::Worker => Self::Worker,
            RoleName::Ledger => Self::Ledger,
            RoleName::Ask => Self::Ask,
        }
    }
}

impl From<LogFormat> for Format {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Human => Self::Human,
            LogFormat::Json => Self::Json,
        }
    }
}

/// A path that may be empty: that is what a variable looks like that somebody took away.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// Such as 500MB, 10GB or 2TB: what the nats-server reads.
fn store_size(text: &str) -> Result<String, String> {
    let digits = text.trim_end_matches(|character: char| !character.is_ascii_digit());
    let plain = !digits.is_empty() && digits.len() <= 12 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain && digits.bytes().any(|byte| byte != b'0') && ["MB", "GB", "TB"].contains(&&text[digits.len()..])
    {
        Ok(text.to_owned())
    } else {
        Err("expected a size such as 500MB, 10GB or 2TB".to_owned())
    }
}

#[cfg(test)]
mod tests;
