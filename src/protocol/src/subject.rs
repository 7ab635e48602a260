//! Subjects are built and parsed here, and nowhere else.
//!
//! `llm` is the prefix of the defaults; every subject and stream name follows the configured one.

use crate::budget::Counter;
use crate::{Group, Identity, Priority, Team};

/// Lanes per priority. A team's requests are all in one lane, which the server computes.
pub const LANES: u32 = 16;

/// Builds every subject and stream name of one installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subjects {
    prefix: String,
}

/// The prefix is not one lower-case token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to 32 characters of a-z 0-9 _ -")]
pub struct InvalidPrefix;

impl Default for Subjects {
    fn default() -> Self {
        Self { prefix: "llm".into() }
    }
}

impl Subjects {
    /// Subjects under `prefix`.
    pub fn new(prefix: &str) -> Result<Self, InvalidPrefix> {
        let allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
        if (1..=32).contains(&prefix.len()) && prefix.bytes().all(allowed) {
            Ok(Self { prefix: prefix.into() })
        } else {
            Err(InvalidPrefix)
        }
    }

    /// The prefix.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A stream's name: `LLM_<kind>`.
    pub fn stream(&self, kind: &str) -> String {
        format!("{}_{kind}", self.prefix.to_ascii_uppercase())
    }

    /// The stream of a provider's dispatch messages.
    pub fn dispatch_stream(&self, provider: &str) -> String {
        self.stream(&format!("DISPATCH_{provider}"))
    }

    /// Any subject under the prefix.
    pub fn under(&self, rest: &str) -> String {
        format!("{}.{rest}", self.prefix)
    }

    /// Where clients publish.
    pub fn request(&self, team: &Team, priority: Priority) -> String {
        format!("{}.req.{team}.{priority}", self.prefix)
    }

    /// Where one lane of requests is stored.
    pub fn lane_filter(&self, priority: Priority, lane: u32) -> String {
        format!("{}.lane.{priority}.{lane}.*", self.prefix)
    }

