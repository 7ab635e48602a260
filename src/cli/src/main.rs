//! The `tollgate` binary: reads the command line and puts the parts together.
//!
//! `serve` runs the broker, `client` talks to one that runs. What the user sees is printed by `output` alone.

mod args;
mod client;
mod failure;
mod output;
mod serve;

use std::process::ExitCode;
use std::time::Duration;

use args::{Cli, Command, Global};
use failure::{Exit, Failure};
use output::Output;

/// A tenth of the broker's CPU was the system allocator's (docs/benchmarks.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What still blocks a thread when all is over is given this long.
const LAST_THREADS: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, and are no error.
            let code = if error.use_stderr() { Exit::Usage as u8 } else { 0 };
            // A terminal that is gone is nothing that could be reported.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let output = Output::new(cli.global.json);
    match start(cli) {
        Ok(code) => code,
        Err(failure) => {
            output.failure(&failure.message, failure.exit as u8);
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn start(cli: Cli) -> Result<ExitCode, Failure> {
    // Several crates could bring a provider of their own; without a choice the first TLS connection panics.
    // An error says that there is one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    init_logging(&cli)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start threads: {error}")))?;
    let ended = runtime.block_on(run(cli.command, &cli.global));
    runtime.shutdown_timeout(LAST_THREADS);
    ended
}

async fn run(command: Command, global: &Global) -> Result<ExitCode, Failure> {
    match command {
        Command::Up(up) => serve::up(&up, global).await?,
        Command::Run(run) => serve::run(&run, global).await?,
        Command::Simulator(simulator) => match simulator.command {
            Some(args::SimulatorCommand::Outage(outage)) => {
                return client::outage(outage, global, &output::Output::new(global.json)).await;
            }
            None => serve::simulator(&simulator, global).await?,
        },
        Command::Ledger(ledger) => serve::ledger(&ledger.command, global).await?,
        Command::Client(command) => return client::run(command, global).await,
    }
    Ok(ExitCode::SUCCESS)
}

fn init_logging(cli: &Cli) -> Result<(), Failure> {
    let quiet = match &cli.command {
        // A person reads the banner; whoever wants the log as well asks for it.
        Command::Up(_) => !cli.global.json && std::io::IsTerminal::is_terminal(&std::io::stdout()),
        Command::Run(_) | Command::Simulator(_) => false,
        Command::Ledger(_) | Command::Client(_) => true,
    };
    let default = if quiet { "warn" } else { tollgate_telemetry::log::FILTER };
    let filter = cli.global.log.as_deref().filter(|filter| !filter.is_empty()).unwrap_or(default);
    let color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tollgate_telemetry::init_logging(cli.global.log_format.into(), filter, color)
        .map_err(|error| Failure::usage(error.to_string()))
}
