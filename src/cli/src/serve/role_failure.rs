//! What the failure of a role means to whoever started it: what to repair, and with which exit code. Pure.

use std::error::Error;

use crate::failure::Failure;

pub(super) fn router(error: &tollgate_router::Error) -> Failure {
    match error {
        tollgate_router::Error::Subscribe { .. } => Failure::unreachable(whole(error)),
    }
}

pub(super) fn worker(error: &tollgate_workers::Error) -> Failure {
    match error {
        tollgate_workers::Error::Provider { .. } => Failure::usage(whole(error)),
    }
}

pub(super) fn ask(error: &tollgate_ask::Error) -> Failure {
    match error {
        tollgate_ask::Error::Start { .. } => Failure::unreachable(whole(error)),
    }
}

pub(super) fn ledger(error: &tollgate_ledger::Error) -> Failure {
    use tollgate_ledger::Error as Ledger;
    let text = whole(error);
    match error {
        Ledger::InUse(_)
        | Ledger::Unusable { .. }
        | Ledger::Folder { .. }
        | Ledger::OtherStream { .. }
        | Ledger::AgedOut { .. } => Failure::usage(text),
        Ledger::Service { .. } => Failure::unreachable(text),
        Ledger::Store(_) | Ledger::Interrupted => Failure::failed(text),
    }
}

/// An error with its causes: each says only its own part.
fn whole(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn causes_are_told() {
        let source = std::io::Error::other("the disk is full");
        let failure =
            ledger(&tollgate_ledger::Error::Folder { what: "write to", path: "/data".into(), source });
        assert_eq!(failure, Failure::usage("cannot write to /data: the disk is full"));
    }

    #[test]
    fn what_the_server_refuses_is_not_the_users_fault() {
        let error = tollgate_router::Error::Subscribe { subject: "llm.x".into(), reason: "timed out".into() };
        assert_eq!(router(&error).exit, Exit::Unreachable);
    }
}