    /// Reads (priority, team) from a stored request's subject.
    pub fn parse_lane<'a>(&self, subject: &'a str) -> Option<(Priority, &'a str)> {
        parse_queue(self.rest(subject, "lane")?)
    }

    /// Where a provider's work is stored.
    pub fn dispatch(&self, provider: &str, priority: Priority) -> String {
        format!("{}.dispatch.{provider}.{priority}", self.prefix)
    }

    /// Everything in the lanes.
    pub fn lanes_all(&self) -> String {
        format!("{}.lane.>", self.prefix)
    }

    /// The provider of a dispatch stream's name.
    pub fn parse_dispatch_stream<'a>(&self, stream: &'a str) -> Option<&'a str> {
        stream.strip_prefix(self.dispatch_stream("").as_str())
    }

    /// All of a provider's work.
    pub fn dispatch_filter(&self, provider: &str) -> String {
        format!("{}.dispatch.{provider}.*", self.prefix)
    }

    /// What is due again, in the lane of its team.
    pub fn retry_due(&self, priority: Priority, team: &Team) -> String {
        format!("{}.retry.due.{priority}.{}.{team}", self.prefix, lane_of(team))
    }

    /// One lane of what is due again.
    pub fn retry_due_filter(&self, priority: Priority, lane: u32) -> String {
        format!("{}.retry.due.{priority}.{lane}.*", self.prefix)
    }

    /// Reads (priority, team) from a due message's subject.
    pub fn parse_retry_due<'a>(&self, subject: &'a str) -> Option<(Priority, &'a str)> {
        parse_queue(self.rest(subject, "retry")?.strip_prefix("due.")?)
    }

    /// Everything that is due again.
    pub fn retry_due_all(&self) -> String {
        format!("{}.retry.due.>", self.prefix)
    }

    /// Where a request of the team waits until a target of it is up. No consumer takes from here.
    pub fn retry_hold(&self, priority: Priority, team: &Team) -> String {
        format!("{}.retry.hold.{priority}.{}.{team}", self.prefix, lane_of(team))
    }

    /// Everything that waits until a target is up.
    pub fn retry_hold_all(&self) -> String {
        format!("{}.retry.hold.>", self.prefix)
    }

    /// Reads (priority, team) from a held message's subject.
    pub fn parse_retry_hold<'a>(&self, subject: &'a str) -> Option<(Priority, &'a str)> {
        parse_queue(self.rest(subject, "retry")?.strip_prefix("hold.")?)
    }

    /// All schedules of one request.
    pub fn retry_at_all(&self, identity: &Identity) -> String {
        format!("{}.retry.at.{identity}.*", self.prefix)
    }

    /// A schedule of its own for one hand-over. `token` tells it from others of the same request.
    pub fn retry_at(&self, identity: &Identity, token: &str) -> String {
        format!("{}.retry.at.{identity}.{token}", self.prefix)
    }

    /// The run record of a request.
    pub fn run(&self, identity: &Identity) -> String {
        format!("{}.run.{identity}", self.prefix)
    }

    /// The terminal response of a request.
    pub fn response(&self, identity: &Identity) -> String {
        format!("{}.res.{identity}", self.prefix)
    }

    /// Run record and response together: what the fence expects the last sequence over.
    pub fn record(&self, identity: &Identity) -> String {
        format!("{}.*.{identity}", self.prefix)
    }

    /// The responses of a group, as the server republishes them once stored.
    pub fn live_responses(&self, team: &Team, group: &Group) -> String {
        format!("{}.live.res.{team}.{group}.>", self.prefix)
    }

    /// All responses.
    pub fn responses(&self) -> String {
        format!("{}.res.*.*.*", self.prefix)
    }

    /// Reads the identity from a stored response's subject.
    pub fn parse_response(&self, subject: &str) -> Option<Identity> {
        Identity::from_tokens(self.rest(subject, "res")?)
    }

    /// Where clients take a request back.
    pub fn cancel(&self, identity: &Identity) -> String {
        format!("{}.cancel.{identity}", self.prefix)
    }

    /// Every request that is taken back.
    pub fn cancels(&self) -> String {
        format!("{}.cancel.*.*.*", self.prefix)
    }

    /// Reads the identity from a cancellation's subject.
    pub fn parse_cancel(&self, subject: &str) -> Option<Identity> {
        Identity::from_tokens(self.rest(subject, "cancel")?)
    }

    /// The dead letter of a request.
    pub fn dead(&self, identity: &Identity) -> String {
        format!("{}.dead.{identity}", self.prefix)
    }

    /// Every dead letter.
    pub fn dead_all(&self) -> String {
        format!("{}.dead.*.*.*", self.prefix)
    }

    /// Reads the identity from a dead letter's subject.
    pub fn parse_dead(&self, subject: &str) -> Option<Identity> {
        Identity::from_tokens(self.rest(subject, "dead")?)
    }

    /// Where a process of a role says that it is there.
    pub fn presence(&self, role: &str, process: &str) -> String {
        format!("{}.presence.{role}.{process}", self.prefix)
    }

    /// Where routers are asked about a request that they may have in hand or in their index.
    pub fn router_question(&self) -> String {
        format!("{}.router.find", self.prefix)
    }

    /// Usage events of one team, provider and model.
    pub fn usage(&self, team: &Team, provider: &str, model: &str) -> String {
        format!("{}.usage.{}.{}.{}", self.prefix, token(team.as_str()), token(provider), token(model))
    }

    /// All usage events, as the server republishes them once stored.
    pub fn live_usage(&self) -> String {
        format!("{}.live.usage.>", self.prefix)
    }

    /// The numbers of one cell of a limit of requests per minute.
    pub fn pace(&self, limit: &str, cell: &str) -> String {
        format!("{}.pace.{limit}.{cell}", self.prefix)
    }

    /// One window of a budget.
    pub fn budget(&self, counter: &Counter) -> String {
        format!("{}.budget.{}.{}", self.prefix, counter.budget, counter.window)
    }

    /// Reads the counter from its subject.
    pub fn parse_budget(&self, subject: &str) -> Option<Counter> {
        let (budget, window) = self.rest(subject, "budget")?.split_once('.')?;
        Some(Counter { budget: budget.to_owned(), window: window.to_owned() })
    }

    /// Lifecycle events.
    pub fn event(&self, team: &Team, kind: &str) -> String {
        format!("{}.event.{}.{kind}", self.prefix, token(team.as_str()))
    }

    /// Events about a provider, which concern all teams.
    pub fn provider_event(&self, kind: &str) -> String {
        format!("{}.event._.{kind}", self.prefix)
    }

    /// Events about budgets, of one team or, without one, of none in particular.
    pub fn budget_event(&self, team: Option<&Team>, kind: &str) -> String {
        let team = team.map_or("_".into(), |team| token(team.as_str()));
        format!("{}.event.{team}.{kind}", self.prefix)
    }

    /// Where the service for plain request/reply listens.
    pub fn ask_filter(&self) -> String {
        format!("{}.ask.*.*", self.prefix)
    }

    /// Reads (team, priority token) from an ask.
    pub fn parse_ask<'a>(&self, subject: &'a str) -> Option<(&'a str, &'a str)> {
        self.rest(subject, "ask")?.split_once('.')
    }

    /// Where one process answers questions about the attempts in its hands.
    pub fn owner(&self, owner: &str) -> String {
        format!("{}.owner.{owner}", self.prefix)
    }

    /// Said by workers when places of a provider became free, so that routers need not poll.
    pub fn free(&self, provider: &str) -> String {
        format!("{}.free.{provider}", self.prefix)
    }

    /// A control-plane endpoint.
    pub fn control(&self, noun: &str, verb: &str) -> String {
        format!("{}.ctl.{noun}.{verb}", self.prefix)
    }

    fn rest<'a>(&self, subject: &'a str, kind: &str) -> Option<&'a str> {
        subject.strip_prefix(self.prefix.as_str())?.strip_prefix('.')?.strip_prefix(kind)?.strip_prefix('.')
    }
}

