//! `tollgate ledger …`: the ledger is derived, so it can be made anew.

use crate::args::{Global, LedgerCommand};
use crate::failure::Failure;

/// Does what was asked for.
pub(crate) async fn ledger(command: &LedgerCommand, _global: &Global) -> Result<(), Failure> {
    let LedgerCommand::Rebuild { .. } = command;
    Err(Failure::failed("this build cannot rebuild a ledger yet"))
}
