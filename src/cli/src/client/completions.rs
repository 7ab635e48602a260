//! `tollgate completions`: for the shell.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;
use crate::output::Output;

/// Print completions for a shell, to be put where it looks for them
#[derive(Clone, Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// bash, zsh, fish, elvish or powershell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// Runs the command.
pub(crate) fn run(args: CompletionsArgs, output: &Output) -> ExitCode {
    // Into memory first: the generator panics when a reader such as `head` goes away.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tollgate", &mut script);
    output.line(String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}