fn parse_queue(rest: &str) -> Option<(Priority, &str)> {
    let mut tokens = rest.splitn(3, '.');
    let priority = tokens.next()?.parse().ok()?;
    tokens.next()?;
    Some((priority, tokens.next()?))
}

/// A subject token for any text: every character outside `[A-Za-z0-9_-]` is written `_`.
pub fn token(text: &str) -> String {
    if text.is_empty() {
        return "_".into();
    }
    text.chars()
        .map(|character| if character.is_ascii_alphanumeric() || character == '-' { character } else { '_' })
        .collect()
}

/// The lane of a team in the due lanes: FNV-1a, as the server's own `partition`.
pub fn lane_of(team: &Team) -> u32 {
    let hash = team
        .as_str()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash % LANES
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity() -> Identity {
        Identity::from_tokens("research.batch-1.q7").unwrap()
    }

    #[test]
    fn subjects_are_those_of_the_contract() {
        let subjects = Subjects::default();
        let team = Team::parse("research").unwrap();
        for (built, expected) in [
            (subjects.request(&team, Priority::High), "llm.req.research.high"),
            (subjects.lane_filter(Priority::Low, 3), "llm.lane.low.3.*"),
            (subjects.dispatch("openai", Priority::Normal), "llm.dispatch.openai.normal"),
            (subjects.run(&identity()), "llm.run.research.batch-1.q7"),
            (subjects.response(&identity()), "llm.res.research.batch-1.q7"),
            (subjects.record(&identity()), "llm.*.research.batch-1.q7"),
            (subjects.usage(&team, "openai", "gpt-4.1/x"), "llm.usage.research.openai.gpt-4_1_x"),
            (subjects.event(&team, "lost"), "llm.event.research.lost"),
            (subjects.stream("REQ"), "LLM_REQ"),
            (subjects.dispatch_stream("openai"), "LLM_DISPATCH_openai"),
        ] {
            assert_eq!(built, expected);
        }
    }

    #[test]
    fn what_is_built_is_parsed() {
        let subjects = Subjects::new("acme-llm").unwrap();
        let team = Team::parse("research").unwrap();
        assert_eq!(subjects.parse_response(&subjects.response(&identity())), Some(identity()));
        let due = subjects.retry_due(Priority::Low, &team);
        assert_eq!(subjects.parse_retry_due(&due), Some((Priority::Low, "research")));
        assert_eq!(subjects.parse_lane("acme-llm.lane.high.15.research"), Some((Priority::High, "research")));
        assert_eq!(subjects.parse_lane("llm.lane.high.15.research"), None);
        let held = subjects.retry_hold(Priority::Low, &team);
        assert_eq!(subjects.parse_retry_hold(&held), Some((Priority::Low, "research")));
        assert_eq!(subjects.parse_retry_due(&held), None);
        assert_eq!(subjects.parse_cancel(&subjects.cancel(&identity())), Some(identity()));
        assert_eq!(subjects.parse_dead(&subjects.dead(&identity())), Some(identity()));
        assert_eq!(subjects.parse_dispatch_stream("ACME-LLM_DISPATCH_openai"), Some("openai"));
        assert_eq!(subjects.parse_dispatch_stream("LLM_DISPATCH_openai"), None);
        assert_eq!(subjects.parse_ask("acme-llm.ask.research.high"), Some(("research", "high")));
    }

    #[test]
    fn a_prefix_is_one_token() {
        for bad in ["", "a.b", "LLM", "a b", "*", &"x".repeat(33)] {
            assert!(Subjects::new(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parsers_take_any_text(text in ".*") {
            let subjects = Subjects::default();
            let _ = subjects.parse_lane(&text);
            let _ = subjects.parse_retry_due(&text);
            let _ = subjects.parse_response(&text);
            let _ = subjects.parse_ask(&text);
            let token = token(&text);
            prop_assert!(!token.is_empty() && !token.contains(['.', '*', '>', ' ']));
        }
    }
}
