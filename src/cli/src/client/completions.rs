//! `tollgate completions`: for the shell.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;

/// Print completions for a shell, to be put where it looks for them
#[derive(Clone, Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// bash, zsh, fish, elvish or powershell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// Runs the command.
pub(crate) fn run(args: CompletionsArgs) -> ExitCode {
    clap_complete::generate(args.shell, &mut Cli::command(), "tollgate", &mut std::io::stdout());
    ExitCode::SUCCESS
}
