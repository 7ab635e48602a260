//! What a batch came to.

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use tollgate_protocol::{Group, NanoUsd, Team, TokenUsage};

use super::batch::Tally;
use super::duration;
use super::files::Finished;
use super::plan::Plan;
use crate::output::{Output, Table};

/// The end of `submit` and `collect`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    team: Team,
    group: Group,
    /// Requests, as far as known.
    total: u64,
    succeeded: u64,
    failed: u64,
    /// Without an answer yet; only after `collect`.
    missing: u64,
    /// Answered before this command sent anything.
    answered_earlier: u64,
    cost_nano_usd: NanoUsd,
    usage: TokenUsage,
    duration_ms: u64,
    requests_per_second: f64,
    out: String,
    errors: Option<String>,
    removed: Option<String>,
}

impl Summary {
    /// Of a plan that is done.
    pub(crate) fn new(plan: &Plan, tally: Tally, earlier: u64, files: Finished, took: Duration) -> Self {
        Self::of(&plan.team, &plan.group, plan.len() as u64, tally, earlier, files, took)
    }

    /// Of whatever was found in a group.
    pub(crate) fn of(
        team: &Team,
        group: &Group,
        total: u64,
        tally: Tally,
        earlier: u64,
        files: Finished,
        took: Duration,
    ) -> Self {
        let new = tally.answered().saturating_sub(earlier);
        let seconds = took.as_secs_f64().max(0.001);
        #[expect(clippy::cast_precision_loss, reason = "a rate that is only shown")]
        let rate = (new as f64 / seconds * 10.0).round() / 10.0;
        Self {
            team: team.clone(),
            group: group.clone(),
            total,
            succeeded: tally.succeeded,
            failed: tally.failed,
            missing: total.saturating_sub(tally.answered()),
            answered_earlier: earlier,
            cost_nano_usd: tally.cost_nano_usd,
            usage: tally.usage,
            duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            requests_per_second: rate,
            out: files.out.display().to_string(),
            errors: files.errors.map(|path| path.display().to_string()),
            removed: files.removed.map(|path| path.display().to_string()),
        }
    }

    /// 0 if every request succeeded.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(u8::from(self.failed > 0 || self.missing > 0))
    }

    /// Prints it.
    pub(crate) fn print(&self, output: &Output) {
        if output.json {
            output.json(self);
        } else {
            output.table(&self.table());
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["", ""]);
        let tokens = format!(
            "{} in ({} cached), {} out ({} reasoning)",
            self.usage.input_tokens,
            self.usage.cached_input_tokens,
            self.usage.output_tokens,
            self.usage.reasoning_tokens
        );
        table.row(["group", self.group.as_str()]);
        table.row(["requests", &self.total.to_string()]);
        table.row(["succeeded", &self.succeeded.to_string()]);
        table.row(["failed", &self.failed.to_string()]);
        if self.missing > 0 {
            table.row(["not answered yet", &self.missing.to_string()]);
        }
        if self.answered_earlier > 0 {
            table.row(["answered earlier", &self.answered_earlier.to_string()]);
        }
        table.row(["cost", &self.cost_nano_usd.to_string()]);
        table.row(["tokens", &tokens]);
        let took = duration::show_ms(self.duration_ms);
        table.row(["took", &format!("{took}, {}/s", self.requests_per_second)]);
        table.row(["answers", &self.out]);
        match (&self.errors, &self.removed) {
            (Some(errors), _) => table.row(["failures", errors]),
            (None, Some(removed)) => table.row(["failures", &format!("none; removed the earlier {removed}")]),
            (None, None) => {}
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(failed: u64, errors: Option<&str>, removed: Option<&str>) -> Summary {
        let usage = TokenUsage {
            input_tokens: 1_000,
            cached_input_tokens: 10,
            output_tokens: 500,
            ..TokenUsage::default()
        };
        let tally = Tally { succeeded: 7, failed, cost_nano_usd: NanoUsd(1_230_000), usage };
        let files = Finished {
            out: "a.out.jsonl".into(),
            errors: errors.map(Into::into),
            removed: removed.map(Into::into),
        };
        let (team, group) = (Team::parse("t").unwrap(), Group::parse("b-1").unwrap());
        Summary::of(&team, &group, 8, tally, 2, files, Duration::from_millis(1_500))
    }

    #[test]
    fn a_summary_for_people() {
        insta::assert_snapshot!(summary(1, Some("a.errors.jsonl"), None).table().render(false, false), @r"
        group             b-1
        requests          8
        succeeded         7
        failed            1
        answered earlier  2
        cost              $0.00123
        tokens            1000 in (10 cached), 500 out (0 reasoning)
        took              1.5 s, 4/s
        answers           a.out.jsonl
        failures          a.errors.jsonl
        ");
        insta::assert_snapshot!(summary(0, None, Some("a.errors.jsonl")).table().render(false, false), @r"
        group             b-1
        requests          8
        succeeded         7
        failed            0
        not answered yet  1
        answered earlier  2
        cost              $0.00123
        tokens            1000 in (10 cached), 500 out (0 reasoning)
        took              1.5 s, 3.3/s
        answers           a.out.jsonl
        failures          none; removed the earlier a.errors.jsonl
        ");
    }

    #[test]
    fn a_summary_for_programs() {
        insta::assert_snapshot!(serde_json::to_string(&summary(1, None, None)).unwrap(), @r#"{"team":"t","group":"b-1","total":8,"succeeded":7,"failed":1,"missing":0,"answered_earlier":2,"cost_nano_usd":1230000,"usage":{"input_tokens":1000,"cached_input_tokens":10,"output_tokens":500,"reasoning_tokens":0},"duration_ms":1500,"requests_per_second":4.0,"out":"a.out.jsonl","errors":null,"removed":null}"#);
    }
}
