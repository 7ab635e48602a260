//! Rules that can be broken on purpose, to see that the simulation notices: those that stand in the order of the
//! shells' steps. Rules of the policy are broken by patches, in `scripts/mutants/sim/`.

/// A broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A router acknowledges a request before its dispatch is stored.
    RouterAcksFirst,
    /// A worker acknowledges a message before the hand-over is stored.
    WorkerAcksFirst,
    /// A worker calls without a claim.
    NoClaim,
    /// A worker does not repeat the usage of the call before.
    UsageNotRepeated,
    /// What a call cost that was cut by its deadline is told a second after the response.
    CutCallCountedLate,
    /// A router writes how a request ended without the fence.
    EndNotFenced,
    /// A router counts on what another one reserved without taking it over first.
    TriesNotTakenOver,
}

impl Bug {
    /// All of them, by name.
    pub const ALL: [(&'static str, Self); 7] = [
        ("router-acks-first", Self::RouterAcksFirst),
        ("worker-acks-first", Self::WorkerAcksFirst),
        ("no-claim", Self::NoClaim),
        ("usage-not-repeated", Self::UsageNotRepeated),
        ("cut-call-counted-late", Self::CutCallCountedLate),
        ("end-not-fenced", Self::EndNotFenced),
        ("tries-not-taken-over", Self::TriesNotTakenOver),
    ];

    /// By its name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, bug)| *bug)
    }
}
